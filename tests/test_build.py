"""What int8 may cost, what is served where it costs more, and what is never served."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from digits.classifier import Classifier
from digits.data import load
from digits.export import run, with_metadata
from digits.fit import TrainingSet
from digits.imaging import Reading
from digits.network import DigitNet
from pipelines import train
from pipelines.material import Material, Sent, TrainedSegmenter
from pipelines.train import (
    ExportError,
    Outcome,
    affordable,
    belief,
    build,
    check_agreement,
    price,
    threshold_of_photographs,
)
from tests.models import tiny_model, tiny_segmenter

DIGITS, PHOTOGRAPHS = 5_000, 1_500
LABELS = np.random.default_rng(0).integers(0, 10, DIGITS + PHOTOGRAPHS)


def outcome(wrong: int = 0, first: int = 0) -> Outcome:
    """Sure answers, right but for so many from row `first` on; accepted by a random digitness."""
    probabilities = np.full((len(LABELS), 10), 0.01)
    read = LABELS.copy()
    read[first : first + wrong] = (read[first : first + wrong] + 1) % 10
    probabilities[np.arange(len(read)), read] = 0.91
    return probabilities, np.random.default_rng(1).random(len(LABELS))


def cost(small: Outcome) -> dict[str, float]:
    return price(outcome(), small, LABELS, DIGITS)


def test_nothing_costs_nothing() -> None:
    assert set(cost(outcome()).values()) == {0.0}
    assert affordable(cost(outcome()), DIGITS, len(LABELS))


@pytest.mark.parametrize(
    ("wrong", "first", "passes"), [(1, 0, True), (2, 0, False), (7, DIGITS, True), (8, DIGITS, False)]
)
def test_digits_and_photographs_are_counted_each_by_themselves(wrong: int, first: int, passes: bool) -> None:
    assert affordable(cost(outcome(wrong, first)), DIGITS, len(LABELS)) is passes


def test_what_is_accepted_must_stay_so() -> None:
    probabilities, digitness = outcome()
    assert not affordable(cost((probabilities, digitness[::-1])), DIGITS, len(LABELS))


def test_a_picture_of_few_is_no_reason_and_two_are() -> None:
    few = LABELS[:180]
    full = tuple(part[:180] for part in outcome())
    for wrong, passes in ((1, True), (2, False)):
        small = tuple(part[:180] for part in outcome(wrong))
        assert affordable(price(full, small, few, 180), 180, 180) is passes  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    data = load("digits", tmp_path_factory.mktemp("empty"))
    some = data.train.take(np.arange(200))
    return Material(TrainingSet(some), data.validation, None)


@pytest.mark.parametrize(
    ("refused", "expected"),
    [(0, ("int8", "thin")), (3, ("int8", "thin")), (4, ("int8", "whole")), (5, ("fp32", "whole"))],
)
def test_the_lightest_form_that_may_be_served_is(
    material: Material, monkeypatch: pytest.MonkeyPatch, capsys: Any, refused: int, expected: tuple[str, str]
) -> None:
    answers = iter([False] * refused + [True] * 2)
    monkeypatch.setattr(train, "affordable", lambda *_: next(answers))
    monkeypatch.setattr(train, "FACTORISING_PICTURES", 200)
    built = build(DigitNet(0.0).eval(), material, {})
    assert (built.facts["precision"], built.facts["form"]) == expected
    told = capsys.readouterr().out
    assert told.count("would cost too much") == refused
    assert ("stays in fp32" in told) == (expected[0] == "fp32")


def test_the_segmenter_travels_with_the_model(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "affordable", lambda *_: True)
    monkeypatch.setattr(train, "FACTORISING_PICTURES", 200)
    built = build(
        DigitNet(0.0).eval(),
        replace(material, segmenter=TrainedSegmenter(tiny_segmenter(), 0.75, 0.875)),
        {"run_id": "r"},
    )
    assert (built.facts["segmenter_overlap"], built.facts["segmenter_auroc"]) == (0.75, 0.875)
    classifier = Classifier(built.model)
    assert classifier.metadata["run_id"] == "r"
    assert classifier.segmenter is not None
    assert classifier.segmenter.sha256 == hashlib.sha256(tiny_segmenter()).hexdigest()


def test_the_threshold_of_photographs_loses_as_many_of_these_as_it_may() -> None:
    images = np.random.default_rng(0).integers(0, 256, (400, 1, 28, 28), np.uint8)
    readings = [Reading(image, photograph=True) for image in images]
    model = tiny_model(threshold=0.5)
    sent = Sent(readings, np.array([answer.digit for answer in Classifier(model).classify(readings)]))
    limit = threshold_of_photographs(model, sent)
    held = with_metadata(model, {"photograph_threshold": f"{limit:.6f}"})
    refused = sum(not answer.accepted for answer in Classifier(held).classify(readings)) / len(readings)
    assert train.REFUSED_PHOTOGRAPHS - 1 / len(readings) <= refused <= train.REFUSED_PHOTOGRAPHS


@pytest.mark.parametrize("sure", [True, False])
def test_a_model_carries_both_thresholds_of_which_one_may_stand_for_the_other(
    material: Material, monkeypatch: pytest.MonkeyPatch, capsys: Any, sure: bool
) -> None:
    monkeypatch.setattr(train, "affordable", lambda *_: True)
    monkeypatch.setattr(train, "FACTORISING_PICTURES", 200)
    monkeypatch.setattr(train, "threshold_of_photographs", lambda *_: 0.625 if sure else 0.0)
    digits = material.validation
    built = build(DigitNet(0.0).eval(), replace(material, sent=Sent([], digits.labels[:0])), {})
    classifier = Classifier(built.model)
    believed = belief(run(built.model, digits.images))
    right = classifier.scores(digits.images)[0].argmax(1) == digits.labels
    assert (believed[right] < classifier.threshold).mean() <= train.REFUSED
    assert classifier.photograph_threshold == (0.625 if sure else classifier.threshold)
    assert float(classifier.metadata["photograph_threshold"]) == pytest.approx(built.facts["photograph_threshold"])
    assert ("unsure of too many photographs" in capsys.readouterr().out) is not sure


def test_a_model_that_says_something_else_than_the_network_is_never_served() -> None:
    probabilities, digitness = outcome()
    check_agreement((probabilities, digitness), (probabilities + 9e-4, digitness))
    with pytest.raises(ExportError, match="digitness differ"):
        check_agreement((probabilities, digitness), (probabilities, digitness + 2e-3))
    with pytest.raises(ExportError, match="probabilities differ"):
        check_agreement((probabilities * np.nan, digitness), (probabilities, digitness))
