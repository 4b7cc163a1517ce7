"""What was cut along its digit gets paper around it; everything else stays as it is, to the last bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from digits.handwriting import write_digit
from digits.imaging import interpret
from digits.margins import MARGIN, with_margin
from digits.photographer import likeness, reference

PAPER, INK = (221, 214, 196), (40, 46, 110)


def seven(width: int = 22) -> np.ndarray:
    """A printed-looking 7 in blue on a page lit from the left, 400 × 400, ink from (100, 80) to (300, 320)."""
    picture = np.full((400, 400, 3), PAPER, np.uint8)
    half = width // 2
    cv2.polylines(
        picture, [np.array([[100 + half, 80 + half], [300 - half, 80 + half], [170, 320 - half]])], False, INK, width
    )
    light = np.linspace(1.1, 0.75, 400)[None, :, None]
    return np.clip(picture * light, 0, 255).astype(np.uint8)


def cut(picture: np.ndarray, margin: int) -> np.ndarray:
    return np.ascontiguousarray(picture[80 - margin : 320 + margin, 100 - margin : 300 + margin])


def margined(picture: np.ndarray) -> np.ndarray:
    return with_margin(picture, picture)


@pytest.mark.parametrize("margin", [0, 1, 4, 12])
@pytest.mark.parametrize("polarity", ["dark", "light"])
def test_a_digit_that_was_cut_out_has_a_margin_of_paper_again(margin: int, polarity: str) -> None:
    picture = cut(seven(), margin)
    if polarity == "light":
        picture = 255 - picture
    height, width = picture.shape[:2]
    around = margined(picture)
    more = round(MARGIN * height)
    assert around.shape == (height + 2 * more, width + 2 * more, 3)
    inside = around[more + 1 : more + height - 1, more + 1 : more + width - 1]
    assert np.array_equal(inside, picture[1:-1, 1:-1])
    whole = seven() if polarity == "dark" else 255 - seven()
    assert np.abs(around[:, :more].mean(axis=(0, 1)) - whole[:, :100].mean(axis=(0, 1))).max() < 12, "no paper"
    assert around[:, :more].std(axis=(0, 1)).max() < 6, "there is ink in the margin"


def test_a_broad_digit_that_was_cut_out_is_read_like_the_whole_picture() -> None:
    whole = seven(60)
    expected = interpret(whole).images[0]
    read = interpret(cut(whole, 0)).images[0]
    assert likeness(read[None], expected)[0] > 0.95


def test_a_grey_picture_stays_grey() -> None:
    assert margined(cv2.cvtColor(cut(seven(), 0), cv2.COLOR_RGB2GRAY)).ndim == 2


def squares(picture: np.ndarray) -> None:
    for place in range(15, 400, 60):
        cv2.line(picture, (place, 0), (place, 399), (120, 130, 170), 2)
        cv2.line(picture, (0, place), (399, place), (120, 130, 170), 2)


def ruling(picture: np.ndarray) -> None:
    """Under the digit and joined to it, the page's one line."""
    cv2.line(picture, (0, 318), (399, 318), (60, 60, 120), 3)
    cv2.line(picture, (0, 82), (399, 82), (60, 60, 120), 3)


def table(picture: np.ndarray) -> None:
    picture[:, 330:] = (60, 40, 30)
    picture[350:] = (60, 40, 30)


def fingers(picture: np.ndarray) -> None:
    for place in ((0, 200), (399, 160), (210, 399)):
        cv2.circle(picture, place, 40, (150, 100, 80), -1)


def blind(picture: np.ndarray) -> None:
    """Slanted stripes of shadow, which the digit joins to one thing as wide and as high as the picture."""
    row, column = np.mgrid[:400, :400]
    paper = picture[..., 0] > 100
    picture[((row + 0.3 * column) % 120 < 48) & paper] = (70, 68, 62)


