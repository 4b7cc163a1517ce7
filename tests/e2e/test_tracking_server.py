"""A real tracking server that goes away in the middle of a run: it is waited for, or named in one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from tests.e2e.project import SMALL, Project, assert_one_whole_model
from tests.ports import free_port
from tests.serving import LONG, PATIENCE, eventually

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
EPOCHS = 12  # so many that one that is looked for is not the last
PARAMETERS = {**SMALL, "dataset": "digits", "trials": 0, "epochs": EPOCHS}
QUIET = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes more, of which none is needed


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
                [*command, *stores], cwd=self.folder, env=QUIET, stdout=log, stderr=log, start_new_session=True
            )
        eventually(self.answers, self.process)

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
        deadline = time.monotonic() + LONG
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
            nobody.settimeout(LONG)
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
    log = project.folder / "log"
    scratch = project.folder / "tmp"
    scratch.mkdir()
    project.environment["TMPDIR"] = str(scratch)

    # It stays away for longer than a run that is told to be impatient waits.
    project.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    impatient = project.start(log, **PARAMETERS)
    eventually(lambda: epochs(project) >= 1, impatient)
    served.end()
    assert impatient.wait(LONG) != 0
    told = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(told) == 1
    assert "the tracking server does not answer; the same command goes on from here" in told[0]
    served.start()

    # It goes away again, and so does whoever started the run: nobody waits the minutes that MLflow would.
    del project.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    noted = epochs(project)
    left = project.start(log, **PARAMETERS)
    eventually(lambda: epochs(project) > noted, left)
    served.end()
    family = [psutil.Process(left.pid), *psutil.Process(left.pid).children(recursive=True)]
    left.send_signal(signal.SIGTERM)
    left.wait()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert not alive, "it waits for a server that is not there"
    served.start()

    # And again, and comes back while the run waits for it.
    noted = epochs(project)
    patient = project.start(log, **PARAMETERS)
    eventually(lambda: epochs(project) > noted, patient)
    served.end()
    served.away(asked=2)
    assert patient.poll() is None
    served.start()
    assert patient.wait(LONG) == 0, log.read_text()[-3000:]
    assert_one_whole_model(project)
    (training,) = project.runs("training")
    known = project.client.get_metric_history(training.info.run_id, "validation_loss")
    assert {point.step for point in known} == set(range(1, EPOCHS + 1)), "what was noted meanwhile is lost"
    assert training.data.tags["outcome"] == "complete"
    assert "error" not in training.data.tags
    assert [file.name for file in scratch.rglob("*") if file.is_file()] == []  # of what it has read back


class Breaking(BaseHTTPRequestHandler):
    """Hands on to the real server; of the first answer to what asks each of `broken` only the head comes back."""

    port = 0
    broken: ClassVar[set[tuple[str, str, bytes]]] = set()  # method, part of the path, what the body holds

    def hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        server.request(self.command, self.path, body, dict(self.headers))
        answer = server.getresponse()
        content = answer.read()
        server.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        asked = next((it for it in self.broken if it[0] == self.command and it[1] in self.path and it[2] in body), None)
        if asked:
            self.broken.remove(asked)
        else:
            self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = hand_on

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    "broken",
    [
        # Numbers of an epoch, a new version, and what it is called from then on.
        {
            ("POST", "/runs/log-batch", b"validation_loss"),
            ("POST", "/model-versions/create", b""),
            ("POST", "/registered-models/alias", b"champion"),
        },
        # The beginning and the end of a run, and what is read back.
        {
            ("POST", "/runs/create", b"Final training"),
            ("POST", "/runs/set-tag", b'"outcome"'),
            ("GET", "/report/answers.npz", b""),
        },
    ],
    ids=["what is noted", "what is begun, ended, read"],
)
def test_an_answer_that_is_broken_off_costs_no_training_and_leaves_nothing_twice(
    broken: set[tuple[str, str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path)
    served = Tracker(project.folder)
    monkeypatch.setattr(Breaking, "port", served.port)
    monkeypatch.setattr(Breaking, "broken", set(broken))
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        project.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{between.server_port}"
        try:
            done = project.run(**{**PARAMETERS, "epochs": 2})
        finally:
            served.end()
            between.shutdown()
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-3000:]
    assert Breaking.broken == set(), "each was broken off"
    # One may break off while what another has ended is told.
    assert 1 < told.count("warning: the tracking server broke off an answer; going on from there") <= len(broken)
    *abandoned, training = project.runs("training")
    # One that was begun, but of whose beginning nothing was heard, is ended all the same.
    for run in abandoned:
        assert (run.info.status, run.data.tags["outcome"]) == ("KILLED", "interrupted")
        project.client.delete_run(run.info.run_id)
    assert_one_whole_model(project)
    known = project.client.get_metric_history(training.info.run_id, "validation_loss")
    assert [point.step for point in known] == [1, 2]
    assert "error" not in training.data.tags
    assert [run.info.status for run in project.runs("main")] == ["FINISHED"]
