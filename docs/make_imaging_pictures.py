"""Draws docs/images/imaging-*.png, one for each stage:
`python docs/make_imaging_pictures.py [folder with MNIST [model.onnx]]`; without a model, all but the segmenter's."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from digits import imaging
from digits.classifier import Classifier
from digits.data import load
from digits.ink import Page, noise_floor, scaled
from digits.margins import with_margin
from digits.originals import original, unrepeated, without_page
from digits.rulings import find_rulings, without_rulings
from digits.shapes import components, grouped, rivals, without_frames
from digits.thumbnails import fit

IMAGES = Path(__file__).parent / "images"
TILE = 200


def grainy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def page(digit: np.ndarray, squared: bool = False, table: bool = False) -> np.ndarray:
    """A validation digit in blue on a page under a lamp, 360 × 360."""
    rng = np.random.default_rng(2)
    picture = np.full((360, 360, 3), (232, 228, 214), np.float32)
    for place in range(18, 380, 45):
        cv2.line(picture, (0, place), (359, place + 9), (165, 180, 215), 2, cv2.LINE_AA)
        if squared:
            cv2.line(picture, (place, 0), (place - 9, 359), (165, 180, 215), 2, cv2.LINE_AA)
    strokes = cv2.resize(digit.astype(np.float32), (250, 250), interpolation=cv2.INTER_CUBIC)
    ink = np.zeros((360, 360, 1), np.float32)
    ink[60:310, 60:310, 0] = np.clip((cv2.GaussianBlur(strokes, (0, 0), 3) - 110) / 50, 0, 1)
    picture = picture * (1 - ink) + np.array((35, 45, 130), np.float32) * ink
    if table:
        picture[:, :26] = (70, 48, 36)
    light = np.linspace(1.05, 0.45, 360)[None, :, None] * np.linspace(1, 0.8, 360)[:, None, None]
    return grainy(cv2.GaussianBlur(picture, (0, 0), 0.8) * light, rng)


def cut_out(digit: np.ndarray) -> np.ndarray:
    """A validation digit in broad red, cut along its strokes, the lamp to the right."""
    rng = np.random.default_rng(6)
    large = cv2.resize(cv2.dilate(digit, np.ones((2, 2), np.uint8)), (336, 336), interpolation=cv2.INTER_CUBIC)
    strokes = cv2.GaussianBlur(large.astype(np.float32), (0, 0), 3)
    ink = np.clip((strokes[..., None] - 110) / 50, 0, 1)
    picture = np.array((228, 224, 212), np.float32) * (1 - ink) + np.array((150, 40, 44), np.float32) * ink
    light = np.linspace(0.75, 1.05, 336)[None, :, None]
    x, y, width, height = cv2.boundingRect((ink[..., 0] > 0.5).astype(np.uint8))
    return grainy(cv2.GaussianBlur(picture, (0, 0), 0.8) * light, rng)[y : y + height, x : x + width]


def form(digit: np.ndarray) -> np.ndarray:
    """A validation digit in one of three printed fields, the lamp to the left, 360 × 360."""
    rng = np.random.default_rng(5)
    picture = np.full((360, 360, 3), (236, 233, 226), np.float32)
    for left in (14, 127, 240):
        cv2.rectangle(picture, (left, 100), (left + 106, 246), (70, 74, 82), 3, cv2.LINE_AA)
    strokes = cv2.resize(digit.astype(np.float32), (120, 120), interpolation=cv2.INTER_CUBIC)
    ink = np.clip((cv2.GaussianBlur(strokes, (0, 0), 1.5)[..., None] - 110) / 50, 0, 1)
    part = picture[113:233, 120:240]
    part[:] = part * (1 - ink) + np.array((40, 52, 120), np.float32) * ink
    turned = cv2.warpAffine(
        picture, cv2.getRotationMatrix2D((180, 180), 4, 1), (360, 360), borderMode=cv2.BORDER_REPLICATE
    )
    light = np.linspace(1.05, 0.6, 360)[None, :, None]
    return grainy(cv2.GaussianBlur(turned, (0, 0), 0.8) * light, rng)


def marker(digit: np.ndarray) -> np.ndarray:
    """A validation digit in red, close up, over grey writing and under a hard shadow, 240 × 240."""
    rng = np.random.default_rng(3)
    picture = np.full((240, 240, 3), (214, 206, 190), np.float32)
    for place in range(20, 220, 16):
        cv2.line(picture, (place, 212), (place + 6, 230), (80, 78, 74), 4, cv2.LINE_AA)
    strokes = cv2.resize(digit.astype(np.float32), (250, 250), interpolation=cv2.INTER_CUBIC)[20:230, 5:245]
    ink = np.zeros((240, 240, 1), np.float32)
    ink[:210, :, 0] = np.clip((cv2.dilate(cv2.GaussianBlur(strokes, (0, 0), 3), np.ones((7, 7))) - 110) / 50, 0, 1)
    picture = picture * (1 - ink) + np.array((190, 55, 45), np.float32) * ink
    row, column = np.mgrid[:240, :240]
    light = np.where(row + 0.6 * column < 190, 0.42, 1)[..., None]
    return grainy(cv2.GaussianBlur(picture * light, (0, 0), 1), rng)


def desk(digit: np.ndarray) -> np.ndarray:
    """A validation digit in pencil, small, on squares, over writing, a hard shadow across it, 400 × 400."""
    rng = np.random.default_rng(4)
    picture = np.full((400, 400, 3), (226, 222, 208), np.float32)
    for place in range(10, 400, 26):
        cv2.line(picture, (0, place), (399, place + 7), (150, 170, 200), 1, cv2.LINE_AA)
        cv2.line(picture, (place, 0), (place - 7, 399), (150, 170, 200), 1, cv2.LINE_AA)
    for place in range(120, 330, 15):
        cv2.line(picture, (place, 262), (place + 5, 280), (90, 90, 96), 3, cv2.LINE_AA)
    ink = cv2.resize(digit.astype(np.float32), (150, 150), interpolation=cv2.INTER_CUBIC)[..., None]
    strokes = np.clip((cv2.GaussianBlur(ink, (0, 0), 2)[..., None] - 120) / 50, 0, 1) * 0.62
    part = picture[110:260, 150:300]
    part[:] = part * (1 - strokes) + np.array((60, 60, 66), np.float32) * strokes
    row, column = np.mgrid[:400, :400]
    light = np.where(row - 0.8 * column < 10, 1, 0.5)[..., None]
    return grainy(cv2.GaussianBlur(picture * light, (0, 0), 1), rng)


def tile(picture: np.ndarray) -> np.ndarray:
    colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    method = cv2.INTER_AREA if max(colour.shape) > TILE else cv2.INTER_NEAREST
    return np.pad(cv2.resize(colour, (TILE, TILE), interpolation=method), ((4, 4), (4, 4), (0, 0)), constant_values=255)


def on_paper(ink: np.ndarray) -> np.ndarray:
    return (255 - np.clip(ink * 1.6, 0, 255)).astype(np.uint8)


def in_colours(labels: np.ndarray) -> np.ndarray:
    """Components, each in a colour of its own."""
    return cv2.applyColorMap((labels * 61 % 255).astype(np.uint8), cv2.COLORMAP_HSV) * (labels[..., None] > 0)


def parted(picture: np.ndarray) -> tuple:
    """Its ink without rulings, the map of its components, and these."""
    cleared = without_rulings(Page(picture).ink(True, imaging.STROKE))[0]
    return cleared, *components(cleared, noise_floor(cleared))


def save(name: str, *pictures: np.ndarray) -> None:
    IMAGES.mkdir(exist_ok=True)
    sheet = Image.fromarray(np.hstack([tile(picture) for picture in pictures]))
    sheet.quantize(128, dither=Image.Dither.NONE).save(IMAGES / f"imaging-{name}.png", optimize=True)


def marked(picture: np.ndarray, lines: list, across: list) -> np.ndarray:
    out = picture.copy()
    for flip, found in ((False, lines), (True, across)):
        for line in found:
            points = np.stack((np.arange(len(line.rows)), line.rows), 1)
            outline = np.rint(points[:, ::-1] if flip else points).astype(np.int32)
            cv2.polylines(out, [outline], False, (220, 30, 30), 1)
    return out


def main() -> None:
    split = load("auto", Path(sys.argv[1] if len(sys.argv) > 1 else "data")).validation
    two = split.images[int(np.flatnonzero(split.labels == 2)[3])]
    five = split.images[int(np.flatnonzero(split.labels == 5)[0])]

    shaded = page(two, table=True)
    prepared = Page(scaled(shaded, imaging.WORK_SIDE))
    ground = prepared.ground(True, imaging.STROKE)
    save("light", shaded, prepared.light, ground, on_paper(prepared.ink(True, imaging.STROKE)))

    crossed = five.copy()
    cv2.line(crossed, (1, 21), (26, 17), 255, 1)
    large = crossed.repeat(6, axis=0).repeat(6, axis=1)
    screenshot = cv2.copyMakeBorder(large, 40, 60, 70, 30, cv2.BORDER_CONSTANT, value=(255,))
    assert np.array_equal(original(screenshot), crossed)
    alone = without_page(screenshot)
    save("originals", screenshot, imaging._photograph(screenshot, None).images[0], alone, unrepeated(alone))

    cut = np.ascontiguousarray(cut_out(five))
    whole = with_margin(cut, cut)
    inks = [on_paper(Page(picture).ink(True, imaging.STROKE)) for picture in (cut, whole)]
    save("margin", cut, inks[0], whole, inks[1], imaging.interpret(cut).images[0])

    red = marker(two)
    prepared = Page(red)
    assert prepared.tint is not None
    seen = imaging.interpret(red).images
    save("hue", red, on_paper(prepared.ink(True, imaging.STROKE)), on_paper(prepared.tint), seen[0], seen[-1])

    squared = page(two, squared=True)
    ink = Page(squared).ink(True, imaging.STROKE)
    across = find_rulings(np.ascontiguousarray(ink.T))
    save(
        "rulings", squared, on_paper(ink), marked(squared, find_rulings(ink), across), on_paper(without_rulings(ink)[0])
    )

    framed = form(five)
    cleared, labels, parts = parted(framed)
    kept = without_frames(labels, parts)
    strokes = np.isin(labels, [label for shape in kept for label in shape.labels])
    save("frames", framed, in_colours(labels), on_paper(cleared * strokes), imaging.interpret(framed).images[0])

    pair = np.hstack([page(five)[:, 30:330], page(two)[:, 60:330]])
    work = scaled(pair, imaging.WORK_SIDE)
    cleared, labels, parts = parted(work)
    shapes = grouped(parts, *cleared.shape)
    boxes = work.copy()
    for shape in shapes[:1] + rivals(shapes):
        x, y, w, h = shape.box
        cv2.rectangle(boxes, (x, y), (x + w, y + h), (220, 30, 30), 2)
    save("shapes", work, on_paper(cleared), in_colours(labels), boxes)

    hairline = np.full((300, 300), 255, np.uint8)
    cv2.polylines(hairline, [np.array([[80, 60], [210, 60], [130, 250]])], False, 0, 1, cv2.LINE_AA)
    part = (255 - hairline.astype(np.float32)) / 255
    save("fit", hairline, fit(part), fit(part, 1.5), imaging.interpret(squared).images[0])

    segmenter = Classifier(Path(sys.argv[2])).segmenter if len(sys.argv) > 2 else None
    if segmenter:
        photo = desk(five)
        digit, _ = segmenter.digit(photo)
        assert digit is not None
        seen = segmenter.look(photo)[0], segmenter.look(photo[100:270, 140:310])[0]
        found = [(255 - 255 * strokes).astype(np.uint8) for strokes in seen]
        save("segmenter", photo, imaging.interpret(photo).images[0], *found, digit)


if __name__ == "__main__":
    main()
