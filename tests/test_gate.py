"""The gate lets through what is not worse, and says why it keeps out what is."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.gate import Evidence, compare, decide


def evidence(version: int = 1, wrong: int = 30, count: int = 10_000, **changes: object) -> Evidence:
    """`wrong` mistakes on the test digits, 40 of 1,000 hard photographs, 100 times right of 115 under corruption."""
    right = np.ones(count, bool)
    right[:wrong] = False
    photographs = np.ones(1_000, bool)
    photographs[:40] = False
    sets = {"test_digits": "t", "photographs_hard": "p", "corruptions": "c"}
    answers = {"test_digits": right, "photographs_hard": photographs, "corruptions": np.full(1_000, 100, np.uint16)}
    made = Evidence(version, "mnist", float(right.mean()), sets, answers)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_first_model_above_the_floor_becomes_champion() -> None:
    assert decide(evidence(), None, 0.98).promote


def test_nothing_below_the_floor_becomes_champion() -> None:
    decision = decide(evidence(wrong=300), None, 0.98)
    assert not decision.promote
    assert "97.00% is below the floor of 98.00%" in decision.reasons[0]


def test_an_equal_model_is_let_through() -> None:
    assert decide(evidence(2), evidence(1), 0.98).promote


def test_a_few_mistakes_more_are_chance() -> None:
    assert decide(evidence(2, wrong=34), evidence(1, wrong=30), 0.98).promote


def test_a_significantly_worse_model_is_kept_out_and_the_reason_has_the_numbers() -> None:
    decision = decide(evidence(2, wrong=80), evidence(1, wrong=30), 0.98)
    assert not decision.promote
    assert "99.20% against 99.70% of 10,000 (McNemar p =" in decision.reasons[0]


def test_better_on_clean_digits_does_not_outweigh_worse_on_photographs() -> None:
    better = evidence(2, wrong=5)
    photographs = np.ones(1_000, bool)
    photographs[:100] = False
    better.right["photographs_hard"] = photographs
    decision = decide(better, evidence(1, wrong=60), 0.98)
    assert not decision.promote
    assert "photographs hard" in decision.reasons[0]


def test_worse_under_corruption_is_kept_out() -> None:
    worse = evidence(2)
    worse.right["corruptions"] = np.full(1_000, 97, np.uint16)
    decision = decide(worse, evidence(1), 0.98)
    assert not decision.promote
    assert "corruptions" in decision.reasons[0]


def test_a_model_of_the_bundled_digits_never_replaces_one_of_mnist() -> None:
    bundled = evidence(2, wrong=0, dataset="digits")
    assert not decide(bundled, evidence(1, wrong=150), 0.5).promote


def test_a_model_of_mnist_replaces_one_of_the_bundled_digits() -> None:
    assert decide(evidence(2), evidence(1, wrong=0, dataset="digits"), 0.98).promote


def test_a_quick_try_makes_way_for_a_model_that_was_measured_on_more_pictures() -> None:
    quick = evidence(1, wrong=0, count=400, sets={"test_digits": "of a quick try"})
    decision = decide(evidence(2), quick, 0.98)
    assert decision.promote
    assert "10,000 test pictures, the champion, with a limit, on 400" in decision.reasons[0]


def test_other_test_pictures_are_never_compared() -> None:
    quick = evidence(2, wrong=0, count=200, sets={"test_digits": "of a quick try"})
    decision = decide(quick, evidence(1), 0.98)
    assert not decision.promote
    assert "other test pictures (200) than the champion (10,000)" in decision.reasons[0]


@pytest.mark.parametrize("challenger", [True, False])
def test_sets_that_only_one_model_was_measured_on_do_not_count_and_are_named(challenger: bool) -> None:
    models = evidence(2), evidence(1)
    for name in ("my_pictures", "my_pictures_accepted"):
        models[0 if challenger else 1].sets[name] = "m"
        models[0 if challenger else 1].right[name] = np.zeros(100, bool)
    decision = decide(*models, 0.98)
    assert decision.promote
    assert decision.reasons[-1] == "not compared, since only one of the two was measured on it: my pictures"


def test_what_was_measured_on_other_pictures_is_named() -> None:
    champion, challenger = evidence(1), evidence(2)
    for model, pictures in ((champion, "old"), (challenger, "new")):
        model.sets["no_digit"] = pictures
        model.right["no_digit"] = np.zeros(100, bool)
    decision = decide(challenger, champion, 0.98)
    assert decision.promote
    assert decision.reasons[-1] == "not compared, since the two were measured on different pictures: no digit"


def test_a_model_that_takes_letters_for_digits_or_refuses_digits_is_kept_out() -> None:
    champion, challenger = evidence(1), evidence(2)
    for model, refused, accepted in ((champion, 940, 9_800), (challenger, 60, 9_800)):
        model.sets.update({"no_digit_kinds_trained_on": "n", "test_digits_accepted": "a"})
        model.right["no_digit_kinds_trained_on"] = np.arange(1_000) < refused
        model.right["test_digits_accepted"] = np.arange(10_000) < accepted
    decision = decide(challenger, champion, 0.98)
    assert not decision.promote
    assert "no digit kinds trained on: 6.00% against 94.00% of 1,000" in decision.reasons[0]
    challenger.right["no_digit_kinds_trained_on"] = champion.right["no_digit_kinds_trained_on"]
    assert decide(challenger, champion, 0.98).promote
    challenger.right["test_digits_accepted"] = np.arange(10_000) < 5_000
    assert not decide(challenger, champion, 0.98).promote


def test_more_folders_do_not_make_it_easier_to_be_worse_on_the_test_digits() -> None:
    champion, challenger = evidence(1), evidence(2, wrong=38)  # eight more: p = 0.008
    folders = {f"folder_{number}": np.arange(1_000) >= 40 for number in range(40)}
    for model in (champion, challenger):
        model.sets.update(dict.fromkeys(folders, "f"))
        model.right.update(folders)
    assert "test digits: 99.62% against 99.70%" in decide(challenger, champion, 0.98).reasons[0]
    assert not decide(challenger, champion, 0.98).promote
    challenger.right["test_digits"] = champion.right["test_digits"]
    challenger.right["folder_7"] = np.arange(1_000) >= 48  # the same p, of one set of many
    assert decide(challenger, champion, 0.98).promote


def test_what_is_better_by_ranks_is_not_called_worse_for_a_few_that_fell_far() -> None:
    counts = np.full(1_000, 100)
    changed = counts + 1
    changed[:40] -= 31
    _, p, better = compare("corruptions", changed, counts)
    assert changed.mean() < counts.mean()
    assert p < 1e-6
    assert better > 0


@pytest.mark.parametrize("gain", [-1, 1])
def test_the_comparison_knows_which_side_is_better(gain: int) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(50, 60, 500)
    _, p, better = compare("corruptions", counts + gain, counts)
    assert p < 0.001
    assert np.sign(better) == gain
