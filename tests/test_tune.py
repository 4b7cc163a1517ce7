"""What the study may propose, how a trial is judged, and when the default recipe is given up."""

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial

from digits.data import Split
from digits.fit import Recipe, TrainingSet
from digits.network import DigitNet
from pipelines import tune
from pipelines.parameters import Main
from pipelines.tune import (
    PROXY_DIGITS,
    Bench,
    Trialled,
    base_recipe,
    in_words,
    judge,
    log_study,
    lower_bound,
    part_of,
    suggest,
)


def trialled(loss: float, seed: int = 0, spread: float = 0.1) -> Trialled:
    rng = np.random.default_rng(seed)
    return Trialled({kind: loss + spread * rng.standard_normal(500) for kind in ("digits", "photographs")})


def test_the_default_recipe_lies_within_the_search_space() -> None:
    for count in (400, 8_000, 55_000):
        default = base_recipe(count)
        assert suggest(FixedTrial(asdict(default)), default) == default


def test_few_digits_are_learnt_in_small_batches() -> None:
    assert base_recipe(1_257).batch_size < base_recipe(8_000).batch_size < base_recipe(55_000).batch_size


def test_the_score_is_the_mean_over_the_kinds_whatever_their_numbers() -> None:
    judged = Trialled({"digits": np.zeros(10), "photographs": np.ones(1_000)})
    assert judged.score == 0.5


def test_a_clear_gain_is_above_nothing_and_chance_is_not() -> None:
    assert lower_bound(trialled(0.30), trialled(0.20, seed=1)) > 0.05
    assert lower_bound(trialled(0.30), trialled(0.30, seed=1)) < 0


