"""A study on a real PostgreSQL, worked off by real processes of which one is killed in the middle of a trial."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from mlflow import MlflowClient
from optuna.trial import Trial, TrialState

from pipelines import shared
from tests import postgres
from tests.e2e.project import MNIST_ROOT
from tests.postgres import Server
from tests.serving import LONG, ROOT, eventually

pytest.importorskip("psycopg", reason="pip install -e '.[cluster]'")
# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

TRIALS = 4
MEASURED = 87  # statements a trial of 8 parameters and 2 epochs


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL of our own."""
    try:
        with postgres.running() as running:
            yield running
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def databases(server: Server) -> dict[str, str]:
    return server.databases()


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
        return self.process.wait(LONG)


def training_files(folder: Path) -> Path:
    """MNIST without its test files: whoever tunes has no business with them."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (Path(MNIST_ROOT) / "MNIST" / "raw").glob("train-*.gz"):
        (raw / file.name).symlink_to(file)
    return folder


def test_workers_share_a_study_and_a_killed_one_s_trial_is_run_by_another(
    tmp_path: Path, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in databases.items():
        monkeypatch.setenv(name, value)
    MlflowClient().search_experiments()  # makes the tables
    mnist = bool(MNIST_ROOT)
    where = f"--data_dir {training_files(tmp_path / 'data')}" if mnist else ""
    asked = f"tune --study shared {where} --dataset {'mnist' if mnist else 'digits'} --limit 100"
    asked += f" --photographs {0 if mnist else 20} --outliers {0 if mnist else 20} --trials {TRIALS}"
    machines: list[Machine] = []

    def start(name: str, words: str) -> Machine:
        machines.append(Machine(tmp_path / name, words.split(), databases))
        return machines[-1]

    try:
        victim = start("victim", f"worker --study shared {where}")  # first of all
        eventually(lambda: victim.says("waiting for the study 'shared'"), victim.process)
        parent = start("parent", f"{asked} --tune_minutes 1000")
        other = start("other", f"worker --study shared {where}")
        study = eventually(lambda: joined(parent), parent.process)

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

        (killed,) = eventually(stopped_in_a_trial, victim.process, pause=0.1)  # between which it works
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
    assert whole.data.tags["dataset"] == ("mnist" if mnist else "digits")
    assert "best recipe" in parent.log.read_text()
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
        return shared.join("shared", 0, lambda _: True)[0]
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
