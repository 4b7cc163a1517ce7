# make train · make test · make serve: the commands a newcomer needs. Everything runs in .venv, which is made when needed.
#   make train ARGS="-P epochs=1 -P trials=2"     parameters of `mlflow run .`; pipelines/parameters.py has them all
PYTHON ?= python3
ARGS ?= -P epochs=20
VENV := .venv
BIN := $(VENV)/bin
PINS := deploy/requirements/dev.txt
READY := $(VENV)/.ready
JOBS ?= 2
HOST = 127.0.0.1
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# Otherwise BentoML and MLflow send usage statistics.
export BENTOML_DO_NOT_TRACK ?= true
export MLFLOW_DISABLE_TELEMETRY ?= true

.PHONY: train test serve ui image image-test bench bench-train bench-imaging bench-study bench-predict fuzz soak audit docs dist clean help
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

# The stamp is newer than what it was installed from, so a second call installs nothing.
$(READY): pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); PyTorch is large, this takes some minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS) --editable '.[train,dev]'
	@touch $@

train: $(READY)  ## fetch MNIST, tune, train, evaluate, register, promote, import
	@$(BIN)/mlflow run . $(ARGS)

test: $(READY)  ## ruff, mypy, pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

serve: $(READY)  ## the service on http://localhost:3000; make serve HOST=0.0.0.0: for others too
	@$(BIN)/bentoml serve service:svc --host $(HOST)

ui: $(READY)  ## MLflow's pages on http://localhost:5000
	@$(BIN)/mlflow ui

image: $(READY)  ## bentoml build and bentoml containerize
	$(BIN)/bentoml build
	$(BIN)/bentoml containerize digits:latest -t digits:latest -t digits:$(VERSION)

image-test: $(READY)  ## build the image, run it hardened, look
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash deploy/oci/with_engine.sh $(BIN)/pytest -n 0 tests/e2e/test_image.py; \
	status=$$?; if [ $$status = 77 ]; then echo "image-test: skipped, the reason is above"; else exit $$status; fi

bench: $(READY)  ## the service beside its peers, with wrk where there is one; results go to benchmarks/results
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS) --editable '.[train,dev,bench]'
	$(BIN)/python -m benchmarks.bench $(ARGS_BENCH)

bench-train: $(READY)  ## our training loop beside the plain one
	$(BIN)/python -m benchmarks.bench_train $(ARGS_BENCH)

bench-imaging: $(READY)  ## milliseconds a picture, by kind
	$(BIN)/python -m benchmarks.bench_imaging $(ARGS_BENCH)

bench-study: $(READY)  ## trials a minute with one and two processes; needs PostgreSQL
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS) --editable '.[train,dev,cluster]'
	$(BIN)/python -m benchmarks.bench_study $(ARGS_BENCH)

bench-predict: $(READY)  ## engine=local beside engine=ray; ARGS_BENCH="--model model.onnx"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS) --editable '.[train,dev,cluster]'
	$(BIN)/python -m benchmarks.bench_predict $(ARGS_BENCH)

fuzz: $(READY)  ## 20,000 damaged pictures and requests
	DIGITS_FUZZ=20000 $(BIN)/pytest -n 0 tests/e2e/test_fuzz.py

soak: $(READY)  ## four times too much load, then minutes of it, memory watched
	$(BIN)/python -m benchmarks.soak $(ARGS_SOAK)

audit: $(READY)  ## pip-audit on the pinned requirements; needs the network
	@test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'; } || \
	{ echo "audit: skipped, pip-audit can't be installed from here"; exit 0; }; \
	$(VENV)/audit/bin/python -m deploy.audit; \
	status=$$?; if [ $$status = 77 ]; then echo "audit: skipped, the reason is above"; else exit $$status; fi

docs: $(READY)  ## the documentation as pages, in site/
	$(BIN)/mkdocs build --strict

dist:  ## the source as a tarball and a zip, in dist/
	$(PYTHON) -m deploy.dist

clean:  ## what the tools left behind; neither models nor runs
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site *.egg-info
