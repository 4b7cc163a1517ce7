"""A study that several processes work off: the budget is kept, nothing is lost, nothing is run twice."""

import socket
import threading
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.study import Study
from optuna.trial import Trial, TrialState

from pipelines import shared
from pipelines.errors import UserError

FACTS = {"name": "digits"}


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path / 'optuna.db'}")
    monkeypatch.setattr(shared, "FOLDER", tmp_path)
    monkeypatch.setattr(shared, "PAUSE", 0.01)


def create(budget: int = 3) -> Study:
    return shared.create("digits-1", 0, budget, {"x": 0.5}, FACTS)


def is_led(_: object) -> bool:
    return True


def objective(trial: Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def test_as_many_trials_are_run_as_were_asked_for_and_the_first_is_the_one_given() -> None:
    study = create(4)
    shared.work(study, objective)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert study.trials[0].params == {"x": 0.5}
    assert len({trial.params["x"] for trial in study.trials}) == 4


def test_several_at_once_keep_the_budget_and_run_nothing_twice() -> None:
    create(12)
    seen: Counter[int] = Counter()

    def help_out() -> None:
        joined, _ = shared.join("digits", 0, is_led)
        shared.work(joined, lambda trial: seen.update([trial.number]) or objective(trial))

    helpers = [threading.Thread(target=help_out) for _ in range(4)]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    assert seen == Counter(range(12))


def test_a_study_that_is_gone_on_with_keeps_its_budget() -> None:
    shared.work(create(3), objective)
    shared.work(create(3), objective)
    assert len(create(3).trials) == 3


def test_an_error_costs_one_trial() -> None:
    study = create(3)

    def fail_once(trial: Trial) -> float:
        if trial.number == 1:
            raise RuntimeError("out of memory")
        return objective(trial)

    shared.work(study, fail_once)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["error"] == "RuntimeError: out of memory"
    assert not shared.unsettled(study)


def test_a_mistake_in_the_code_ends_the_study_and_is_not_taken_for_a_trial_given_up() -> None:
    study = create(3)

    def mistaken(_: Trial) -> float:
        raise ValueError("expected more than one value")

    with pytest.raises(ValueError, match="more than one value"):
        shared.work(study, mistaken)
    assert [trial.state.name for trial in study.trials if trial.state.is_finished()] == ["FAIL"]


def test_an_interrupted_trial_waits_for_another_process_with_the_same_parameters() -> None:
    study = create(2)

    def interrupted(trial: Trial) -> float:
        objective(trial)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared.work(study, interrupted)
    other, _ = shared.join("digits", 0, is_led)
    shared.work(other, objective)
    assert [trial.state.name for trial in other.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert other.trials[2].params == {"x": 0.5}
    assert other.trials[2].user_attrs["retry of"] == 0


def test_a_trial_of_a_process_that_died_here_is_repeated_when_the_study_goes_on() -> None:
    study = create(2)
    number = study._pop_waiting_trial_id()
    assert number is not None
    study._storage.set_trial_user_attr(number, "process", "elsewhere 1 0")  # of another machine: may be alive
    shared.work(create(2), objective)
    assert len(shared.running(study)) == 1
    study._storage.set_trial_user_attr(number, "process", f"{socket.gethostname()} 999999999 0")
    shared.work(create(2), objective)
    assert Counter(trial.state.name for trial in study.trials) == {"FAIL": 1, "COMPLETE": 2}


def test_what_keeps_ending_its_process_is_left_alone_in_the_end() -> None:
    study = create(1)
    attempts = 0

    def fatal(trial: Trial) -> float:
        raise KeyboardInterrupt

    while shared.waiting(study):
        attempts += 1
        with pytest.raises(KeyboardInterrupt):
            shared.work(study, fatal)
    assert attempts == shared.RETRIES + 1


def test_a_study_that_nobody_is_at_is_passed_over_for_an_older_one() -> None:
    for number in (1, 2):
        shared.create(f"digits-{number}", 0, 1, {"x": 0.5}, FACTS | {"run": number})
    joined, _ = shared.join("digits", 0, lambda facts: facts["run"] == 1)
    assert joined.study_name == "digits-1"
    with pytest.raises(UserError, match="nobody is at digits-2"):
        shared.join("digits", 0, lambda _: False)


def test_nothing_is_owed_to_a_study_that_is_closed() -> None:
    study = create(1)
    number = study._pop_waiting_trial_id()
    assert number is not None
    study._storage.set_trial_state_values(number, TrialState.FAIL)
    assert len(shared.owed(study)) == 1
    shared.close(study)
    assert not shared.unsettled(study)


def test_a_closed_study_begins_nothing_more_and_nobody_joins_it() -> None:
    study = create(3)
    study.optimize(objective, n_trials=1)
    shared.close(study)
    with pytest.raises(shared.BudgetSpent):
        study.optimize(objective, n_trials=1)
    assert len(shared.finished(study)) == 1
    with pytest.raises(UserError, match="there is no open study"):
        shared.join("digits", 0, is_led)


def test_the_newest_open_study_of_a_name_is_joined_and_a_full_name_is_obeyed() -> None:
    shared.create("digits-1", 0, 1, {}, FACTS)
    shared.create("digits-2", 0, 1, {}, FACTS)
    shared.create("other-3", 0, 1, {}, {"name": "other"})
    assert shared.join("digits", 0, is_led)[0].study_name == "digits-2"
    assert shared.join("digits-1", 0, is_led)[0].study_name == "digits-1"


def test_a_worker_does_not_wait_for_ever_and_makes_no_tables(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody has started one"):
        shared.join("digits", 0, is_led)
    assert (tmp_path / "optuna.db").stat().st_size == 0


def test_a_database_of_no_known_kind_is_a_user_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "cloud://somewhere")
    with pytest.raises(UserError, match="expected postgresql"):
        create()
    with pytest.raises(UserError, match="expected postgresql"):
        shared.join("digits", 10, is_led)


def test_optuna_still_asks_for_trials_where_the_budget_is_kept() -> None:
    """`Slots` overrides a method that Optuna does not call public."""
    with pytest.raises(shared.BudgetSpent):
        optuna.create_study(storage=shared.connect(make=True)).optimize(objective, n_trials=1)


def test_a_trial_whose_process_ended_before_it_could_say_anything_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared, "SILENCE", 1)
    study = create(1)
    (waits,) = shared.waiting(study)
    assert study._storage.set_trial_state_values(waits._trial_id, TrialState.RUNNING)  # and nothing more is heard
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    deadline = time.monotonic() + 60
    while study.trials[0].state == TrialState.RUNNING and time.monotonic() < deadline:
        shared.pause(study)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert shared.history(study.trials[1]) == [0]
