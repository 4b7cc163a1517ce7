"""`torchrun` with two processes on this machine's CPU (gloo): one training, one result, one end for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.e2e.project import wait_until
from tests.ports import free_port

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900  # seconds until something counts as stuck
TRAIN = "train --epochs 3 --dataset digits --limit 300 --photographs 0 --outliers 40 --device cpu --recipe default"


def torchrun(
    folder: Path, words: str = TRAIN, options: str = "--standalone --nproc-per-node=2"
) -> subprocess.Popen[bytes]:
    """The command as documented, in an empty folder."""
    folder.mkdir(exist_ok=True)
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "OPTUNA"))}
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *options.split(), "-m", "pipelines", *words.split()],
            cwd=folder,
            env=known | own,
            stdout=log,
            stderr=log,
        )


def trainings(folder: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in runs if run.data.tags.get("kind") == "training"]


def log(folder: Path) -> str:
    return (folder / "log").read_text()


def test_two_nodes_train_one_model_and_the_second_needs_no_data_and_writes_nothing(tmp_path: Path) -> None:
    options = f"--nnodes=2 --nproc-per-node=1 --master-addr=127.0.0.1 --master-port={free_port()} --node-rank="
    nodes = [torchrun(tmp_path / str(node), options=f"{options}{node}") for node in (0, 1)]
    try:
        assert [node.wait(PATIENCE) for node in nodes] == [0, 0], log(tmp_path / "0") + log(tmp_path / "1")
    finally:
        for node in nodes:
            node.kill()
    (run,) = trainings(tmp_path / "0")
    assert run.info.status == "FINISHED"
    assert run.data.tags["processes"] == "2"
    assert run.data.metrics["validation_accuracy"] > 0.5
    assert "registered: digits version 1, challenger" in log(tmp_path / "0")
    assert {path.name for path in (tmp_path / "1").iterdir()} == {"log"}


def test_a_killed_process_ends_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    running = torchrun(folder)
    wait_until(lambda: "epoch   1 of 3" in log(folder), running, "an epoch")
    ranks = psutil.Process(running.pid).children()
    second = next(rank for rank in ranks if rank.environ()["RANK"] == "1")
    second.send_signal(signal.SIGKILL)
    assert running.wait(PATIENCE) != 0
    assert psutil.wait_procs(ranks, PATIENCE)[1] == []
    (run,) = trainings(folder)
    assert run.info.status in ("FAILED", "KILLED")
    assert "the same command goes on from here" in log(folder)

    assert torchrun(folder).wait(PATIENCE) == 0, log(folder)
    (run,) = trainings(folder)
    assert run.info.status == "FINISHED"
    assert log(folder).count("epoch   1 of 3") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("predict --input a", "torchrun starts what trains, not predict; expected one of main, train"),
        (f"{TRAIN} --seed x", "seed"),
    ],
)
def test_what_can_not_be_is_told_once(tmp_path: Path, words: str, told: str) -> None:
    assert torchrun(tmp_path / "one", words).wait(PATIENCE) != 0
    assert sum(told in line for line in log(tmp_path / "one").splitlines() if line.startswith("error:")) == 1
