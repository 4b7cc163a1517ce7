"""A study that any number of processes work off: a database in, trials handed out so that none is run twice.

Every trial of the budget is a row that waits from the start, and a process takes one or finds none left: however many
processes there are, and whenever they come and go, the budget is kept exactly. A trial whose process falls silent is
given up and a copy of it waits in its place.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import optuna
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipelines import tracking
from pipelines.errors import UserError
from pipelines.files import FOLDER

HEARTBEAT, SILENCE = 10, 40  # seconds between signs of life, and without one until a trial is given up
RETRIES = 5  # of one trial: a setting that kills every process that tries it is left alone in the end
PAUSE = 2.0  # seconds between looks at what the others do

Callback = Callable[[Study, FrozenTrial], None]


class BudgetSpent(Exception):
    """No trial is waiting."""


class Slots(RDBStorage):
    """Optuna's database, but a trial that nobody has put there is not to be had, and none is had by two.

    Optuna makes a new trial where none waits, which would go beyond the budget when two processes ask at once. And it
    looks before it takes, which SQLite lets two processes do at the same time: measured with four threads, 2 trials of
    12 were run twice. Here looking and taking are one statement.
    """

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is None:
            raise BudgetSpent
        return super()._create_new_trial(study_id, template_trial)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Begins a trial (False: another process has it) or ends it (UpdateFinishedTrialError: it has ended)."""
        if state not in (TrialState.RUNNING, TrialState.FAIL):
            return super().set_trial_state_values(trial_id, state, values)
        begins = state == TrialState.RUNNING
        before = [TrialState.WAITING] if begins else [TrialState.WAITING, TrialState.RUNNING]
        change = (
            sqlalchemy.update(TrialModel)
            .where(TrialModel.trial_id == trial_id, TrialModel.state.in_(before))
            .values({"state": state, "datetime_start" if begins else "datetime_complete": datetime.now()})
        )
        with self.engine.begin() as connection:
            done = bool(connection.execute(change).rowcount)
            if done and begins:  # the first sign of life with it: Optuna gives up no trial that has none
                connection.execute(sqlalchemy.insert(TrialHeartbeatModel).values(trial_id=trial_id))
        if not done and not begins:
            raise UpdateFinishedTrialError(f"trial {trial_id} has ended already")
        return done


# -- the database -----------------------------------------------------------------------------------------------------


def address() -> str:
    return os.environ.get("OPTUNA_STORAGE") or f"sqlite:///{FOLDER / 'optuna.db'}"


def connect(make: bool) -> Slots:
    """The database; its tables are made by whoever starts a study, and by nobody else. Raises UserError."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # an error in a trial is told by `work`, in one line
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    FOLDER.mkdir(exist_ok=True)
    url = address()
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    with _address_is_checked():
        return Slots(
            url,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT,
            grace_period=SILENCE,
            heartbeat_stale_trial_callback=retry,
            skip_table_creation=not make,
        )


@contextmanager
def _address_is_checked() -> Iterator[None]:
    """A database that can never be reached is the user's error at once, not one to wait for."""
    try:
        yield
    except (ArgumentError, ImportError) as error:
        raise UserError(
            f"OPTUNA_STORAGE can't be used: {str(error).splitlines()[0]}; expected"
            " postgresql+psycopg://USER:PASSWORD@HOST/DATABASE (and pip install -e '.[cluster]')"
        ) from None


def create(name: str, seed: int, budget: int, first: dict[str, Any], facts: dict[str, Any]) -> Study:
    """The study `name`, made or gone on with: `budget` trials wait in it, the first with the parameters `first`.

    `facts` is what another process must know to join; they are there once everything else is.
    """
    study = optuna.create_study(study_name=name, storage=connect(make=True), pruner=pruner(), load_if_exists=True)
    begun = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    study.sampler = sampler(seed + begun)  # after an interruption, the same seed would propose the same settings again
    made = sum(not history(trial) for trial in study.get_trials(deepcopy=False))
    for number in range(made, budget):
        study.enqueue_trial(first if number == 0 else {})
    _give_up_what_is_dead(study)
    take_back(study)
    study.set_user_attr("facts", facts)
    return study


def sampler(seed: int | None) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)


def pruner() -> optuna.pruners.MedianPruner:
    return optuna.pruners.MedianPruner(n_startup_trials=3)


def join(name: str, minutes: float, is_led: Callable[[dict[str, Any]], bool]) -> tuple[Study, dict[str, Any]]:
    """The newest study of that name that is not closed, and its facts; waited for where there is none yet.

    `is_led` says, by its facts, whether whoever started a study is still at it: one that was given up is passed over.

    Raises:
        UserError: there is none after so many minutes.
    """
    deadline, told = time.monotonic() + minutes * 60, False
    storage: Slots | None = None
    while True:
        why = "nobody has started one in this database"
        try:
            storage = storage or (connect(make=False) if _is_prepared() else None)
            studies = _open_studies(storage) if storage else []
            named = [s for s in studies if name in (s.study_name, s.user_attrs["facts"]["name"])]
            named.sort(key=lambda study: study._study_id, reverse=True)
            found = next((s for s in named if is_led(s.user_attrs["facts"])), None)
            if storage and found:
                return Study(found.study_name, storage, sampler(None), pruner()), dict(found.user_attrs["facts"])
            if named:
                why = f"nobody is at {named[0].study_name}, by what MLflow (MLFLOW_TRACKING_URI) says"
            elif studies:
                why = f"open are {', '.join(sorted({s.study_name for s in studies}))}"
        except (SQLAlchemyError, StorageInternalError) as error:
            why = f"the database does not answer: {str(error.__cause__ or error).splitlines()[0]}"
        except MlflowException as error:
            why = f"the tracking server does not answer: {str(error).splitlines()[0]}"
        if time.monotonic() > deadline:
            if storage:
                storage.engine.dispose()
            raise UserError(
                f"study={name}: there is no open study of that name after {minutes:g} minutes; {why}."
                f" Start it with mlflow run . -P study={name}, and the same OPTUNA_STORAGE and MLFLOW_TRACKING_URI"
            )
        if not told:
            print(f"waiting for the study {name!r}, at most {minutes:g} minutes", flush=True)
            told = True
        time.sleep(PAUSE)


