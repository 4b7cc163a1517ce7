"""A copy of the project in a folder of its own, and `mlflow run` in it as a user types it."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from tests.serving import LONG, ROOT, eventually

MNIST_ROOT = os.environ.get("MNIST_ROOT", "")
SMALL = {"limit": 100, "epochs": 2, "trials": 2, "tune_minutes": 60, "photographs": 40, "outliers": 40, "floor": 0.0}


def end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class Project:
    """MLproject and what it runs, copied; runs, models and the BentoML store stay inside the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "MLproject", folder)
        for package in ("pipelines", "digits"):
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "DIGITS_", "PYTEST", "OPTUNA", "VIRTUAL_ENV"))
        }
        # The interpreter of the tests is not on the path: `mlflow run` has to find it by itself.
        path = os.pathsep.join(p for p in kept["PATH"].split(os.pathsep) if Path(p) != Path(sys.executable).parent)
        quiet = {"BENTOML_DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1", "PATH": path}
        self.environment = {**kept, **quiet, "BENTOML_HOME": str(folder / "bentoml")}

    def command(self, entry_point: str = "main", **parameters: object) -> list[str]:
        words = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
        return [str(Path(sys.executable).parent / "mlflow"), "run", ".", "-e", entry_point, *words]

    def run(self, entry_point: str = "main", **parameters: object) -> subprocess.CompletedProcess[str]:
        """To its end, whatever that is."""
        return subprocess.run(
            self.command(entry_point, **parameters),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )

    def start(self, log: Path, entry_point: str = "main", **parameters: object) -> subprocess.Popen[bytes]:
        """As a process group of its own, so that all of it can be killed; what is left of it ends with this process."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(entry_point, **parameters),
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        atexit.register(end, process.pid)
        return process

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/mlflow.db")

    def runs(self, kind: str = "", view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        """Runs of all experiments, oldest first; of one kind, if given."""
        client = self.client
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, run_view_type=view, order_by=["attributes.start_time ASC"])
        return [run for run in found if not kind or run.data.tags.get("kind") == kind]

    def settled(self) -> bool:
        """Whether nothing runs and what `mlflow run` made is put away: pipelines.tidy outlives it."""
        runs = self.runs()
        return all("kind" in run.data.tags and run.info.status != "RUNNING" for run in runs)

    def artifacts(self, run: Run) -> set[str]:
        """The files of a run."""
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    def python(self, program: str) -> Any:
        """What a program prints, as JSON, from a process with the project's environment."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            cwd=self.folder,
            env={**self.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"},
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


STORED = """
import hashlib, json, bentoml
from pathlib import Path
print(json.dumps([hashlib.sha256(next(Path(m.path).rglob("model.onnx")).read_bytes()).hexdigest()
                  for m in bentoml.models.list()]))
"""


def assert_one_whole_model(project: Project) -> None:
    eventually(project.settled)
    client = project.client
    (version,) = client.search_model_versions("name = 'digits'")
    assert int(client.get_model_version_by_alias("digits", "champion").version) == int(version.version) == 1
    assert project.python(STORED) == [client.get_model_version("digits", version.version).tags["sha256"]]
    assert len(client.search_logged_models([project.runs("main")[0].info.experiment_id])) == 1
    kinds = [run.data.tags["kind"] for run in project.runs()]
    assert [kinds.count(kind) for kind in ("main", "training", "report")] == [1, 1, 1]
    assert not list((project.folder / "mlruns" / "work").glob("main-*/*"))
    # What was being written when the process was killed never had a name that anything reads.
    assert not [path for path in (project.folder / "mlruns").rglob("*.partial") if path.is_file()]
