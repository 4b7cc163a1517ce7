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

from tests.ports import free_port
from tests.serving import LONG, ROOT, eventually

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

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


def two_nodes(folder: Path) -> list[subprocess.Popen[bytes]]:
    options = f"--nnodes=2 --nproc-per-node=1 --master-addr=127.0.0.1 --master-port={free_port()} --node-rank="
    return [torchrun(folder / str(node), options=f"{options}{node}") for node in (0, 1)]


def test_two_nodes_train_one_model_and_go_on_after_one_was_killed_the_second_without_data_or_output(
    tmp_path: Path,
) -> None:
    first = tmp_path / "0"
    nodes = two_nodes(tmp_path)
    try:
        eventually(lambda: "epoch   1 of 3" in log(first), nodes[0])
        ranks = [rank for node in nodes for rank in psutil.Process(node.pid).children()]
        second = next(rank for rank in ranks if rank.environ()["RANK"] == "1")
        second.send_signal(signal.SIGKILL)
        assert all(node.wait(LONG) != 0 for node in nodes)
        assert psutil.wait_procs(ranks, LONG)[1] == []
        (run,) = trainings(first)
        assert run.info.status in ("FAILED", "KILLED")
        assert "the same command goes on from here" in log(first)
        nodes += two_nodes(tmp_path)
        assert [node.wait(LONG) for node in nodes[2:]] == [0, 0], log(first) + log(tmp_path / "1")
    finally:
        for node in nodes:
            node.kill()
    (run,) = trainings(first)
    assert run.info.status == "FINISHED"
    assert run.data.tags["processes"] == "2"
    assert run.data.metrics["validation_accuracy"] > 0.5
    assert log(first).count("epoch   1 of 3") == 1
    assert "registered: digits version 1, challenger" in log(first)
    assert {path.name for path in (tmp_path / "1").iterdir()} == {"log"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("predict --input a", "torchrun starts what trains, not predict; expected one of main, train"),
        (f"{TRAIN} --seed x", "seed"),
    ],
)
def test_what_can_not_be_is_told_once(tmp_path: Path, words: str, told: str) -> None:
    assert torchrun(tmp_path / "one", words).wait(LONG) != 0
    assert sum(told in line for line in log(tmp_path / "one").splitlines() if line.startswith("error:")) == 1