def test_a_network_is_judged_at_its_best_temperature() -> None:
    """Logits ten times as large are as good: no recipe wins by being calibrated, which is mended later."""
    rng = np.random.default_rng(0)
    kinds = {"digits": Split(rng.integers(0, 256, (64, 28, 28), np.uint8), rng.integers(0, 10, 64))}
    net = DigitNet(0.0).eval()
    before = judge(net, kinds, "cpu").score
    net.output.weight.data.mul_(10)
    net.output.bias.data.mul_(10)
    assert judge(net, kinds, "cpu").score == pytest.approx(before, rel=0.02)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bench whose confirmations give prepared results, without training and MLflow."""
    made = Bench.__new__(Bench)
    made.parameters = Main.parse(["--tune_minutes", "10"])
    made.job, made.epochs, made.spent_before, made.started = "job", 2, 0.0, time.monotonic()
    monkeypatch.setattr(tune.tracking, "run", lambda *_, **__: nullcontext())
    monkeypatch.setattr(tune.mlflow, "log_params", lambda _: None)
    monkeypatch.setattr(tune.mlflow, "log_metrics", lambda _: None)
    return made


def study_of(**scores: float) -> optuna.Study:
    """A study of two complete trials: the default recipe and another one."""
    study = optuna.create_study()
    for name, score in scores.items():
        recipe = Recipe() if name == "default" else replace(Recipe(), dropout=0.3)
        study.enqueue_trial(asdict(recipe))
        trial = study.ask()
        suggest(trial, Recipe())
        study.tell(trial, score)
    return study


def test_the_winner_that_wins_again_is_taken(bench: Any) -> None:
    results = iter([trialled(0.20, seed=1), trialled(0.30)])
    bench.trial_of = lambda *_: next(results)
    best, why = bench.choose(study_of(default=0.301, other=0.2), Recipe())
    assert best.dropout == 0.3
    assert "replaces the default recipe" in why


def test_the_winner_that_does_not_win_again_is_not(bench: Any) -> None:
    results = iter([trialled(0.30, seed=1), trialled(0.30)])
    bench.trial_of = lambda *_: next(results)
    best, why = bench.choose(study_of(default=0.301, other=0.2), Recipe())
    assert best == Recipe()
    assert "not surely" in why


def test_a_gain_smaller_than_what_the_seed_does_is_not_believed(bench: Any) -> None:
    for default, moved in ((0.40, "0.1"), (0.32, "0.02")):  # three times as much, and half as much again
        results = iter([trialled(0.27, seed=1, spread=0.01), trialled(0.30, spread=0.01)])
        bench.trial_of = lambda *_, results=results: next(results)
        best, why = bench.choose(study_of(default=default, other=0.2), Recipe())
        assert best == Recipe()
        assert f"the seed alone moves the default by {moved}" in why


def test_a_slow_worker_does_not_use_up_the_time_of_the_confirmation(bench: Any) -> None:
    study = study_of(default=0.301, other=0.2)
    start = datetime(2026, 1, 1)
    slow = optuna.trial.create_trial(
        value=0.5,
        params=study.trials[1].params,
        distributions=study.trials[1].distributions,
        user_attrs={"worker": "w"},
    )
    slow.datetime_start, slow.datetime_complete = start, start + timedelta(hours=1)
    study.add_trial(slow)
    assert bench.has_time(study)
    results = iter([trialled(0.20, seed=1), trialled(0.30)])
    bench.trial_of = lambda *_: next(results)
    assert bench.choose(study, Recipe())[0].dropout == 0.3


def test_where_the_default_is_best_nothing_is_confirmed(bench: Any) -> None:
    best, why = bench.choose(study_of(default=0.2, other=0.3), Recipe())
    assert best == Recipe()
    assert "default recipe was the best of 2" in why


def test_a_recipe_is_told_by_what_differs() -> None:
    assert in_words(replace(Recipe(), dropout=0.25), Recipe()) == "dropout 0.25"
    assert in_words(Recipe(), Recipe()) == "the default recipe"


def test_a_trial_shows_as_many_pictures_as_it_is_said_to_of_every_kind() -> None:
    many = Split(np.zeros((55_000, 28, 28), np.uint8), np.arange(55_000))
    train = TrainingSet(many, Split(many.images[:24_000], np.arange(24_000)), np.zeros((19_000, 28, 28), np.uint8))
    part = part_of(train, PROXY_DIGITS)
    assert part.photographs is not None
    assert part.outliers is not None
    shares = [len(part.digits) / 55_000, len(part.photographs) / 24_000, len(part.outliers) / 19_000]
    assert shares == pytest.approx([PROXY_DIGITS / 55_000] * 3, rel=0.01)
    assert part.photographs.labels[-1] > 23_900, "one's own pictures come last"
    assert len(part_of(TrainingSet(many), 10**6)) == 55_000


def test_a_trial_is_small_where_there_are_few_digits_and_many_other_pictures() -> None:
    few = Split(np.zeros((1_257, 28, 28), np.uint8), np.arange(1_257))
    others = Split(np.zeros((24_000, 28, 28), np.uint8), np.arange(24_000))
    part = part_of(TrainingSet(few, others, np.zeros((19_000, 28, 28), np.uint8)), PROXY_DIGITS)
    assert len(part.digits) == 1_257
    assert len(part) == pytest.approx(2 * 1_257, rel=0.01)


def test_no_trial_is_begun_that_would_leave_no_time_for_the_confirmation(bench: Any) -> None:
    study = study_of(default=1.0)
    (trial,) = study.get_trials(deepcopy=False)
    assert trial.datetime_start is not None
    for seconds, spent, expected in ((100, 250, True), (100, 350, False), (10, 560, True), (10, 590, False)):
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=seconds)
        bench.spent_before, bench.started = spent, time.monotonic()
        assert bench.has_time(study) is expected, (seconds, spent)


def test_the_same_digits_in_another_state_are_not_drawn_anew() -> None:
    """Twins move together: as certain as one of them, not more."""
    rng = np.random.default_rng(0)
    first = {"digits": rng.random(300)}
    second = {"digits": rng.random(300)}
    twins = [Trialled({**kinds, "disturbed": kinds["digits"]}) for kinds in (first, second)]
    assert lower_bound(*twins) == pytest.approx(lower_bound(Trialled(first), Trialled(second)))


def test_a_study_that_nothing_came_of_says_whether_its_trials_failed(bench: Any) -> None:
    study = optuna.create_study()
    assert "No trial came to its end in the time given." in bench.choose(study, Recipe())[1]
    trial = study.ask()
    trial.set_user_attr("error", "RuntimeError: out of memory")
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert "No trial came to its end: 1 failed" in bench.choose(study, Recipe())[1]


def test_the_table_of_trials_has_no_score_for_one_that_was_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(default=0.3, other=0.4)
    trial = study.ask()
    suggest(trial, Recipe())
    trial.report(0.01, step=1)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert study.trials[-1].value == 0.01, "Optuna keeps what it was pruned by"
    tables: dict[str, Any] = {}
    monkeypatch.setattr(tune.logbook, "log_table", lambda name, _, rows: tables.update({name: rows}))
    for name in ("log_params", "log_dict", "log_text", "log_metrics", "log_figure"):
        monkeypatch.setattr(tune.mlflow, name, lambda *_: None)
    log_study(study, Recipe(), "why")
    assert [row[:3] for row in tables["study/trials.json"]] == [
        [0, "complete", 0.3],
        [1, "complete", 0.4],
        [2, "pruned", None],
    ]
