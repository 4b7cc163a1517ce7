"""One command where everything goes wrong in turn: a folder that can't be written to, a full disk, a locked database,
and kill -9 at exact points. Each time one line; in the end one whole model.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import SMALL, Project, assert_one_whole_model
from tests.serving import LONG

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
            timeout=LONG,
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
        made.mount("size=14m")
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

    assert_one_line(machine.main(), "the disk is full")  # a checkpoint has 18 MB
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
