"""What programs do to pictures is undone; every other picture stays as it is, to the last bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from digits.decoding import decode
from digits.handwriting import write_digit
from digits.imaging import interpret
from digits.originals import original
from digits.outliers import drawn_digit
from digits.photographer import photograph


def digit(label: int = 4, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return drawn_digit(write_digit(label, rng), rng)


def repeated(picture: np.ndarray, times: int) -> np.ndarray:
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def on_page(picture: np.ndarray, colour: int | tuple[int, int, int], margin: int = 40) -> np.ndarray:
    border = (margin, margin + 7, margin + 3, margin)
    value = (colour,) if isinstance(colour, int) else colour
    return np.asarray(cv2.copyMakeBorder(picture, *border, cv2.BORDER_CONSTANT, value=value))


def snapshot() -> np.ndarray:
    return photograph(digit(), np.random.default_rng(5), 0.3)


@pytest.mark.parametrize("times", [2, 3, 10])
@pytest.mark.parametrize("polarity", ["light ink", "dark ink"])
def test_each_pixel_is_there_once(times: int, polarity: str) -> None:
    picture = digit() if polarity == "light ink" else 255 - digit()
    assert np.array_equal(original(repeated(picture, times)), picture)
    assert np.array_equal(original(repeated(snapshot(), times)), snapshot())


def test_a_digit_with_a_line_across_it_is_read_alike_when_its_pixels_were_repeated() -> None:
    picture = digit()
    picture[20:22, 1:27] = 255
    assert np.array_equal(interpret(repeated(picture, 10)).images, interpret(picture).images)


def test_what_would_be_left_of_few_pixels_stays_as_it_is() -> None:
    picture = np.full((120, 120), 255, np.uint8)
    picture[20:100, 60:80] = 0  # a 1, on a grid of 20
    assert original(picture) is picture


@pytest.mark.parametrize("page", [255, 90])
def test_a_tile_on_a_page_is_seen_alone(page: int) -> None:
    assert np.array_equal(original(on_page(digit(), page)), digit())
    assert np.array_equal(original(on_page(repeated(digit(), 5), page)), digit())
    assert np.array_equal(original(repeated(on_page(digit(), page), 2)), digit())


def test_a_tile_that_was_enlarged_smoothly_has_no_rim_of_the_page() -> None:
    page = on_page(digit(), 255, 9)
    large = cv2.resize(page, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    assert original(large)[[0, -1]].max() < 20
    assert original(large)[:, [0, -1]].max() < 20


@pytest.mark.parametrize("bars", [(0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("where", ["all around", "above and below", "beside"])
def test_a_photograph_loses_its_bars_and_nothing_else(bars: tuple[int, int, int], where: str) -> None:
    picture = np.clip(snapshot(), 30, 220)
    top, side = {"all around": (40, 30), "above and below": (50, 0), "beside": (0, 50)}[where]
    border = (top, top + 3, side, side)
    seen = original(np.asarray(cv2.copyMakeBorder(picture, *border, cv2.BORDER_CONSTANT, value=bars)))
    height, width = picture.shape[:2]
    assert seen.shape[0] >= height - 6
    assert seen.shape[1] >= width - 6
    top, left = (height - seen.shape[0]), (width - seen.shape[1])
    places = [(y, x) for y in range(top + 1) for x in range(left + 1)]
    assert any(np.array_equal(picture[y : y + seen.shape[0], x : x + seen.shape[1]], seen) for y, x in places)


def drawn(kind: str) -> np.ndarray:
    canvas = np.full((301, 203, 3), 255, np.uint8)
    black = (0, 0, 0)
    if kind == "a frame":
        cv2.rectangle(canvas, (30, 60), (170, 240), black, 6)
        cv2.line(canvas, (100, 90), (98, 210), black, 8)
    elif kind == "a bar":
        canvas[50:250, 90:120] = 0
    elif kind == "an 8 of seven segments":
        canvas[50:250, 50:150] = 0
        canvas[80:135, 80:120] = canvas[165:220, 80:120] = 255
    elif kind == "a 0 of segments":
        canvas[50:250, 50:150] = 0
        canvas[80:220, 80:120] = 255
    elif kind == "a fat 0":
        canvas[80:220, 50:150] = 0
        canvas[116:184, 86:114] = 255
    elif kind == "a fat 8":
        canvas[80:220, 50:150] = 0
        canvas[110:135, 80:120] = canvas[165:190, 80:120] = 255
    elif kind == "a bar in grains":
        canvas[50:250, 60:140] = np.random.default_rng(0).normal(90, 20, (200, 80, 1)).clip(0, 255)
    elif kind == "a bar in a gradient":
        canvas[50:250, 60:140] = np.linspace(40, 100, 200)[:, None, None]
    elif kind == "lines across the page":
        canvas[30:271:40] = 120
        cv2.line(canvas, (100, 60), (90, 240), black, 9)
    elif kind == "a solid square":
        canvas[100:200, 50:150] = 0
    elif kind == "a stroke":
        cv2.line(canvas, (60, 40), (120, 250), black, 14)
    return canvas


KINDS = [
    "a frame",
    "a bar",
    "a bar in grains",
    "a bar in a gradient",
    "an 8 of seven segments",
    "a 0 of segments",
    "a fat 0",
    "a fat 8",
    "a solid square",
    "a stroke",
    "lines across the page",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("polarity", ["dark ink", "light ink"])
def test_what_is_drawn_on_a_page_stays_on_it(kind: str, polarity: str) -> None:
    picture = drawn(kind) if polarity == "dark ink" else 255 - drawn(kind)
    assert original(picture) is picture


@pytest.mark.parametrize(("across", "down"), [(53, 37), (48, 40), (61, 45)])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_so_does_a_bar_that_is_blurred_and_saved_as_jpeg(across: int, down: int, quality: int) -> None:
    canvas = np.full((301, 203), 255, np.uint8)
    for width in (50, 90):
        canvas[down : down + 120, across : across + width] = 0
        soft = cv2.GaussianBlur(canvas, (0, 0), 0.7)
        picture = decode(cv2.imencode(".jpg", soft, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
        assert original(picture) is picture


def test_photographs_stay_as_they_are() -> None:
    for seed in range(30):
        picture = photograph(digit(seed % 10, seed), np.random.default_rng(seed), seed / 30)
        assert original(picture) is picture
