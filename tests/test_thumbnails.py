"""Small pictures: MNIST's own come through as they are, others are refitted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from digits.imaging import interpret
from digits.photographer import likeness
from digits.thumbnails import as_mnist, centred, fit, squared, thumbnail


def mnist_like() -> np.ndarray:
    """A 4 drawn as MNIST has it: 20 pixels high, centred by mass."""
    strokes = np.zeros((60, 60), np.float32)
    cv2.polylines(strokes, [np.array([[12, 4], [6, 34], [50, 34]])], False, 1.0, 7, cv2.LINE_AA)
    cv2.line(strokes, (40, 6), (36, 56), 1.0, 7, cv2.LINE_AA)
    return fit(strokes)


IMAGE = mnist_like()


def candidates_of(picture: np.ndarray) -> list[np.ndarray]:
    return thumbnail(picture)[0]


def test_an_mnist_image_passes_unchanged_as_the_only_candidate() -> None:
    candidates = candidates_of(IMAGE)
    assert len(candidates) == 1
    assert np.array_equal(candidates[0], IMAGE)


def test_an_inverted_mnist_image_is_turned_back() -> None:
    assert np.array_equal(candidates_of(255 - IMAGE)[0], IMAGE)


def test_a_coloured_copy_of_an_mnist_image_passes_unchanged() -> None:
    assert np.array_equal(candidates_of(np.dstack([IMAGE] * 3))[0], IMAGE)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-3, 2), (0, -3)])
def test_an_mnist_image_that_was_moved_is_also_seen_as_it_was(right: int, down: int) -> None:
    moved = np.roll(IMAGE, (down, right), axis=(0, 1))
    first, second = candidates_of(moved)
    assert np.array_equal(first, IMAGE)
    assert np.array_equal(second, moved)


def test_a_digit_with_a_line_across_its_foot_stays_where_it_is() -> None:
    crossed = IMAGE.copy()
    crossed[23:25, 2:25] = 255
    (only,) = candidates_of(crossed)
    assert np.array_equal(only, crossed)


def test_specks_all_over_leave_the_raw_image_first() -> None:
    specked = IMAGE.copy()
    specked[::4, ::5] = 255
    assert np.array_equal(candidates_of(specked)[0], specked)


@pytest.mark.parametrize("ground", [60, 120, 180])
def test_a_brighter_ground_leaves_the_raw_image_first(ground: int) -> None:
    bright = np.minimum(IMAGE.astype(int) + ground, 255).astype(np.uint8)
    assert np.array_equal(candidates_of(bright)[0], bright)


def test_noise_leaves_the_raw_image_first() -> None:
    noisy = np.clip(IMAGE + np.random.default_rng(0).normal(60, 40, (28, 28)), 0, 255).astype(np.uint8)
    assert np.array_equal(candidates_of(noisy)[0], noisy)


def test_sides_of_the_other_polarity_leave_the_raw_image_first() -> None:
    striped = IMAGE.copy()
    striped[:, :7] = 255 - striped[:, :7]
    striped[:, 21:] = 255 - striped[:, 21:]
    assert any(np.array_equal(candidate, striped) for candidate in candidates_of(striped)[:1])


def test_colours_that_are_equally_light_are_told_apart() -> None:
    red, green = np.array((255, 0, 0)), np.array((0, 130, 0))
    share = IMAGE[..., None] / 255
    coloured = np.rint(red * share + green * (1 - share)).astype(np.uint8)
    assert np.abs(candidates_of(coloured)[0].astype(int) - IMAGE).max() <= 3


@pytest.mark.parametrize("colour", [(0, 0, 0), (120, 120, 120), (200, 30, 30)])
def test_a_thumbnail_of_one_colour_is_blank(colour: tuple[int, int, int]) -> None:
    assert interpret(np.full((32, 32, 3), colour, np.uint8)).blank


def test_a_drawing_without_a_margin_is_refitted() -> None:
    cropped = cv2.resize(IMAGE[4:24, 4:24], (28, 28), interpolation=cv2.INTER_CUBIC)
    first = candidates_of(255 - cropped)[0]
    rows, columns = np.nonzero(first > 60)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 <= 21


def blurred(size: int) -> np.ndarray:
    """A digit of few pixels, enlarged or not, which fills its picture."""
    tight = cv2.resize(IMAGE[4:24, 6:22], (7, 8), interpolation=cv2.INTER_AREA)
    return cv2.resize(tight, (size * 7 // 8, size), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("size", [8, 16, 22, 32, 40])
def test_a_small_picture_that_its_digit_fills_is_seen_with_a_margin_alone(size: int) -> None:
    images, these_are_all = thumbnail(blurred(size))
    assert these_are_all
    assert len(images) == 1
    rows, columns = np.nonzero(images[0] > 100)
    assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20


@pytest.mark.parametrize("ground", ["table", "shadow"])
def test_a_table_or_a_shadow_across_a_small_photograph_is_no_digit_that_fills_it(ground: str) -> None:
    picture = np.full((34, 34), 205.0)
    picture[8:26, 6:20] -= 0.25 * cv2.resize(IMAGE[4:24, 6:22], (14, 18), interpolation=cv2.INTER_AREA)
    picture += np.linspace(-12, 12, 34)
    if ground == "table":
        picture[:, 26:] = 40
    else:
        picture[:, 15:] *= 0.55
    picture = np.rint(cv2.GaussianBlur(picture, (0, 0), 0.7)).astype(np.uint8)
    images, these_are_all = thumbnail(picture)
    assert not these_are_all
    assert np.array_equal(images[0], squared(picture)) or np.array_equal(images[0], 255 - squared(picture))
    assert likeness(interpret(picture).images, IMAGE).max() > 0.7


def test_of_mnists_own_size_it_may_have_something_across_it_and_is_seen_both_ways() -> None:
    picture = blurred(28)
    picture = np.pad(picture, ((0, 0), (2, 28 - 2 - picture.shape[1])))
    images, these_are_all = thumbnail(picture)
    assert these_are_all
    assert [int(cv2.absdiff(image, picture).max()) == 0 for image in images] == [True, False]


def test_lines_across_a_small_picture_are_no_digit_that_fills_it() -> None:
    ruled = cv2.GaussianBlur(IMAGE, (0, 0), 1.5)
    ruled[::7] = 200
    small = cv2.resize(ruled, (36, 36), interpolation=cv2.INTER_CUBIC)
    assert any(likeness(image[None], squared(small))[0] > 0.99 for image in candidates_of(small))


def test_a_photograph_of_few_pixels_is_looked_at_as_one_too() -> None:
    light = np.linspace(230, 120, 36)[None, :]
    small = np.pad(cv2.resize(IMAGE[2:26, 2:26], (14, 14), interpolation=cv2.INTER_AREA), ((4, 18), (16, 6)))
    picture = np.rint(light * (1 - 0.6 * small / 255.0)).astype(np.uint8)
    images, these_are_all = thumbnail(picture)
    assert not these_are_all
    reading = interpret(picture)
    assert reading.photograph
    assert likeness(reading.images, IMAGE).max() > 0.8 > likeness(np.stack(images), IMAGE).max()


@pytest.mark.parametrize("factor", [2, 5, 10, 20])
@pytest.mark.parametrize("inverted", [False, True])
def test_an_enlarged_mnist_image_comes_back_as_it_was(factor: int, inverted: bool) -> None:
    large = cv2.resize(IMAGE, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    image = interpret(255 - large if inverted else large).images[0]
    assert int(cv2.absdiff(image, IMAGE).max()) <= 1


@pytest.mark.parametrize("how", [cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4])
def test_so_does_one_that_was_enlarged_smoothly_and_is_a_jpeg(how: int) -> None:
    large = cv2.resize(255 - IMAGE, (280, 280), interpolation=how)
    large = cv2.imdecode(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_GRAYSCALE)
    image = as_mnist(large)
    assert image is not None
    assert float(cv2.absdiff(image, IMAGE).mean()) < 6


def test_a_drawing_of_more_pixels_is_no_enlarged_mnist_image() -> None:
    drawn = np.full((280, 280), 255, np.uint8)
    cv2.circle(drawn, (140, 140), 95, 0, 7, cv2.LINE_AA)
    cv2.polylines(drawn, [np.array([[110, 90], [170, 90], [130, 190]])], False, 0, 9, cv2.LINE_AA)
    assert as_mnist(drawn) is None


def button(side: int, radius: float) -> np.ndarray:
    """The 4 in the page's white on a black disc, without a rim that is a mixture of both."""
    large = cv2.resize(IMAGE, (320, 320), interpolation=cv2.INTER_CUBIC)
    disc = cv2.circle(np.zeros((640, 640), np.uint8), (320, 320), round(640 * radius), 255, -1)
    disc[160:480, 160:480] = np.minimum(disc[160:480, 160:480], 255 - large)
    return cv2.resize(255 - disc, (side, side), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("radius", [0.3, 0.32, 0.34])
def test_a_button_with_a_digit_on_it_is_no_enlarged_mnist_image(radius: float) -> None:
    assert as_mnist(button(400, radius)) is None
    assert as_mnist(255 - button(400, radius)) is None


@pytest.mark.parametrize("side", [32, 40])
def test_a_button_of_few_pixels_is_looked_at_as_a_photograph_too(side: int) -> None:
    for radius in (0.33, 0.48):  # with ground around it, and to the frame
        reading = interpret(button(side, radius))
        assert reading.photograph
        assert likeness(reading.images, IMAGE).max() > 0.7


def test_a_photograph_is_not_taken_for_an_enlarged_mnist_image() -> None:
    assert as_mnist(np.random.default_rng(0).integers(90, 160, (200, 200, 3), np.uint8)) is None


def test_fitting_keeps_the_aspect() -> None:
    bar = np.zeros((100, 100), np.float32)
    bar[10:90, 45:55] = 1
    rows, columns = np.nonzero(fit(bar) > 100)
    assert np.ptp(rows) + 1 == 20
    assert 2 <= np.ptp(columns) + 1 <= 4


def test_fitting_no_ink_gives_black() -> None:
    assert not fit(np.zeros((10, 10), np.float32)).any()


def test_a_gap_of_a_broken_stroke_is_closed() -> None:
    bar = np.zeros((100, 60), np.float32)
    bar[5:95, 26:34] = 1
    bar[48:51] = 0
    assert fit(bar, 8.0, broken=True)[4:24].max(1).min() > 150


def test_centring_puts_the_centre_of_mass_in_the_middle() -> None:
    small = np.zeros((20, 20), np.float32)
    small[:, :9] = 200
    small[:, 9:] = 60
    moments = cv2.moments(centred(small))
    assert abs(moments["m10"] / moments["m00"] - 13.5) <= 0.5


def test_other_shapes_are_padded_with_the_colour_of_their_rim() -> None:
    image = squared(np.full((10, 30), 200, np.uint8))
    assert image.shape == (28, 28)
    assert (image == 200).all()
