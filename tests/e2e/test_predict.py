"""The entry point `predict` from the command to MLflow, on this machine and on a Ray cluster of which a node dies."""

from __future__ import annotations

import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models import tiny_model
from tests.serving import PATIENCE, ROOT, environment, eventually, pictures

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[cluster]'"
)
COUNT = 5_120  # so many that the end is far when the first are done
ALONE = """import signal, sys
from pathlib import Path
from pipelines import chosen, inputs, predict
if __name__ == "__main__":
    given, output, model, engine = sys.argv[1:]
    before = signal.getsignal(signal.SIGTERM)
    summary, fresh = predict.predict(inputs.find(given), chosen.find(model), Path(output), engine)
    assert signal.getsignal(signal.SIGTERM) is before, "the command does not hear the end it is asked for any more"
    print(summary.pictures, fresh)"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for runs, but for a model and a zip file with so many labelled pictures, and one that is none."""
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    some = pictures(64)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(COUNT):
            archive.writestr(f"{number % 10}/{number:05}.png", some[number % 64])
        archive.writestr("3/bad.png", b"no picture")
    return tmp_path


def start(folder: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
    own = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/runs.db", **settings}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment(folder / "bentoml") | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def alone(folder: Path, output: str, engine: str = "local", **settings: str) -> subprocess.Popen[str]:
    """A prediction without MLflow."""
    return start(folder, "-c", ALONE, "many.zip", output, "tiny.onnx", engine, **settings)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=3 * PATIENCE)
    assert process.returncode == 0, out + err
    return out


def groups_in(partial: Path) -> int:
    return max(0, partial.read_bytes().count(b"\n") - 1) if partial.exists() else 0


def test_a_killed_prediction_goes_on_and_is_logged_once_with_accuracy_and_confusion(folder: Path) -> None:
    words = ("-m", "pipelines", "predict", "--input", "many.zip", "--output", "a.csv", "--model", "tiny.onnx")
    first = start(folder, *words)
    eventually(lambda: groups_in(folder / "a.csv.partial") >= 3, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (folder / "a.csv").exists(), "it was at its end before the signal came"
    assert "pictures are answered already" in (out := finish(start(folder, *words)))
    assert "accuracy  " in out
    assert "3/bad.png: the content is not an image" in out
    finish(alone(folder, "unbroken.csv"))
    assert (folder / "a.csv").read_bytes() == (folder / "unbroken.csv").read_bytes()
    with sqlite3.connect(folder / "runs.db") as runs:
        [(run_id, name, status)] = runs.execute("select run_uuid, name, status from runs").fetchall()
        metrics = dict(runs.execute("select key, value from latest_metrics where run_uuid = ?", (run_id,)))
    runs.close()
    lines = (folder / "a.csv").read_text().splitlines()[1:]
    right = sum(line.split(",")[1] == line.split(",")[14] != "" for line in lines)
    assert status == "FINISHED"
    assert name.startswith(f"Answers for {COUNT + 1:,} pictures of many.zip: ")
    assert metrics["accuracy"] == pytest.approx(right / (COUNT + 1))
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    assert (metrics["pictures"], metrics["labelled"], metrics["unreadable"]) == (COUNT + 1, COUNT + 1, 1)
    artifacts = {path.name for path in (folder / "mlruns").rglob("*") if path.parent.name == "answers"}
    assert artifacts == {"confusion matrix.png", "confusion.json", "by digit.json", "summary.txt"}


@needs_ray
def test_ray_is_not_imported_by_the_local_engine(folder: Path) -> None:
    check = ALONE + "\n    assert 'ray' not in sys.modules"
    finish(start(folder, "-c", check, "many.zip", "a.csv", "tiny.onnx", "local"))


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine whose head does no work: nodes are added by the test."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_agent_register_timeout_ms": "100000"}
    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        made = Cluster()
        why: Exception | None = None
        try:
            for _ in range(4):
                try:
                    add_node(made, 0, include_dashboard=False)
                    break
                except Exception as error:  # Ray gives a node 30 s to start, and knows no setting for it
                    why = error
            else:
                pytest.skip(f"Ray's head did not start within its 30 s, four times over: {why}")
            yield made
        finally:
            made.shutdown()
            signal.signal(signal.SIGTERM, before)


def add_node(cluster: Any, cpus: int, **options: Any) -> Any:
    return cluster.add_node(num_cpus=cpus, object_store_memory=100 * 2**20, **options)


@needs_ray
@pytest.mark.filterwarnings("ignore")  # Ray's
def test_a_node_that_is_killed_midway_loses_nothing_and_both_engines_agree(folder: Path, cluster: Any) -> None:
    doomed = add_node(cluster, 1)
    running = alone(folder, "ray.parquet", "ray", RAY_ADDRESS=cluster.address)
    eventually(lambda: groups_in(folder / "ray.parquet.partial") >= 1, running)
    cluster.remove_node(doomed, allow_graceful=False)
    assert groups_in(folder / "ray.parquet.partial") < COUNT // 32, "all was answered before the node could be killed"
    add_node(cluster, 1)
    assert finish(running).splitlines()[-1] == f"{COUNT + 1} {COUNT + 1}"  # after what Ray says of its dead node
    finish(alone(folder, "local.parquet"))
    assert (folder / "ray.parquet").read_bytes() == (folder / "local.parquet").read_bytes()


@needs_ray
def test_a_cluster_that_does_not_answer_is_named(folder: Path) -> None:
    words = ("predict", "--input", "many.zip", "--output", "a.csv", "--model", "tiny.onnx", "--engine", "ray")
    process = start(folder, "-m", "pipelines", *words, RAY_ADDRESS="127.0.0.1:9")
    _, err = process.communicate(timeout=3 * PATIENCE)
    assert process.returncode == 1
    assert "RAY_ADDRESS=127.0.0.1:9: no cluster answers there" in err
    assert "Traceback" not in err
