"""Our evaluation suite: what every corruption must keep, and that severity means what it says."""

from __future__ import annotations

import numpy as np
import pytest

from digits.corruptions import CORRUPTIONS, SEVERITIES
from digits.handwriting import write_digit
from digits.outliers import drawn_digit

IMAGES = np.stack(
    [drawn_digit(write_digit(i % 10, np.random.default_rng(i)), np.random.default_rng(i)) for i in range(40)]
)


def spoilt(name: str, severity: int, seed: int = 0) -> np.ndarray:
    return CORRUPTIONS[name](IMAGES, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_shape_and_type_and_leaves_its_input_alone(name: str) -> None:
    before = IMAGES.copy()
    for severity in SEVERITIES:
        result = spoilt(name, severity)
        assert result.shape == IMAGES.shape
        assert result.dtype == np.uint8
    np.testing.assert_array_equal(IMAGES, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_nearly_every_digit_but_never_empties_it(name: str) -> None:
    result = spoilt(name, 5).astype(int)
    assert (np.abs(result - IMAGES).max((1, 2)) > 0).mean() > 0.9
    assert (np.ptp(result.reshape(len(result), -1), axis=1) > 15).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_generator_gives_the_same_corruption(name: str) -> None:
    np.testing.assert_array_equal(spoilt(name, 3, 7), spoilt(name, 3, 7))


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"inverted"}))
def test_each_severity_is_farther_from_the_original_than_the_one_before(name: str) -> None:
    far = [
        np.mean([np.abs(spoilt(name, s, seed).astype(int) - IMAGES).mean() for seed in range(3)]) for s in SEVERITIES
    ]
    assert far == sorted(far)


def test_inverting_leaves_less_and_less_contrast() -> None:
    spans = [np.ptp(spoilt("inverted", s)) for s in SEVERITIES]
    assert spans == sorted(spans, reverse=True)
    np.testing.assert_array_equal(spoilt("inverted", 1), 255 - IMAGES)


@pytest.mark.parametrize("severity", [0, 6])
def test_a_severity_outside_one_to_five_is_refused(severity: int) -> None:
    with pytest.raises(ValueError, match=f"severity {severity}"):
        spoilt("blur", severity)


def test_anything_but_bytes_of_28_by_28_is_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        CORRUPTIONS["blur"](IMAGES.astype(float), 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="32, 32"):
        CORRUPTIONS["blur"](np.zeros((1, 32, 32), np.uint8), 1, np.random.default_rng(0))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_no_images_give_no_images(name: str) -> None:
    assert CORRUPTIONS[name](IMAGES[:0], 2, np.random.default_rng(0)).shape == (0, 28, 28)