def _is_prepared() -> bool:
    """Whether somebody has started a study in this database, and so has made its tables."""
    if "OPTUNA_STORAGE" not in os.environ and not FOLDER.exists():
        return False
    with _address_is_checked():
        engine = sqlalchemy.create_engine(address())
    try:
        if not sqlalchemy.inspect(engine).has_table("alembic_version"):
            return False
        with engine.connect() as connection:
            return bool(connection.execute(sqlalchemy.text("select count(*) from alembic_version")).scalar())
    finally:
        engine.dispose()


def _open_studies(storage: Slots) -> list[Any]:
    return [s for s in storage.get_all_studies() if "facts" in s.user_attrs and not s.user_attrs.get("closed")]


# -- work -------------------------------------------------------------------------------------------------------------


def work(study: Study, objective: Callable[[Trial], float], callbacks: Iterable[Callback] = ()) -> None:
    """Runs trials until none waits, or a callback stops the study. An error in a trial costs that trial alone."""
    mine: list[int] = []
    raised: list[Exception] = []  # by the last trial itself

    def watched(trial: Trial) -> float:
        mine.append(trial.number)
        trial.set_user_attr("process", tracking.process())
        try:
            return objective(trial)
        except RuntimeError as error:
            if not isinstance(error, UpdateFinishedTrialError):
                trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:1000])
                print(f"  trial {trial.number} failed: {type(error).__name__}: {error}", flush=True)
            raise
        except (ValueError, AssertionError) as error:
            raised[:] = [error]
            raise

    while True:
        try:
            study.optimize(watched, catch=(RuntimeError,), callbacks=list(callbacks))
            return
        except BudgetSpent:
            return
        except (UpdateFinishedTrialError, ValueError, AssertionError) as error:  # the latter two are Optuna's ways
            # This process was silent too long, and the trial is another's now: its result is not ours to tell.
            if error in raised or not mine or not _given_up(study, mine[-1]):
                raise
            print(f"  trial {mine[-1]} was given up for lost meanwhile: {error}", flush=True)
        except BaseException:
            # The process ends, the trial has not: another may have it. Without a database it falls silent instead.
            with suppress(Exception):
                for trial in owed(study):
                    if mine and trial.number == mine[-1]:
                        retry(study, trial)
            raise


def _given_up(study: Study, number: int) -> bool:
    return study.get_trials(deepcopy=False)[number].state == TrialState.FAIL


def unsettled(study: Study) -> bool:
    """Whether a trial waits, runs, or is about to be given to another process."""
    return bool(waiting(study) or running(study) or owed(study))


def pause(study: Study) -> None:
    """A moment's wait for the others; trials of those that have fallen silent are given up."""
    time.sleep(PAUSE)
    fail_stale_trials(study)


def close(study: Study) -> None:
    """Nothing is begun any more; what runs elsewhere is waited for."""
    study.set_user_attr("closed", True)
    told = False
    while True:
        for trial in waiting(study):
            if study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):  # nobody else has taken it
                study._storage.set_trial_user_attr(trial._trial_id, "withdrawn", True)
                study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        others = running(study)
        if not others:
            return
        if not told:
            print(f"  waiting for {len(others)} trials that other processes are at")
            told = True
        pause(study)


def closed(study: Study) -> bool:
    return bool(study.user_attrs.get("closed"))


# -- trials -----------------------------------------------------------------------------------------------------------


def finished(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def waiting(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def running(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def history(trial: FrozenTrial) -> list[int]:
    """The numbers of the trials that this one is a repetition of."""
    return list(trial.system_attrs.get("retry_history", []))


def owed(study: Study) -> list[FrozenTrial]:
    """Trials that ended without an answer through no fault of theirs, and that no copy waits for yet; none of a study
    that is closed."""
    if closed(study):
        return []
    trials = study.get_trials(deepcopy=False)
    repeated = {number for trial in trials for number in history(trial)}
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL
        and trial.number not in repeated
        and not trial.user_attrs.keys() & {"error", "withdrawn"}
        and len(history(trial)) < RETRIES
    ]


def retry(study: Study, trial: FrozenTrial) -> None:
    """Puts a copy of a trial that was given up where the next process takes it; ends the run of the dead one."""
    if run := trial.user_attrs.get("run"):
        client = MlflowClient()
        with suppress(MlflowException):
            if client.get_run(run).info.status == "RUNNING":
                client.set_tag(run, "outcome", "interrupted")
                client.set_terminated(run, "KILLED")
    if closed(study):
        return
    trial.user_attrs = {"retry of": trial.number}
    RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, trial)


def take_back(study: Study) -> None:
    """Repeats what nobody else will: whoever gave it up ended before it could put a copy in its place."""
    first = {trial.number for trial in owed(study)}
    if first:
        time.sleep(PAUSE)  # one that is still at it has done it by then
        for trial in owed(study):
            if trial.number in first:
                retry(study, trial)


def _give_up_what_is_dead(study: Study) -> None:
    """Trials of processes of this very machine that have ended: no need to wait for their silence."""
    for trial in running(study):
        process = trial.user_attrs.get("process", "")
        if process and tracking.is_dead(process):
            with suppress(UpdateFinishedTrialError):
                study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