@pytest.mark.parametrize("sides", ["t", "b", "l", "r", "tb", "tblr"])
def test_a_digit_that_is_cut_on_some_sides_alone_has_a_margin_too(sides: str) -> None:
    whole = seven()
    rows = slice(82 if "t" in sides else 0, 318 if "b" in sides else 400)
    columns = slice(102 if "l" in sides else 0, 298 if "r" in sides else 400)
    picture = np.ascontiguousarray(whole[rows, columns])
    around = margined(picture)
    assert around.shape[0] > picture.shape[0]
    expected = interpret(whole).images[0]
    assert likeness(interpret(picture).images[:1], expected)[0] > 0.9


@pytest.mark.parametrize("polarity", ["dark", "light"])
def test_a_digit_of_few_pixels_that_was_enlarged_has_a_margin(polarity: str) -> None:
    small = cv2.resize(seven(50)[80:320, 20:380], (12, 8), interpolation=cv2.INTER_AREA)
    picture = cv2.resize(small, (240, 160), interpolation=cv2.INTER_CUBIC)
    assert margined(picture if polarity == "dark" else 255 - picture).shape[0] > 160


def sheet(picture: np.ndarray) -> None:
    """Of another colour, with the digit on it, and cut by the frame."""
    whole = picture.copy()
    picture[:] = (60, 40, 30)
    picture[130:, 60:340] = cv2.resize(whole, (280, 270))


def wedge(picture: np.ndarray) -> None:
    """A corner in the light; the digit is too pale to be seen beside it."""
    picture[:] = np.clip(picture.astype(int) // 6 + 90, 0, 255)
    cv2.fillPoly(picture, [np.array([[399, 150], [399, 399], [250, 399]])], (250, 250, 245))


def strip(picture: np.ndarray) -> None:
    """The table, along one side; what is on the page is too pale to be seen beside it."""
    picture[:] = np.clip(255 - (255 - picture.astype(int)) // 6, 0, 255)
    picture[:, 350:] = (60, 40, 30)


def neighbour(picture: np.ndarray) -> None:
    """Of the digit, which is whole, at the frame."""
    cv2.line(picture, (0, 300), (60, 399), (60, 60, 120), 14)


@pytest.mark.parametrize("spoil", [sheet, wedge, strip, neighbour])
def test_what_is_no_stroke_or_has_something_beside_it_gets_none(spoil: object) -> None:
    picture = seven()
    spoil(picture)  # type: ignore[operator]
    assert margined(picture) is picture


@pytest.mark.parametrize("label", range(10))
def test_a_page_on_a_dark_table_is_no_digit_whatever_is_left_of_it_between_the_strokes(label: int) -> None:
    page = np.full((225, 165), 210.0)
    written = reference(np.clip(5.5 - write_digit(label, np.random.default_rng(label)).distance, 0, 1))
    page[45:180, 15:150] *= 1 - 0.75 * cv2.resize(written, (135, 135), interpolation=cv2.INTER_CUBIC) / 255.0
    picture = np.full((260, 260), 45.0)
    picture[:225, 48:213] = page
    picture = np.clip(cv2.GaussianBlur(picture, (0, 0), 1), 0, 255).astype(np.uint8)
    assert margined(picture) is picture


@pytest.mark.parametrize("spoil", [lambda _: None, squares, ruling, table, fingers, blind])
def test_a_whole_picture_stays_as_it_is(spoil: object) -> None:
    picture = seven()
    spoil(picture)  # type: ignore[operator]
    assert margined(picture) is picture


def test_a_frame_of_dots_leaves_no_paper_to_go_by() -> None:
    picture = np.full((64, 64), 200, np.uint8)
    cv2.polylines(picture, [np.array([[6, 8], [57, 8], [30, 57]])], False, 20, 6)
    for side in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        side[::3] = 150
    assert margined(picture) is picture


@pytest.mark.parametrize("shape", [(41, 1), (1, 60, 3), (2, 2), (50, 41), (300, 41, 3)])
def test_any_shape_and_noise_come_through(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for picture in (rng.integers(0, 256, shape, np.uint8), np.full(shape, 9, np.uint8)):
        assert margined(picture).dtype == np.uint8
