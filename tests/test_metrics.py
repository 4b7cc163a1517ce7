"""Every figure that a report quotes, against values worked out by hand or by a second way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digits import metrics


def test_the_interval_is_wilsons():
    low, high = metrics.accuracy_interval(9963, 10_000)
    assert (low, high) == pytest.approx((0.99491, 0.99732), abs=1e-5)


@given(st.integers(1, 500), st.floats(0, 1, allow_subnormal=False))
def test_the_interval_holds_the_estimate_and_stays_within_zero_and_one(count, share):
    correct = round(share * count)
    low, high = metrics.accuracy_interval(correct, count)
    assert 0 <= low <= correct / count + 1e-9
    assert correct / count - 1e-9 <= high <= 1


def test_likelihood_and_brier_of_a_certain_right_answer_are_zero_and_of_a_guess_are_known():
    labels = np.array([3, 5])
    assert metrics.negative_log_likelihood(np.eye(10)[labels], labels) == pytest.approx(0)
    assert metrics.brier(np.eye(10)[labels], labels) == pytest.approx(0)
    guess = np.full((2, 10), 0.1)
    assert metrics.negative_log_likelihood(guess, labels) == pytest.approx(np.log(10))
    assert metrics.brier(guess, labels) == pytest.approx(0.9)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    probabilities = np.zeros((10, 10))
    probabilities[:, 0], probabilities[:, 1] = 0.9, 0.1
    labels = np.array([0] * 6 + [1] * 4)
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx(0.3)
    assert metrics.expected_calibration_error(probabilities, np.array([0] * 9 + [1])) == pytest.approx(0)


def test_mcnemar_looks_only_at_the_pictures_on_which_two_models_differ():
    first = np.array([True] * 900 + [True] * 10 + [False] * 0)
    second = np.array([True] * 900 + [False] * 10)
    assert metrics.mcnemar(first, second) == pytest.approx(2 * 0.5**10)
    assert metrics.mcnemar(first, first) == 1.0
    assert metrics.mcnemar(first, second) == metrics.mcnemar(second, first)


def test_the_temperature_undoes_a_scaling_of_calibrated_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 10)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (chances.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    assert metrics.fit_temperature(logits, labels) == pytest.approx(1, abs=0.05)
    assert metrics.fit_temperature(logits * 3, labels) == pytest.approx(3, abs=0.15)


def test_ten_probabilities_sum_to_one_and_digitness_falls_with_the_logits():
    logits = np.array([[5.0] + [0.0] * 9, [-9.0] * 10])
    probabilities, digitness = metrics.scores_of(logits, 1.3)
    assert probabilities.sum(axis=1) == pytest.approx([1, 1])
    assert digitness[0] > 0.9 > 0.1 > digitness[1]


def test_auroc_is_one_for_separated_scores_and_a_half_for_equal_ones():
    assert metrics.auroc(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1
    assert metrics.auroc(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0.5


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=200), st.floats(0, 0.5, allow_subnormal=False)
)
def test_the_threshold_never_refuses_more_than_asked(scores, share):
    values = np.array(scores)
    threshold = metrics.threshold_for(values, share)
    assert (values < threshold).mean() <= share + 1e-12
    assert (values <= threshold).mean() > share - 1 / len(values), "a higher one would do, too"
