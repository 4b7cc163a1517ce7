"""One more process for a study that was started elsewhere: takes trials from it until none is left.

The study says what to train on; this machine brings its own copy of the data and its own device.
"""

from __future__ import annotations

import socket
from typing import Any

from optuna.study import Study
from pydantic import ValidationError

from digits.data import Data
from pipelines import provenance, shared, tracking
from pipelines.errors import UserError
from pipelines.material import SEGMENTER_FILE, TrainedSegmenter, load_data, load_own, prepare
from pipelines.own import Own, fingerprint_of_all
from pipelines.parameters import Tune, Worker
from pipelines.tune import Bench, base_recipe

# What pictures and networks are made with.
MAKERS = ("torch", "numpy", "opencv-python-headless", "pillow", "matplotlib", "scikit-learn", "scipy")


def run(parameters: Worker) -> None:
    """The entry point."""
    study, facts = shared.join(
        parameters.study, parameters.wait_minutes, lambda facts: tracking.is_running(facts["run"])
    )
    print(f"joined the study {study.study_name}")
    check_code(study, facts)
    asked = asked_for(parameters, facts["parameters"])
    data, extra = load_data(asked), load_own(asked)
    check_data(study, facts, data, extra)
    material = prepare(data, asked.photographs, asked.outliers, asked.seed, extra, segmenter_of(facts), to_build=False)
    bench = Bench(material, asked, facts["job"], facts["run"], proxy=tuple(facts["proxy"]))
    default = base_recipe(len(data.train))
    done = 0

    def count(_: Study, __: object) -> None:
        nonlocal done
        done += 1

    while not shared.closed(study):
        shared.work(study, lambda trial: bench.objective(trial, default), [count])
        if not shared.unsettled(study):
            break
        shared.pause(study)  # a trial of one that dies now is ours
    print(f"nothing is left to do in {study.study_name}: {done} trials were run on {socket.gethostname()}")


def segmenter_of(facts: dict[str, Any]) -> TrainedSegmenter | None:
    """The study's own segmenter: one that this machine had trained would see other candidates. Raises UserError."""
    if facts["segmenter"] is None:
        return None
    try:
        content = tracking.read(facts["run"], f"weights/{SEGMENTER_FILE}")
    except FileNotFoundError as error:
        raise UserError(
            f"the study's segmenter can't be read from here ({error}): without a tracking server for both"
            " (MLFLOW_TRACKING_URI=http://…) its artifacts are in a folder of the machine that started it"
        ) from None
    trained = TrainedSegmenter(content, 0.0, 0.0)
    if trained.sha256 != facts["segmenter"]:
        raise UserError("the study's segmenter is not the one that it was started with; start another study")
    return trained


def asked_for(parameters: Worker, study: dict[str, Any]) -> Tune:
    """The study's parameters, with the places of this machine. Raises UserError."""
    extra = parameters.extra or study.get("extra", "")
    here = {"data_dir": parameters.data_dir, "device": parameters.device, "extra": extra}
    try:
        return Tune.model_validate(study | here)
    except ValidationError:
        raise UserError(
            f"the study learns from pictures in {extra}, which is not on this machine; name the folders that hold the"
            " same pictures here with -P extra="
        ) from None


def check_code(study: Study, facts: dict[str, Any]) -> None:
    """Raises UserError where this machine would make other pictures, or other networks of them, than the others."""
    code = provenance.code("pipelines.tune")
    if code != facts["code"]:
        raise UserError(
            f"the study {study.study_name} was started with code {facts['code']}, and this is {code};"
            " use the same version on all machines"
        )
    here, there = provenance.libraries(), facts["libraries"]
    other = [name for name in MAKERS if _release(here[name]) != _release(there[name])]
    if other:
        told = ", ".join(f"{name} {there[name]}, and here is {here[name]}" for name in other)
        raise UserError(f"the study {study.study_name} was started with {told}; install the same on all machines")


def _release(version: str) -> str:
    """A version without what it was built for: 2.14.1+cpu trains as 2.14.1 does."""
    return version.partition("+")[0]


def check_data(study: Study, facts: dict[str, Any], data: Data, extra: Own | None = None) -> None:
    """Raises UserError where this machine has other data than the others."""
    fingerprint = fingerprint_of_all(data.fingerprint, extra)
    if fingerprint != facts["fingerprint"]:
        raise UserError(
            f"the study {study.study_name} is on data with the fingerprint {facts['fingerprint'][:12]}, and what is"
            f" here has {fingerprint[:12]}; give this machine the same data, by data_dir or MNIST_ROOT, and extra"
        )
