"""The edge to MLflow: one experiment, runs whose end is told truthfully, no run left open by a dead process."""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from pipelines import provenance, signals
from pipelines.errors import UserError, explain
from pipelines.files import FOLDER, write_json

EXPERIMENT = "digits"
LAUNCHED = FOLDER / "work" / "launched"
LIMIT_OF_A_TAG = 4_000
# MLflow's pages would else take it for an experiment with language models, and runs for evaluations of such.
ABOUT = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One parent for each command; its trials, its final training and its report are below it.",
}

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one for each file, of which most are small


def check_database() -> None:
    """Raises UserError where MLflow would look into an empty database, and make it."""
    uri = mlflow.get_tracking_uri()
    path = make_url(uri).database if uri.startswith("sqlite:") else None
    if path and path != ":memory:" and not path.startswith("file:") and not Path(path).exists():
        raise UserError(
            f"there is no {path}: train a model first (make train), be in the project's folder, or set"
            " MLFLOW_TRACKING_URI"
        )


def connect() -> None:
    """Finds or makes the experiment, and closes what dead processes have left open."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            mlflow.create_experiment(EXPERIMENT, artifact_location=_artifacts(), tags=ABOUT)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
    elif experiment.lifecycle_stage == "deleted":
        MlflowClient().restore_experiment(experiment.experiment_id)
    else:
        _check_place(experiment.artifact_location)
    mlflow.set_experiment(EXPERIMENT)
    _close_what_is_dead()


def experiment_id() -> str:
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)


def _artifacts() -> str | None:
    """A folder of our own: `mlflow ui`, started first, gives the default experiment one that only it can write to."""
    if mlflow.get_tracking_uri().startswith(("http://", "https://", "databricks")):
        return None
    return (FOLDER / "artifacts").resolve().as_uri()


def _check_place(location: str) -> None:
    """Warns where a project was moved or copied, but its runs go on putting their artifacts into the old folder."""
    here = _artifacts()
    if here and location.startswith("file:") and location != here:
        old, new = location.removeprefix("file://"), here.removeprefix("file://")
        print(
            f"WARNING: runs of this database keep their files in {old}, not in {new}: if the project was moved, move it"
            " back, or begin anew without its mlflow.db and mlruns"
        )


def note(launcher: str) -> None:
    """Takes note of the run that `mlflow run` made, so that it is ended even if nobody lives to do so."""
    write_json(LAUNCHED / f"{launcher}.json", {"process": process()})


def process() -> str:
    """This process, so that another can tell whether it is still there: host, id, start."""
    return f"{socket.gethostname()} {os.getpid()} {_began(os.getpid()):.0f}"


def _began(number: int) -> float:
    """When a process began: in ticks since the machine did where the system says so, since clocks are set anew, and
    else in seconds since 1970. Raises psutil.NoSuchProcess."""
    try:
        return float(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return float(psutil.Process(number).create_time())


def is_dead(name: str) -> bool:
    """Whether a process of this host has ended; one of another host may be alive."""
    host, number, start = name.split()
    if host != socket.gethostname():
        return False
    try:
        return bool(abs(_began(int(number)) - float(start)) > 2)
    except psutil.NoSuchProcess:
        return True


def _close_what_is_dead() -> None:
    client = MlflowClient()
    for run in client.search_runs([experiment_id()], "attributes.status = 'RUNNING'", max_results=1_000):
        named = run.data.tags.get("process")
        # One of this process, which is about to begin, is of an attempt before.
        if named and (named == process() or is_dead(named)):
            client.set_tag(run.info.run_id, "outcome", "interrupted")
            client.set_terminated(run.info.run_id, "KILLED")
    for noted in LAUNCHED.glob("*.json"):
        with suppress(FileNotFoundError):  # another command, started at the same time, was faster
            if is_dead(json.loads(noted.read_text())["process"]):
                with suppress(MlflowException):  # of another database, or in the bin already
                    client.set_terminated(noted.stem, "KILLED")
                    client.delete_run(noted.stem)
                noted.unlink(missing_ok=True)


@contextmanager
def run(
    name: str,
    kind: str,
    *,
    tags: Mapping[str, str] | None = None,
    again: str | None = None,
    parent: str | None = None,
    watched: bool = False,
) -> Iterator[Run]:
    """A run while the block lasts, under the run that is active or under `parent`.

    Args:
        name: a sentence.
        kind: "main", "study", "trial", "confirmation", "training", "report" or "prediction": the tag that tells them
            apart.
        tags: more tags.
        again: id of a run that was interrupted, to go on with.
        parent: id of a run to be nested under, where none is active.
        watched: log CPU, memory and GPU every ten seconds.
    """
    from optuna import TrialPruned

    own = {"kind": kind, "process": process(), **provenance.git(), "outcome": "running", **(tags or {})}
    nested = mlflow.active_run() is not None or parent is not None
    started: Run | None = None
    outcome, status = "failed", "FAILED"
    try:
        with signals.hold():  # it is on top of MLflow's stack, with its tags, or it is not there at all
            started = mlflow.start_run(
                run_id=again, run_name=name, nested=nested, parent_run_id=parent, tags=own, log_system_metrics=watched
            )
        if again and "error" in started.data.tags:  # of an attempt before
            MlflowClient().delete_tag(again, "error")
        yield started
        outcome, status = "complete", "FINISHED"
    except TrialPruned:
        outcome, status = "pruned", "KILLED"
        raise
    except KeyboardInterrupt:
        outcome, status = "interrupted", "KILLED"
        raise
    except Exception as error:
        if started:
            with signals.hold():
                told = f"{type(error).__name__}: {error}"[:LIMIT_OF_A_TAG]
                MlflowClient().set_tag(started.info.run_id, "error", told)
        raise
    finally:
        if started:
            with signals.hold():
                try:
                    mlflow.flush_async_logging()
                    MlflowClient().set_tag(started.info.run_id, "outcome", outcome)
                finally:
                    mlflow.end_run(status)  # whatever the server says, it is on MLflow's stack no more


def rename(name: str) -> None:
    mlflow.set_tag("mlflow.runName", name)


def describe(markdown: str, run_id: str | None = None) -> None:
    """What MLflow shows as the description of a run."""
    if run_id is None:
        mlflow.set_tag("mlflow.note.content", markdown)
    else:
        MlflowClient().set_tag(run_id, "mlflow.note.content", markdown)


def find_runs(filter_string: str, most: int = 100) -> list[Run]:
    """Runs of the experiment, newest first."""
    return list(
        MlflowClient().search_runs(
            [experiment_id()], filter_string, ViewType.ACTIVE_ONLY, most, ["attributes.start_time DESC"]
        )
    )


def still_there(run_id: str | None) -> str | None:
    """The id of a run, unless somebody has deleted it or another database is used now."""
    return run_id if run_id is not None and _found(run_id) else None


def _found(run_id: str) -> Run | None:
    """A run that nobody has deleted."""
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def is_running(run_id: str) -> bool:
    """Whether whoever began a run is still at it, as far as MLflow knows."""
    run = _found(run_id)
    return run is not None and run.info.status == "RUNNING"


def is_missing(error: MlflowException) -> bool:
    """Whether MLflow says that something is not there, and not that it could not look."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def read_json(run_id: str, path: str) -> Any:
    """A JSON artifact of a run. Raises FileNotFoundError where there is none."""
    return json.loads(read(run_id, path))


def read(run_id: str, path: str) -> bytes:
    """An artifact of a run. Raises FileNotFoundError where there is none, but what it was where server or disk are to
    blame, as far as `explain` can tell."""
    try:
        # By runs:/… MLflow would say that there is none whatever it was.
        return _downloaded(f"{MlflowClient().get_run(run_id).info.artifact_uri}/{path}")
    except (MlflowException, OSError) as error:
        if explain(error):  # the server or the disk
            raise
        raise FileNotFoundError(f"run {run_id} has no artifact {path}") from error


def read_model(model_id: str) -> bytes:
    """model.onnx of a logged model. Raises UserError where there is none."""
    try:
        return _downloaded(f"models:/{model_id}", "model.onnx")
    except (MlflowException, FileNotFoundError) as error:
        if explain(error):
            raise
        raise UserError(
            f"model.onnx of {model_id} is not where it was logged: put mlruns back in its folder, or train again"
        ) from error


def _downloaded(uri: str, within: str = "") -> bytes:
    # Into a folder of ours: what MLflow downloads into one of its own stays behind.
    with tempfile.TemporaryDirectory(prefix="digits-") as folder:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder), within).read_bytes()
