"""The model at work: what it accepts, what it decides, and what it refuses to load."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from digits.classifier import AT_ONCE, BAR, DISTANCE, ODDS, PRESENCE, Answer, Classifier, ModelError
from digits.imaging import Reading
from tests.models import batch_length, tiny_model, witness_model


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(tiny_model(version="7"))


def some_images(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 28, 28), np.uint8)


def test_scores_are_one_distribution_a_row_whatever_the_batch(classifier: Classifier) -> None:
    images = some_images(9)
    probabilities, digitness = classifier.scores(images)
    assert probabilities.shape == (9, 10)
    assert probabilities.dtype == np.float32
    assert digitness.shape == (9,)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(9), abs=1e-5)
    for row, image in zip(probabilities, images, strict=True):
        assert classifier.scores(image[None])[0][0] == pytest.approx(row, abs=1e-5)


def test_no_pictures_give_no_scores(classifier: Classifier) -> None:
    probabilities, digitness = classifier.scores(np.empty((0, 28, 28), np.uint8))
    assert (probabilities.shape, digitness.shape) == ((0, 10), (0,))
    assert classifier.classify([]) == []


@pytest.mark.parametrize(
    "images", [np.zeros((1, 28, 28), np.float32), np.zeros((28, 28), np.uint8), np.zeros((1, 28, 29), np.uint8)]
)
def test_other_shapes_and_types_are_refused_by_name(classifier: Classifier, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        classifier.scores(images)


def decide(classifier: Classifier, rows: list[list[float]], digitness: list[float], **reading: Any) -> Answer:
    images = np.zeros((len(rows), 28, 28), np.uint8)
    return classifier.decide(Reading(images, **reading), np.array(rows, np.float32), np.array(digitness, np.float32))


def row(digit: int, probability: float) -> list[float]:
    return [probability if d == digit else (1 - probability) / 9 for d in range(10)]


def test_probabilities_are_weighted_by_a_power_of_the_odds_of_being_a_digit(classifier: Classifier) -> None:
    answer = decide(classifier, [row(3, 0.9), row(8, 0.8), row(1, 0.99)], [0.5, 0.9, 0.1])
    weights = [1, 9**ODDS, 9**-ODDS]
    expected = [0.1 / 9, 0.8, 0.01 / 9]  # of each for an 8
    assert answer.digit == 8
    assert answer.probability == pytest.approx(np.dot(weights, expected) / sum(weights))
    assert answer.probabilities[8] == answer.probability
    assert sum(answer.probabilities) == pytest.approx(1)


def test_the_candidate_that_is_most_surely_the_digit_is_chosen_and_the_first_of_equals(classifier: Classifier) -> None:
    answer = decide(classifier, [row(3, 0.99), row(8, 0.7), row(8, 0.9)], [0.3, 0.95, 0.9])
    assert (answer.digit, answer.chosen, answer.accepted) == (8, 2, True)
    assert answer.score == pytest.approx(0.9 * 0.9)
    assert decide(classifier, [row(3, 0.9), row(3, 0.9)], [0.7, 0.7]).chosen == 0


def test_candidates_that_say_something_else_make_the_answer_less_certain(classifier: Classifier) -> None:
    assert decide(classifier, [row(8, 0.8)], [0.9]).probability == pytest.approx(0.8)
    agreed = decide(classifier, [row(8, 0.8), row(8, 0.8)], [0.9, 0.5])
    assert agreed.probability == pytest.approx(0.8)
    torn = decide(classifier, [row(8, 0.9), row(3, 0.9)], [0.9, 0.5])
    assert torn.digit == 8
    assert torn.probability < 0.8
    assert torn.probabilities[3] > 0.2


@pytest.mark.parametrize("digitness", [[0, 0], [1, 1]])
def test_what_the_model_is_sure_of_counts_no_more_than_arithmetic_allows(
    classifier: Classifier, digitness: list[float]
) -> None:
    answer = decide(classifier, [row(8, 0.9), row(3, 0.8)], digitness)
    assert answer.digit == 8
    assert answer.probability == pytest.approx((0.9 + 0.2 / 9) / 2)


def test_a_one_counts_less_in_a_photograph_where_every_edge_looks_like_it(classifier: Classifier) -> None:
    candidates = [row(1, 0.99), row(5, 0.9)], [0.99, 0.95]
    assert decide(classifier, *candidates).digit == 1
    assert decide(classifier, *candidates, photograph=True).digit == 5
    assert decide(classifier, *candidates, photograph=True, apart=(0.01, 0.2)).digit == 1, "a segmenter sees it, too"
    surer = decide(classifier, [row(1, 0.99), row(5, 0.9)], [0.999, 0.05], photograph=True)
    weights = [BAR * 999**ODDS, 19**-ODDS]
    assert surer.probability == pytest.approx(np.dot(weights, [0.99, 0.1 / 9]) / sum(weights), abs=1e-4)
    alone = decide(classifier, [row(1, 0.9)], [classifier.threshold / 0.89], photograph=True)
    assert (alone.digit, alone.accepted) == (1, True)  # that is no reason to refuse


def test_a_one_in_which_a_segmenter_sees_no_strokes_is_an_edge(classifier: Classifier) -> None:
    for digit, unseen, accepted in ((1, False, True), (1, True, False), (7, True, True)):
        answer = decide(classifier, [row(digit, 0.99)], [0.99], photograph=True, unseen=unseen)
        assert (answer.digit, answer.accepted, answer.score > 0) == (digit, accepted, accepted)


def test_a_photograph_is_accepted_where_its_candidates_agree_and_a_segmenter_finds_a_digit() -> None:
    classifier = Classifier(tiny_model(photograph_threshold="0.5"))
    digit, rim = (row(5, 0.99), 0.99), (row(5, 0.6), 0.02)
    alone = decide(classifier, [digit[0]], [digit[1]], photograph=True)
    assert alone.score == pytest.approx(0.99 * 0.99)
    among = decide(classifier, [digit[0], rim[0]], [digit[1], rim[1]], photograph=True)
    assert (among.digit, among.chosen) == (5, 0)
    assert among.score < alone.score
    doubted = decide(classifier, [digit[0]], [digit[1]], photograph=True, present=0.01)
    assert doubted.score == pytest.approx(alone.score * 0.01**PRESENCE)
    thumbnail = decide(classifier, [digit[0], rim[0]], [digit[1], rim[1]])
    assert thumbnail.score == pytest.approx(0.99 * 0.99)


def test_photographs_have_a_threshold_of_their_own_on_the_scale_of_the_other() -> None:
    both = Classifier(tiny_model(threshold=0.9, photograph_threshold="0.5"))
    for support, accepted in ((0.51, True), (0.49, False)):
        answer = decide(both, [row(5, 0.99)], [support / 0.99], photograph=True)
        assert (answer.accepted, answer.score > 0.9) == (accepted, accepted)
        assert answer.score == pytest.approx(support ** (np.log(0.9) / np.log(0.5)))
        assert decide(both, [row(5, 0.99)], [support / 0.99]).score == pytest.approx(support)
    for threshold, accepted in (("0", True), ("1", False)):
        extreme = Classifier(tiny_model(threshold=0.9, photograph_threshold=threshold))
        answer = decide(extreme, [row(5, 0.9)], [0.9], photograph=True)
        assert 0 <= answer.score <= 1
        assert answer.accepted is accepted


def test_a_model_of_before_is_held_to_the_rule_of_before(classifier: Classifier) -> None:
    rim = (row(5, 0.6), 0.02)
    answer = decide(classifier, [row(5, 0.99), rim[0]], [0.99, rim[1]], photograph=True, present=0.01)
    assert answer.score == pytest.approx(0.99 * 0.99)


def test_what_a_segmenter_sees_counts_more(classifier: Classifier) -> None:
    candidates = [row(8, 0.9), row(3, 0.9)], [0.9, 0.8]
    assert decide(classifier, *candidates).digit == 8
    seen = decide(classifier, *candidates, apart=(0.2, 0.0))
    assert (seen.digit, seen.chosen) == (3, 1)
    weights = [9**ODDS * np.exp(-0.2 * DISTANCE), 4**ODDS]
    assert seen.probability == pytest.approx(np.dot(weights, [0.1 / 9, 0.9]) / sum(weights))


def test_what_is_below_the_threshold_crowded_or_blank_is_not_accepted_but_answered(classifier: Classifier) -> None:
    assert decide(classifier, [row(4, 0.9)], [0.9]).accepted
    for answer, score in (
        (decide(classifier, [row(4, 0.9)], [0.5]), 0.45),
        (decide(classifier, [row(4, 0.9)], [0.9], crowded=True), 0),
        (decide(classifier, [row(4, 0.9)], [0.9], blank=True), 0),
        (decide(classifier, [row(4, 0.9), row(9, 0.95), row(7, 0.9)], [0.99, 0.98, 0.97]), 0),
    ):
        assert not answer.accepted
        assert answer.digit == 4
        assert answer.score == pytest.approx(score)


def test_classify_calls_the_model_once_for_all_candidates_of_all_readings() -> None:
    witness = Classifier(witness_model())
    readings = [Reading(some_images(count)) for count in (1, 3, 2)]
    answers = witness.classify(readings)
    assert [batch_length(answer.probability) for answer in answers] == [6, 6, 6]


def test_classify_takes_many_readings_in_parts() -> None:
    answers = Classifier(witness_model()).classify([Reading(some_images(2))] * (2 * AT_ONCE + 3))
    assert [batch_length(answer.probability) for answer in answers] == [2 * AT_ONCE] * 2 * AT_ONCE + [6] * 3


def test_classify_gives_each_reading_its_own_candidates(classifier: Classifier) -> None:
    readings = [Reading(some_images(6)[start:end]) for start, end in ((0, 1), (1, 4), (4, 6))]
    together = classifier.classify(readings)
    for reading, answer in zip(readings, together, strict=True):
        alone = classifier.classify([reading])[0]
        assert (alone.digit, alone.chosen) == (answer.digit, answer.chosen)
        assert alone.probabilities == pytest.approx(answer.probabilities, abs=1e-5)


def test_metadata_carry_threshold_and_version() -> None:
    model = Classifier(tiny_model(threshold=0.25, version="12", run_id="r"))
    assert (model.threshold, model.metadata["version"], model.metadata["run_id"]) == (0.25, "12", "r")


def test_a_model_without_metadata_has_the_usual_threshold() -> None:
    bare = onnx.load_from_string(tiny_model())
    del bare.metadata_props[:]
    assert Classifier(bare.SerializeToString()).threshold == 0.5


@pytest.mark.parametrize("threshold", ["much", "nan", "1.5", "-1"])
def test_a_threshold_that_is_no_share_is_refused(threshold: str) -> None:
    model = onnx.load_from_string(tiny_model())
    next(p for p in model.metadata_props if p.key == "threshold").value = threshold
    with pytest.raises(ModelError, match="threshold"):
        Classifier(model.SerializeToString())


def altered(**shapes: list[object]) -> bytes:
    """The small model with its input or an output declared otherwise."""
    model = onnx.load_from_string(tiny_model())
    for values in (model.graph.input, model.graph.output):
        for index, value in enumerate(list(values)):
            if value.name in shapes:
                values[index].CopyFrom(helper.make_tensor_value_info(value.name, *shapes[value.name]))
    return model.SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no model",
        tiny_model()[:500],
        altered(images=[TensorProto.FLOAT, ["n", 28, 28]]),
        altered(images=[TensorProto.UINT8, ["n", 32, 32]]),
    ],
)
def test_what_is_no_model_of_this_kind_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(ModelError) as refused:
        Classifier(content)
    assert "\n" not in str(refused.value)


def test_a_softmax_over_the_batch_is_refused_because_its_rows_do_not_sum_to_one() -> None:
    model = onnx.load_from_string(tiny_model())
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 0
    with pytest.raises(ModelError, match="sum to 1"):
        Classifier(model.SerializeToString())


def test_a_model_whose_digitness_is_no_number_is_refused() -> None:
    model = onnx.load_from_string(tiny_model())
    node = next(node for node in model.graph.node if node.output[0] == "digitness")
    node.output[0] = "largest"
    model.graph.node.append(onnx.helper.make_node("Div", ["largest", "largest"], ["digitness"]))
    with pytest.raises(ModelError, match="digitness"):
        Classifier(model.SerializeToString())
