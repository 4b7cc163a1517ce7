"""One command where everything goes wrong in turn: a folder that can't be written to, a full disk, a locked database, a
tracking server that goes away, and kill -9 at exact points. Each time one line or a wait; in the end one whole model.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import PATIENCE, SMALL, Project, wait_until
from tests.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
PARAMETERS = {**SMALL, "dataset": "digits", "trials": 0, "epochs": 2}
WORDS = ["main", *(word for name, value in PARAMETERS.items() for word in (f"--{name}", str(value)))]

# Python imports this by itself. It ends the process and all it has started when something is about to be done to a
# file: `event` is one of https://docs.python.org/3/library/audit_events.html, `content` what the moved file holds.
DEATH = """
import os, signal, sys
event, place, content = os.environ["DIE_BEFORE"].split("|")
def hook(name, arguments):
    if name == event and place in str(arguments[1]):
        if not content or content in open(arguments[0]).read():
            os.killpg(0, signal.SIGKILL)
sys.addaudithook(hook)
"""


class Machine(Project):
    """The project with `mlruns` on a disk of its own; steps are run without MLflow's launcher, which is not ours."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.disk = folder / "mlruns"
        self.disk.mkdir()
        (folder / "death").mkdir()
        (folder / "death" / "sitecustomize.py").write_text(DEATH)

    def mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.disk], check=True, capture_output=True)

    def main(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipelines", *WORDS],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            start_new_session=True,
        )

    def killed_before(self, event: str, place: str, content: str = "") -> int:
        """The exit status of a run that is killed when it is about to do that."""
        ended = self.main(PYTHONPATH=str(self.folder / "death"), DIE_BEFORE=f"{event}|{place}|{content}")
        return ended.returncode

    def state(self) -> dict[str, Any]:
        (file,) = self.disk.glob("work/main-*/state.json")
        return dict(json.loads(file.read_text()))


@contextmanager
def locked(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("begin exclusive")
        yield
        connection.execute("rollback")


def assert_one_line(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    for word in (*words, "the same command goes on from here"):
        assert word in line
    assert "Traceback" not in ended.stderr, ended.stderr


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    try:
        made.mount("size=20m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this process may not mount a disk of its own: {error}")
    try:
        yield made
    finally:
        subprocess.run(["umount", "--lazy", made.disk], check=True)


def test_nothing_that_goes_wrong_leads_to_anything_but_one_whole_model(machine: Machine) -> None:
    remount = lambda options: machine.mount(f"remount,{options}")  # noqa: E731
    remount("ro")
    assert_one_line(machine.main(), "read-only")
    remount("rw")

    # Photographs are made and kept, the other pictures are not.
    assert machine.killed_before("os.rename", "cache/outliers") == -signal.SIGKILL
    assert {file.name.split("-")[0] for file in (machine.disk / "cache").glob("*.npz")} == {"photographs"}

    assert_one_line(machine.main(), "the disk is full")  # a checkpoint has 23 MB
    assert [file.name for file in machine.disk.glob("work/main-*/*")] == ["state.json"], "half a file is left"
    remount("size=4g")

    with locked(machine.folder / "mlflow.db"):
        assert_one_line(machine.main(), "locked")

    # Trained, the weights are kept, the model is not in MLflow yet.
    assert machine.killed_before("os.rename", "weights/model.safetensors") == -signal.SIGKILL
    assert "trained" not in machine.state()
    assert len(machine.state()["epochs"]) == PARAMETERS["epochs"]

    # In the registry, but this is not noted.
    assert machine.killed_before("os.rename", "state.json", '"version"') == -signal.SIGKILL
    assert "version" not in machine.state()
    assert len(machine.client.search_model_versions("name = 'digits'")) == 1

    # In the middle of the import into the store.
    assert machine.killed_before("shutil.copyfile", "bentoml/models/digits/") == -signal.SIGKILL
    assert list((machine.folder / "bentoml" / "models" / "digits").iterdir())

    last = machine.main()
    assert last.returncode == 0, last.stderr
    assert "epoch   1" not in last.stdout, "trained again"
    assert_one_whole_model(machine)


STORED = """
import hashlib, json, bentoml
from pathlib import Path
print(json.dumps([hashlib.sha256(next(Path(m.path).rglob("model.onnx")).read_bytes()).hexdigest()
                  for m in bentoml.models.list()]))
"""


def assert_one_whole_model(project: Project) -> None:
    client = project.client
    (version,) = client.search_model_versions("name = 'digits'")
    assert int(client.get_model_version_by_alias("digits", "champion").version) == int(version.version) == 1
    assert project.python(STORED) == [client.get_model_version("digits", version.version).tags["sha256"]]
    assert len(client.search_logged_models([project.runs("main")[0].info.experiment_id])) == 1
    assert [run.info.status for run in project.runs() if run.info.status == "RUNNING"] == []
    kinds = [run.data.tags["kind"] for run in project.runs()]
    assert [kinds.count(kind) for kind in ("main", "training", "report")] == [1, 1, 1]
    assert not list((project.folder / "mlruns" / "work").glob("main-*/*"))
    # What was being written when the process was killed never had a name that anything reads.
    assert not [path for path in (project.folder / "mlruns").rglob("*.partial") if path.is_file()]


class Tracker:
    """A real `mlflow server` on the project's database, which can be ended and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "mlflow"), "server", "--port", str(self.port), "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", "artifacts"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *stores], cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self.answers, self.process, "the tracking server")

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def instead(self) -> socket.socket:
        """Listens on the port, once the last process of the ended server has let go of it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_server(("127.0.0.1", self.port))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def away(self, asked: int) -> None:
        """Nobody is there until so many requests have been made in vain."""
        with self.instead() as nobody:
            nobody.settimeout(PATIENCE)
            for _ in range(asked):
                nobody.accept()[0].close()


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Tracker]]:
    project = Project(tmp_path_factory.mktemp("tracked"))
    served = Tracker(project.folder)
    project.environment["MLFLOW_TRACKING_URI"] = served.uri
    try:
        yield project, served
    finally:
        served.end()


def epochs(project: Project) -> int:
    """How many the job has noted."""
    states = [json.loads(file.read_text()) for file in (project.folder / "mlruns" / "work").glob("main-*/state.json")]
    return max((len(state.get("epochs", [])) for state in states), default=0)


def test_a_tracking_server_that_goes_away_is_waited_for_or_named_and_the_model_is_registered_once(
    tracker: tuple[Project, Tracker],
) -> None:
    project, served = tracker
    parameters = {**PARAMETERS, "epochs": 4}
    log = project.folder / "log"

    # It stays away for longer than a run that is told to be impatient waits.
    project.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    impatient = project.start(log, **parameters)
    wait_until(lambda: epochs(project) >= 1, impatient, "the first epoch")
    served.end()
    assert impatient.wait(PATIENCE) != 0
    told = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(told) == 1
    assert "the tracking server does not answer; once it does, the same command goes on from here" in told[0]
    served.start()

    # It goes away again, and comes back while the run waits for it.
    del project.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    noted = epochs(project)
    patient = project.start(log, **parameters)
    wait_until(lambda: epochs(project) > noted, patient, "another epoch")
    served.end()
    served.away(asked=2)
    assert patient.poll() is None
    served.start()
    assert patient.wait(PATIENCE) == 0, log.read_text()[-3000:]
    assert_one_whole_model(project)
