"""What is not one digit: every kind is made, none of it is a digit, and chance is repeatable."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from digits import glyphs
from digits.handwriting import LETTERS, SIGNS, write_digit
from digits.outliers import (
    DIGITLESS_KINDS,
    HELD_OUT_KINDS,
    TRAINED_KINDS,
    drawn_digit,
    make_digitless,
    make_outliers,
    read_outliers,
)
from digits.photographer import likeness, reads_as_bar_or_ring

LABELS = np.arange(40, dtype=np.int64) % 10
IMAGES = np.stack(
    [drawn_digit(write_digit(int(k), np.random.default_rng(i)), np.random.default_rng(i)) for i, k in enumerate(LABELS)]
)


@pytest.mark.parametrize("kind", TRAINED_KINDS + HELD_OUT_KINDS)
def test_a_kind_can_be_made_alone_and_varies(kind: str) -> None:
    images, kinds = make_outliers(IMAGES, LABELS, 8, seed=0, kinds=(kind,))
    assert images.shape == (8, 28, 28)
    assert images.dtype == np.uint8
    assert kinds == [kind] * 8
    assert len({image.tobytes() for image in images}) >= 4


@pytest.mark.parametrize("kind", TRAINED_KINDS + HELD_OUT_KINDS)
def test_no_outlier_is_one_of_the_digits_or_a_plain_bar_or_ring(kind: str) -> None:
    images, _ = make_outliers(IMAGES, LABELS, 12, seed=1, kinds=(kind,))
    assert max(likeness(images, digit).max() for digit in IMAGES) < 0.97
    assert not any(reads_as_bar_or_ring(image) for image in images)


def test_by_default_every_trained_kind_appears_and_no_held_out_one() -> None:
    _, kinds = make_outliers(IMAGES, LABELS, 150, seed=2)
    assert set(kinds) <= set(TRAINED_KINDS)
    assert len(set(TRAINED_KINDS) - set(kinds)) <= 4
    assert not set(TRAINED_KINDS) & set(HELD_OUT_KINDS)


def test_the_same_seed_makes_the_same_outliers_and_another_makes_others() -> None:
    (first, names), (again, same_names), (other, _) = (
        make_outliers(IMAGES, LABELS, 40, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert names == same_names
    assert (first != other).any()


def test_a_longer_run_begins_as_a_shorter_one_does() -> None:
    longer, shorter = (make_outliers(IMAGES, LABELS, count, seed=3)[0] for count in (30, 10))
    np.testing.assert_array_equal(longer[:10], shorter)


def test_pictures_to_find_no_digit_in_are_the_same_for_the_same_seed_and_hold_no_digits() -> None:
    first, again, other = (make_digitless(12, seed=seed, workers=1)[:12] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert not {"several digits", "fragments", "scratched out"} & set(DIGITLESS_KINDS)
    assert set(DIGITLESS_KINDS) < set(TRAINED_KINDS)


def test_what_is_sent_is_not_chosen_by_what_imaging_makes_of_it() -> None:
    readings, kinds, _ = read_outliers(IMAGES, LABELS, 120, seed=0, kinds=("things",), workers=1)
    assert kinds == ["things"] * 120
    like_digits = [any(reads_as_bar_or_ring(image) for image in reading.images) for reading in readings]
    assert sum(like_digits) > 6
    alone = [reading for reading in readings if len(reading.images) == 1]
    assert any(reads_as_bar_or_ring(reading.images[0]) or not reading.images.any() for reading in alone)


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="ghosts"):
        make_outliers(IMAGES, LABELS, 1, seed=0, kinds=("ghosts",))


def test_several_digits_are_never_just_one_of_them() -> None:
    images, _ = make_outliers(IMAGES, LABELS, 40, seed=4, kinds=("several digits",))
    closest = [float(likeness(IMAGES, image).max()) for image in images]
    assert np.mean(np.array(closest) > 0.9) < 0.05


def test_no_character_kept_for_the_report_looks_like_one_that_is_learnt_from() -> None:
    learnt = {glyphs.draw_text(c, font).tobytes() for c in glyphs.LATIN + glyphs.GREEK for font in glyphs.WIDE_FONTS}
    kept = {glyphs.draw_text(c, font).tobytes() for c in glyphs.CYRILLIC for font in glyphs.WIDE_FONTS}
    assert not learnt & kept


def test_bars_and_rings_are_known_and_digits_with_more_to_them_are_not() -> None:
    bar, ring = np.zeros((2, 28, 28), np.uint8)
    cv2.line(bar, (17, 4), (11, 24), 255, 3)
    cv2.ellipse(ring, (14, 14), (7, 10), 15, 0, 360, 255, 3)
    assert reads_as_bar_or_ring(bar)
    assert reads_as_bar_or_ring(ring)
    more = [i for i, label in enumerate(LABELS) if label in (2, 3, 4, 5)]
    assert not any(reads_as_bar_or_ring(IMAGES[i]) for i in more)
    assert not reads_as_bar_or_ring(np.zeros((28, 28), np.uint8))


def test_no_digit_and_no_letter_that_shares_its_shape_is_among_the_characters() -> None:
    every = glyphs.LATIN + glyphs.GREEK + glyphs.CYRILLIC + glyphs.HEBREW_ARABIC + glyphs.symbols()
    assert not any(c.isnumeric() for c in every)
    assert not set("OoDQIilZzSsBbGgq|ОоЗзБбΟοΘθ!()[]{}♃☡♭↴☌❨❩❪❫❬❭❲❳") & (set(every) | set(LETTERS) | set(SIGNS))


def test_every_character_has_ink_in_its_fonts() -> None:
    for text in (glyphs.LATIN, glyphs.GREEK, glyphs.CYRILLIC, glyphs.HEBREW_ARABIC, glyphs.symbols()):
        missing = [c for c in text if glyphs.draw_text(c, "DejaVuSans.ttf", 32).max() < 128]
        assert missing == []
