"""Any picture of a digit to 28×28: what must not change the result, what is blank or crowded, and real pictures."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from digits import imaging
from digits.imaging import MOST, ImageError, interpret, read
from digits.segmenter import Segmenter
from tests.models import tiny_segmenter

Bytes = np.ndarray
SEGMENTER = Segmenter(tiny_segmenter())


def page(height: int = 240, width: int = 200, ground: int = 225) -> Bytes:
    return np.full((height, width, 3), ground, np.uint8)


def seven(
    picture: Bytes, left: int, top: int, size: int, colour: tuple[int, int, int] = (40, 40, 60), pen: float = 0.07
) -> Bytes:
    """A 7 of `size` pixels, its upper left corner there."""
    points = np.array([[0, 0], [0.62, 0], [0.2, 1]]) * size + (left, top)
    outline = np.rint(points * 8).astype(np.int32)
    return cv2.polylines(picture, [outline], False, colour, max(1, round(pen * size)), cv2.LINE_AA, 3)


def alike(one: Bytes, other: Bytes) -> float:
    """The correlation of two 28×28 pictures, both a little blurred; 1 for the same."""
    soft = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1).ravel() for image in (one, other)]
    return float(np.corrcoef(*soft)[0, 1])


REFERENCE = interpret(seven(page(), 60, 60, 120)).images[0]


def test_the_result_is_ink_in_a_box_of_twenty_around_the_centre_of_mass() -> None:
    rows, columns = np.nonzero(REFERENCE > 60)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20, 21)
    moments = cv2.moments(REFERENCE)
    assert abs(moments["m10"] / moments["m00"] - 13.5) < 1
    assert abs(moments["m01"] / moments["m00"] - 13.5) < 1
    assert REFERENCE.max() >= 240
    assert REFERENCE[0].max() == REFERENCE[-1].max() == 0


def test_a_clear_picture_has_one_candidate() -> None:
    assert len(interpret(seven(page(), 60, 60, 120)).images) == 1


@pytest.mark.parametrize(("left", "top"), [(10, 10), (110, 10), (20, 110), (100, 100)])
def test_the_place_of_the_digit_does_not_matter(left: int, top: int) -> None:
    assert alike(interpret(seven(page(), left, top, 120)).images[0], REFERENCE) > 0.95


@pytest.mark.parametrize("size", [30, 60, 120, 240, 900])
def test_the_size_of_the_digit_does_not_matter(size: int) -> None:
    picture = seven(page(round(size * 1.9), round(size * 1.6)), round(size * 0.45), round(size * 0.4), size)
    assert alike(interpret(picture).images[0], REFERENCE) > 0.93


def test_a_digit_of_a_twentieth_of_the_height_is_found() -> None:
    assert alike(interpret(seven(page(1000, 1000), 600, 300, 50, pen=0.1)).images[0], REFERENCE) > 0.85


def test_light_ink_on_dark_gives_the_same_as_dark_on_light() -> None:
    assert alike(interpret(255 - seven(page(), 60, 60, 120)).images[0], REFERENCE) > 0.95


@pytest.mark.parametrize("colour", [(200, 30, 40), (30, 60, 190), (20, 120, 50), (150, 150, 150)])
def test_the_colour_of_the_ink_does_not_matter(colour: tuple[int, int, int]) -> None:
    assert alike(interpret(seven(page(), 60, 60, 120, colour)).images[0], REFERENCE) > 0.95


@pytest.mark.parametrize("pen", [0.01, 0.03, 0.07])
def test_thin_pens_are_thickened_to_a_stroke_that_can_be_seen(pen: float) -> None:
    image = interpret(seven(page(480, 400), 120, 120, 240, pen=pen)).images[0]
    assert image.max() >= 240
    assert 0.6 < image.astype(float).sum() / REFERENCE.astype(float).sum() < 1.5


@pytest.mark.parametrize(
    ("pen", "shade", "across"), [(0.12, 0.8, 60), (0.15, 0.5, 100), (0.15, 0.7, 140), (0.2, 0.7, 60)]
)
def test_a_thick_marker_that_fills_a_picture_with_a_shadow_is_seen_whole(pen: float, shade: float, across: int) -> None:
    picture = seven(page(200, 150, 200), 30, 20, 155, (60, 50, 140), pen)
    row, column = np.mgrid[:200, :150]
    shaded = (row + column > across)[..., None]
    reading = interpret(np.where(shaded, picture * shade, picture).astype(np.uint8))
    assert max(alike(image, REFERENCE) for image in reading.images) > 0.8


def test_light_that_falls_off_to_a_third_does_not_matter() -> None:
    fall = np.linspace(1, 0.33, 200)[None, :, None]
    picture = (seven(page(), 60, 60, 120) * fall).astype(np.uint8)
    assert alike(interpret(picture).images[0], REFERENCE) > 0.93


def test_the_lines_of_a_page_do_not_matter() -> None:
    picture = page(360, 300)
    for row in range(25, 360, 45):
        cv2.line(picture, (0, row), (299, row + 4), (160, 175, 215), 2, cv2.LINE_AA)
    assert alike(interpret(seven(picture, 100, 90, 150)).images[0], REFERENCE) > 0.9


def test_squared_paper_does_not_matter() -> None:
    picture = page(360, 360)
    for place in range(15, 360, 36):
        cv2.line(picture, (0, place), (359, place), (170, 185, 215), 1)
        cv2.line(picture, (place, 0), (place, 359), (170, 185, 215), 1)
    assert alike(interpret(seven(picture, 130, 90, 170)).images[0], REFERENCE) > 0.9


def test_a_table_beside_the_page_does_not_matter() -> None:
    picture = seven(page(), 70, 60, 120)
    picture[:, :18] = (60, 40, 30)
    assert alike(interpret(picture).images[0], REFERENCE) > 0.9


@pytest.mark.parametrize("colour", [(60, 60, 60), (200, 80, 70), (150, 160, 200)])
@pytest.mark.parametrize("turned", [0, 6])
def test_a_frame_around_the_digit_does_not_matter(colour: tuple[int, int, int], turned: int) -> None:
    corners = np.array([[40, 40 + turned], [160 - turned, 40], [160, 200 - turned], [40 + turned, 200]])
    picture = cv2.polylines(page(), [corners], True, colour, 3, cv2.LINE_AA)
    assert alike(interpret(seven(picture, 70, 60, 110)).images[0], REFERENCE) > 0.9


def writing(picture: Bytes, top: int) -> Bytes:
    """Two lines of small strokes right under a digit."""
    for row in (top, top + 20):
        for left in range(60, 160, 12):
            cv2.line(picture, (left, row), (left + 5, row + 9), (70, 70, 70), 3, cv2.LINE_AA)
    return picture


@pytest.mark.parametrize("colour", [(40, 40, 40), (190, 50, 40), (40, 60, 190)])
def test_a_digit_right_above_a_line_of_writing_is_offered_without_it(colour: tuple[int, int, int]) -> None:
    picture = writing(seven(page(), 70, 40, 100, colour), 144)
    assert max(alike(image, REFERENCE) for image in interpret(picture).images) > 0.8


@pytest.mark.parametrize("colour", [(190, 60, 50), (40, 60, 170)])
def test_a_broad_coloured_marker_under_the_edge_of_a_shadow_is_seen_whole(colour: tuple[int, int, int]) -> None:
    picture = seven(page(170, 160, 210), 35, 20, 125, colour, pen=0.24)
    row, column = np.mgrid[:170, :160]
    picture = np.where((row + column < 150)[..., None], picture * 0.45, picture).astype(np.uint8)
    assert max(alike(image, REFERENCE) for image in interpret(picture).images) > 0.7


def test_a_thin_digit_beside_a_spot_of_glare_is_offered() -> None:
    row, column = np.mgrid[:240, :200]
    glare = 120 * np.exp(-((row - 170) ** 2 + (column - 140) ** 2) / (2 * 22**2))
    picture = np.clip(seven(page(ground=130), 40, 30, 60, (60, 60, 60)) + glare[..., None], 0, 255).astype(np.uint8)
    assert max(alike(image, REFERENCE) for image in interpret(picture).images) > 0.85


def test_half_of_a_digit_is_not_offered_because_the_other_half_has_no_colour() -> None:
    picture = seven(page(), 60, 60, 120, (190, 40, 40))
    picture[:90] = np.where((picture[:90] < 150).any(2, keepdims=True), 45, picture[:90])
    assert len(interpret(picture).images) == 1


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize("side", [1, 28, 300])
def test_one_flat_colour_is_blank(value: int, side: int) -> None:
    reading = interpret(np.full((side, side), value, np.uint8))
    assert reading.blank
    assert reading.images.shape == (1, 28, 28)
    assert not reading.images.any()


def test_a_digit_is_not_blank() -> None:
    assert not interpret(seven(page(), 60, 60, 120)).blank


@pytest.mark.parametrize("places", [[(20, 60), (200, 70)], [(10, 60), (140, 60), (260, 60)]])
def test_several_digits_are_crowded(places: list[tuple[int, int]]) -> None:
    picture = page(240, 360)
    for left, top in places:
        seven(picture, left, top, 110)
    assert interpret(picture).crowded


def test_a_digit_and_a_piece_of_its_neighbour_at_the_rim_are_not_crowded() -> None:
    picture = seven(page(240, 300), 100, 60, 120)
    assert not interpret(seven(picture, 275, 60, 120)).crowded


def test_a_five_with_a_detached_bar_is_one_digit() -> None:
    picture = page()
    cv2.ellipse(picture, (95, 150), (38, 38), 0, -100, 150, (40, 40, 60), 8, cv2.LINE_AA)
    cv2.line(picture, (85, 112), (85, 75), (40, 40, 60), 8, cv2.LINE_AA)
    cv2.line(picture, (92, 58), (140, 56), (40, 40, 60), 8, cv2.LINE_AA)
    reading = interpret(picture)
    assert not reading.crowded
    assert reading.images[0][4:9, 13:].max() > 150, "the bar is missing"


@given(
    hnp.arrays(
        np.uint8,
        st.one_of(
            st.tuples(st.integers(1, 70), st.integers(1, 70)),
            st.tuples(st.integers(1, 70), st.integers(1, 70), st.just(3)),
        ),
    )
)
@settings(max_examples=40)
def test_any_pixels_give_one_to_ten_candidates(pixels: Bytes) -> None:
    for segmenter, more in ((None, 0), (SEGMENTER, 1)):
        images = interpret(pixels, segmenter).images
        assert images.dtype == np.uint8
        assert images.shape[1:] == (28, 28)
        assert 1 <= len(images) <= MOST + 3 + more  # a small picture as it is, of either polarity, and refitted


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (3, 500), (41, 1000)])
def test_extreme_shapes_are_read(shape: tuple[int, int]) -> None:
    assert interpret(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).images.shape[1:] == (28, 28)


@pytest.mark.parametrize("colours", [(), (3,)])
@pytest.mark.parametrize("shape", [(4, 1068), (10, 2670), (10, 3000), (12, 9000), (60, 17_000)])
def test_a_strip_too_thin_to_write_on_is_blank_either_way_up(shape: tuple[int, int], colours: tuple[int, ...]) -> None:
    strip = np.full(shape + colours, 230, np.uint8)
    strip[1:-1, 500:600] = 20
    assert interpret(strip).blank
    assert interpret(np.ascontiguousarray(strip.swapaxes(0, 1))).blank


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_anything_but_a_picture_is_refused(bad: Bytes) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        interpret(bad)


def test_reading_bytes_is_decoding_and_interpreting() -> None:
    picture = seven(page(), 60, 60, 120)
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    assert np.array_equal(read(stream.getvalue()).images, interpret(picture).images)


def test_bytes_that_are_no_image_raise_an_image_error() -> None:
    with pytest.raises(ImageError):
        read(b"no image")


def test_threads_side_by_side_read_the_same() -> None:
    pictures = [seven(page(), 40 + 4 * i, 60, 100 + i) for i in range(8)]
    alone = [interpret(picture).images for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: interpret(picture).images, pictures))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.fixture(scope="module")
def shared() -> Path:
    root = Path(os.environ.get("MNIST_ROOT", ""))
    if not os.environ.get("MNIST_ROOT") or not (root / "photos").is_dir():
        pytest.skip("MNIST_ROOT names no folder with photos and drawn beside MNIST")
    return root


@pytest.mark.parametrize("folder", ["photos", "drawn"])
def test_real_pictures_are_neither_blank_nor_crowded(shared: Path, folder: str) -> None:
    files = sorted(path for path in (shared / folder).iterdir() if path.suffix in (".jpg", ".png"))[::7]
    readings = [read(path.read_bytes()) for path in files]
    assert not any(reading.blank for reading in readings)
    assert sum(reading.crowded for reading in readings) <= 0.01 * len(readings)


def test_a_clear_page_is_decoded_once_and_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("decode", "components", "without_rulings", "fit"):
        real = getattr(imaging, name)
        monkeypatch.setattr(
            imaging, name, lambda *args, real=real, name=name, **named: done.append(name) or real(*args, **named)
        )
    buffer = BytesIO()
    Image.fromarray(seven(page(), 70, 80, 80)).save(buffer, "PNG")
    assert len(read(buffer.getvalue()).images) == 1
    assert sorted(done) == ["components", "decode", "fit", "without_rulings"]
