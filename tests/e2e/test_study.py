"""A study on a real PostgreSQL, worked off by real processes of which one is killed in the middle of a trial."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from mlflow import MlflowClient
from optuna.trial import Trial, TrialState

from pipelines import shared

pytest.importorskip("psycopg", reason="pip install 'digits[cluster]'")
# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 4
MEASURED = 87  # statements a trial of 8 parameters and 2 epochs
PATIENCE = 900  # seconds that a busy machine may take for what takes seconds


def program(name: str) -> str | None:
    """A program of PostgreSQL, which Debian does not put on the path."""
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True), shutil.which(name)]
    return next((str(path) for path in found if path), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a PostgreSQL of our own, without the name of a database."""
    initdb, control = program("initdb"), program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("there is no initdb here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="digits-postgres-"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        user = {"user": "postgres", "group": "postgres"}
    port, data = free_port(), str(folder / "data")

    def call(*words: str) -> None:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)

    call(initdb, "-D", data, "-U", "digits", "--auth=trust", "--encoding=UTF8")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    call(control, "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://digits@127.0.0.1:{port}"
    finally:
        call(control, "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def databases(server: str) -> dict[str, str]:
    """Two empty databases, of which MLflow's has its tables, as that of a running MLflow server has."""
    name = f"test_{time.monotonic_ns()}"
    engine = sqlalchemy.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for kind in ("mlflow", "optuna"):
            connection.execute(sqlalchemy.text(f"create database {name}_{kind}"))
    engine.dispose()
    return {"MLFLOW_TRACKING_URI": f"{server}/{name}_mlflow", "OPTUNA_STORAGE": f"{server}/{name}_optuna"}


class Machine:
    """A process of ours in a folder of its own, as on another machine."""

    def __init__(self, folder: Path, words: list[str], databases: dict[str, str]) -> None:
        folder.mkdir()
        self.log = folder / "log"
        known = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **databases}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines", *words], cwd=folder, env=known | own, stdout=log, stderr=log
            )

    def says(self, words: str) -> bool:
        assert self.process.poll() in (None, 0), self.log.read_text()
        return words in self.log.read_text()

    def ends(self) -> int:
        return self.process.wait(PATIENCE)


def wait_until(true: Callable[[], Any]) -> Any:
    """What is waited for, as soon as it is there."""
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


def test_workers_share_a_study_and_a_killed_one_s_trial_is_run_by_another(
    tmp_path: Path, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in databases.items():
        monkeypatch.setenv(name, value)
    MlflowClient().search_experiments()  # makes the tables
    asked = f"tune --study shared --dataset digits --limit 100 --photographs 20 --outliers 20 --trials {TRIALS}"
    machines: list[Machine] = []

    def start(name: str, words: str) -> Machine:
        machines.append(Machine(tmp_path / name, words.split(), databases))
        return machines[-1]

    try:
        victim = start("victim", "worker --study shared")  # first of all
        wait_until(lambda: victim.says("waiting for the study 'shared'"))
        parent = start("parent", f"{asked} --tune_minutes 1000")
        other = start("other", "worker --study shared")
        study = wait_until(lambda: joined(parent))

        def stopped_in_a_trial() -> list[int]:
            """The trial that the victim is at, and the victim held there."""
            assert victim.process.poll() is None, victim.log.read_text()
            victim.process.send_signal(signal.SIGSTOP)
            mine = [
                trial.number
                for trial in shared.running(study)
                if f" {victim.process.pid} " in trial.user_attrs.get("process", "") and "run" in trial.user_attrs
            ]
            if not mine:
                victim.process.send_signal(signal.SIGCONT)
            return mine

        (killed,) = wait_until(stopped_in_a_trial)
        victim.process.send_signal(signal.SIGKILL)
        assert victim.ends() == -signal.SIGKILL
        assert parent.ends() == 0, parent.log.read_text()
        assert other.ends() == 0, other.log.read_text()
    finally:
        for machine in machines:
            if machine.process.poll() is None:
                machine.process.kill()
                machine.process.wait()

    trials = study.trials
    ended = Counter(trial.state for trial in trials)
    assert ended[TrialState.COMPLETE] + ended[TrialState.PRUNED] == TRIALS
    assert set(ended) <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert [trial.number for trial in trials if trial.state == TrialState.FAIL] == [killed]
    (again,) = (trial for trial in trials if shared.history(trial) == [killed])
    assert again.params == trials[killed].params
    assert again.user_attrs["process"] != trials[killed].user_attrs["process"]
    assert shared.closed(study)

    client = MlflowClient()
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    kinds = Counter(run.data.tags["kind"] for run in runs)
    assert kinds["study"] == 1
    assert kinds["trial"] == TRIALS + 1
    (whole,) = (run for run in runs if run.data.tags["kind"] == "study")
    assert (whole.info.status, whole.data.metrics["trials"]) == ("FINISHED", TRIALS)
    of_trials = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert {run.data.tags["mlflow.parentRunId"] for run in of_trials} == {whole.info.run_id}
    outcomes = Counter(run.data.tags["outcome"] for run in of_trials)
    assert outcomes["interrupted"] == 1
    assert outcomes["complete"] + outcomes["pruned"] == TRIALS
    assert all(run.info.status != "RUNNING" for run in runs)
    engine_of(study).dispose()


def engine_of(study: optuna.Study) -> sqlalchemy.Engine:
    storage: Any = study._storage
    engine: sqlalchemy.Engine = storage._backend.engine
    return engine


def joined(parent: Machine) -> optuna.Study | None:
    parent.says("")
    try:
        return shared.join("shared", 0)[0]
    except shared.UserError:
        return None


def test_a_trial_costs_the_database_a_bounded_number_of_statements(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", databases["OPTUNA_STORAGE"])
    monkeypatch.setattr(shared, "FOLDER", tmp_path)
    study = shared.create("counted", 0, 30, {}, {"name": "counted"})
    statements: list[str] = []
    engine = engine_of(study)
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *words: statements.append(words[2]))

    def objective(trial: Trial) -> float:
        for place in range(8):
            trial.suggest_float(f"x{place}", 0, 1)
        for epoch in range(2):
            trial.report(1.0, epoch)
            trial.should_prune()
        return trial.params["x0"]

    shared.work(study, objective)
    assert len(shared.finished(study)) == 30
    assert MEASURED / 1.5 < len(statements) / 30 < MEASURED * 1.5
    engine.dispose()
