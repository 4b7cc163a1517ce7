"""One command, ended by force at four points of its way, and what is left when it has come to its end all the same."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.entities import Run

from tests.e2e.project import SMALL, Project
from tests.serving import eventually

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
EPOCHS = 20  # so many that one that is looked for is not the last
PARAMETERS = {**SMALL, "epochs": EPOCHS, "dataset": "digits"}


def state(project: Project) -> dict[str, Any]:
    """What the job has noted of itself."""
    for file in (project.folder / "mlruns" / "work").glob("main-*/state.json"):
        return dict(json.loads(file.read_text()))
    return {}


def running(project: Project) -> list[Run]:
    return [run for run in project.runs() if run.info.status == "RUNNING"]


def in_a_trial(project: Project) -> bool:
    """Asked of the database itself: by way of a client it takes as long as the whole command, on a fast machine."""
    database = project.folder / "mlflow.db"
    if not database.exists() or "main run" not in state(project):
        return False
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        trials = connection.execute("SELECT COUNT(*) FROM tags WHERE key = 'kind' AND value = 'trial'").fetchone()
    return bool(trials[0])


def in_an_epoch(project: Project) -> bool:
    return 0 < len(state(project).get("epochs", [])) < EPOCHS


def in_the_report(project: Project) -> bool:
    return "trained" in state(project) and "report run" in state(project)


def signalled(project: Project, log: Path, when: Callable[[Project], bool], number: int) -> None:
    """Starts the command and ends it then: SIGTERM to `mlflow run` alone, SIGKILL to it and all it has started."""
    process = project.start(log, **PARAMETERS)
    eventually(lambda: when(project), process)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive, "something that was started goes on by itself"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, Any], str]:
    """The project after three ends by force and one to the end; statuses after the SIGTERM; the last output."""
    project = Project(tmp_path_factory.mktemp("project"))
    log = project.folder / "log"
    signalled(project, log, in_a_trial, signal.SIGTERM)
    eventually(project.settled)
    after_term = {run.info.run_id: (run.info.status, run.data.tags.get("outcome")) for run in project.runs()}
    for when in (in_an_epoch, in_the_report):
        signalled(project, log, when, signal.SIGKILL)
    last = project.run(**PARAMETERS)
    assert last.returncode == 0, last.stderr
    return project, after_term, log.read_text() + last.stdout


def test_sigterm_ends_everything_and_marks_the_runs(history: tuple[Project, dict[str, Any], str]) -> None:
    _, after_term, _ = history
    assert len(after_term) == 2
    assert set(after_term.values()) == {("KILLED", "interrupted")}


def test_no_run_is_left_running(history: tuple[Project, dict[str, Any], str]) -> None:
    project, _, _ = history
    assert not running(project)
    parent = project.runs("main")
    assert len(parent) == 1, "the parent was not gone on with"
    assert (parent[0].info.status, parent[0].data.tags["outcome"]) == ("FINISHED", "complete")


def test_the_interrupted_trial_is_done_again_and_the_finished_ones_are_not(
    history: tuple[Project, dict[str, Any], str],
) -> None:
    project, _, _ = history
    ends = [run.data.tags["outcome"] for run in project.runs("trial")]
    assert ends.count("interrupted") == 1
    assert len(ends) - 1 == PARAMETERS["trials"]


def test_training_went_on_from_its_last_epoch(history: tuple[Project, dict[str, Any], str]) -> None:
    project, _, output = history
    training = project.runs("training")
    assert len(training) == 1
    assert training[0].data.tags["outcome"] == "complete"
    assert "going on from the last epoch that was finished" in output
    assert output.count(f"epoch   1 of {EPOCHS}") <= 1  # killed, perhaps, before it was told
    points = project.client.get_metric_history(training[0].info.run_id, "validation_accuracy")
    assert sorted(point.step for point in points) == list(range(1, EPOCHS + 1)), (
        "an epoch is missing, or was done twice"
    )


def test_one_model_is_registered_promoted_and_in_the_store(history: tuple[Project, dict[str, Any], str]) -> None:
    project, _, _ = history
    versions = project.client.search_model_versions("name = 'digits'")
    assert [int(version.version) for version in versions] == [1]
    assert int(project.client.get_model_version_by_alias("digits", "champion").version) == 1
    models = project.client.search_logged_models([project.runs("main")[0].info.experiment_id])
    assert len(models) == 1
    stored = project.python("import bentoml, json; print(json.dumps([str(m.tag) for m in bentoml.models.list()]))")
    assert len(stored) == 1


def test_no_half_file_and_no_finished_job_is_left(history: tuple[Project, dict[str, Any], str]) -> None:
    project, _, _ = history
    folder = project.folder / "mlruns"
    assert not list((folder / "work").glob("main-*/*"))
    assert not [path for path in (folder / "artifacts").rglob(".*") if path.is_file()]
