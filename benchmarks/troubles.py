"""What real photographs are read with troubles put over them: `python -m benchmarks.troubles FOLDER MODEL.onnx …`.

FOLDER holds labelled photographs of digits; each is spoilt twice in each way, always alike. Prints one row for each
trouble and model: how many were read rightly, with 95% interval, refused, and accepted though wrong. What spoils them
shares nothing with the photographer that models learn from (digits.scenery, digits.camera).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from digits import imaging
from digits.classifier import Classifier
from digits.decoding import decode
from digits.metrics import accuracy_interval
from pipelines.inputs import labelled

Picture = np.ndarray  # uint8 (h, w, 3), RGB
Trouble = Callable[[Picture, Generator], Picture]
SEED, TIMES = 7, 2
SKINS = ((220, 170, 145), (160, 105, 80), (95, 60, 45))


def rounded(picture: np.ndarray) -> Picture:
    return np.clip(picture, 0, 255).astype(np.uint8)


def lit(picture: Picture, light: np.ndarray) -> Picture:
    """The picture under a light (h, w), 1 where nothing changes."""
    return rounded(picture * light[..., None])


def places(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """x and y of each pixel, (h, w)."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    return x, y


def step(across: np.ndarray) -> np.ndarray:
    """From 0 to 1, softly, where `across` goes through 0."""
    return 0.5 + 0.5 * np.tanh(across / 2)


def paper(picture: Picture) -> np.ndarray:
    """The colour at the rim, (3,)."""
    return np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]), axis=0)


def soft_noise(shape: tuple[int, ...], cells: tuple[int, int], rng: Generator) -> np.ndarray:
    coarse = rng.normal(0, 1, cells).astype(np.float32)
    return cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC)


def blank_page(height: int, width: int, colour: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colour, (height, width, 3)).astype(np.float32, order="C")


def lay(picture: Picture, page: np.ndarray, top: int, left: int, rim: float) -> None:
    """Puts a picture on a page (h, w, 3) in place; `rim`, a share of its sides, fades into the page."""
    height, width = picture.shape[:2]
    down, across = (np.minimum(np.arange(n), np.arange(n)[::-1]) / (rim * n) for n in (height, width))
    part = page[top : top + height, left : left + width]
    part += np.clip(np.minimum(down[:, None], across[None]), 0, 1)[..., None] * (picture - part)


# -- paper ------------------------------------------------------------------------------------------------------------


def ruled(picture: Picture, rng: Generator, squares: bool = False) -> Picture:
    """Printed lines, or squares, over strokes and paper alike."""
    short = min(picture.shape[:2])
    gap, turn, width = short * rng.uniform(0.12, 0.4), rng.normal(0, 0.04), max(1.0, short * rng.uniform(0.006, 0.014))
    x, y = places(picture)
    along = [np.cos(turn) * y - np.sin(turn) * x, np.cos(turn) * x + np.sin(turn) * y][: 1 + squares]
    off = [np.abs((c + rng.uniform(0, gap)) % gap - gap / 2) for c in along]
    line = np.max([np.clip(width / 2 - distance + 0.5, 0, 1) for distance in off], axis=0)
    colours = np.array([[120, 150, 215], [140, 140, 150], [215, 130, 140], [130, 190, 170]]) / 255
    colour, strength = colours[rng.integers(4)], rng.uniform(0.4, 0.9)
    share = (line * strength)[..., None]
    return rounded(picture * (1 - share + share * colour))


def coloured(picture: Picture, rng: Generator) -> Picture:
    papers = [[255, 240, 120], [255, 170, 190], [150, 230, 160], [150, 200, 255], [255, 190, 110], [190, 160, 120]]
    return rounded(picture * (np.array(papers[rng.integers(6)]) / 255))


def textured(picture: Picture, rng: Generator) -> Picture:
    """Cardboard, wood or rough paper."""
    wood = rng.random() < 0.5
    cells = (int(rng.integers(40, 160)), int(rng.integers(4, 12))) if wood else (60, 60)
    grain = 1 + rng.uniform(0.04, 0.1) * soft_noise(picture.shape, cells, rng)
    tint = np.array([[0.8, 0.62, 0.42], [0.75, 0.68, 0.55], [0.9, 0.9, 0.9]][rng.integers(3)])
    return rounded(picture * tint * grain[..., None])


def crumpled(picture: Picture, rng: Generator) -> Picture:
    height, width = picture.shape[:2]
    x, y = places(picture)
    light = np.ones((height, width))
    for _ in range(7):
        turn = rng.uniform(0, 2 * np.pi)
        across = np.cos(turn) * (x - width * rng.random()) + np.sin(turn) * (y - height * rng.random())
        light += rng.uniform(0.03, 0.12) * np.tanh(across / rng.uniform(1, 0.1 * width))
    return lit(picture, light)


def other_side(picture: Picture, rng: Generator) -> Picture:
    """Print that shows through."""
    height, width = picture.shape[:2]
    scale, letters = height / 260, list("abcdefghijklmnopqrstuvwxyz  ")
    text = np.full((height, width), 255, np.uint8)
    for row in range(int(14 * scale), height, int(22 * scale) + 1):
        line = "".join(rng.choice(letters, 40))
        cv2.putText(text, line, (int(rng.uniform(-20, 5)), row), 0, 0.45 * scale, 0, max(1, int(scale)), cv2.LINE_AA)
    blurred = cv2.GaussianBlur(np.ascontiguousarray(text[:, ::-1]), (0, 0), 1.2 * scale)
    return lit(picture, 1 - rng.uniform(0.08, 0.22) * (1 - blurred / 255))


# -- light ------------------------------------------------------------------------------------------------------------


def shadow(picture: Picture, rng: Generator) -> Picture:
    """The edge of one, sharp or soft, through the middle."""
    height, width = picture.shape[:2]
    x, y = places(picture)
    turn = rng.uniform(0, 2 * np.pi)
    across = np.cos(turn) * (x - width * rng.uniform(0.3, 0.7)) + np.sin(turn) * (y - height * rng.uniform(0.3, 0.7))
    return lit(picture, 1 - rng.uniform(0.35, 0.6) * step(across / rng.uniform(0.5, 8)))


def blinds(picture: Picture, rng: Generator) -> Picture:
    height = len(picture)
    x, y = places(picture)
    turn = rng.uniform(-0.6, 0.6) + np.pi / 2 * (rng.random() < 0.3)
    slats = (np.cos(turn) * y + np.sin(turn) * x) / (height * rng.uniform(0.15, 0.45)) + rng.random()
    return lit(picture, 1 - rng.uniform(0.25, 0.5) * step(np.sin(2 * np.pi * slats) * rng.uniform(3, 15)))


def vignette(picture: Picture, rng: Generator) -> Picture:
    height, width = picture.shape[:2]
    x, y = places(picture)
    off = (2 * x / width - 1 - rng.uniform(-0.4, 0.4)) ** 2 + (2 * y / height - 1 - rng.uniform(-0.4, 0.4)) ** 2
    return lit(picture, 1 / (1 + rng.uniform(0.5, 1.6) * off))


def glare(picture: Picture, rng: Generator) -> Picture:
    """A lamp mirrored in a glossy sheet: what lies under it loses three quarters of its contrast."""
    height, width = picture.shape[:2]
    x, y = places(picture)
    off = np.hypot(x / width - rng.uniform(0.15, 0.85), y / height - rng.uniform(0.15, 0.85))
    veil = np.clip(1.2 - off / rng.uniform(0.15, 0.35), 0, 0.75)[..., None]
    return rounded(picture * 0.75 * (1 - veil) + 255 * veil)


# -- camera -----------------------------------------------------------------------------------------------------------


def as_jpeg(picture: Picture, quality: int) -> Picture:
    written = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(written, cv2.IMREAD_COLOR_RGB)


def dim(picture: Picture, rng: Generator) -> Picture:
    """Taken by night: dark, noisy, and stored small."""
    scale = min(1, 400 / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    noisy = small * rng.uniform(0.15, 0.4) + rng.normal(0, rng.uniform(4, 10), small.shape)
    return as_jpeg(rounded(noisy), int(rng.integers(25, 60)))


def moved(picture: Picture, rng: Generator) -> Picture:
    length = int(max(3, rng.uniform(0.03, 0.07) * min(picture.shape[:2])))
    turn, middle = rng.uniform(0, np.pi), (length - 1) / 2
    reach = np.array([np.cos(turn), np.sin(turn)]) * middle
    kernel = np.zeros((length, length), np.float32)
    cv2.line(kernel, np.rint(middle - reach).astype(int).tolist(), np.rint(middle + reach).astype(int).tolist(), 1)
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def out_of_focus(picture: Picture, rng: Generator) -> Picture:
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.012, 0.03) * min(picture.shape[:2]))


def moire(picture: Picture, rng: Generator) -> Picture:
    """Taken off a screen."""
    x, y = places(picture)
    turn = rng.uniform(0, np.pi)
    return lit(picture, 1 + 0.12 * np.sin(rng.uniform(0.3, 1.2) * (np.cos(turn) * x + np.sin(turn) * y)))


def perspective(picture: Picture, rng: Generator) -> Picture:
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = corners + (rng.uniform(-0.16, 0.16, (4, 2)) * [width, height]).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(corners, seen)
    return cv2.warpPerspective(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def turned(picture: Picture, rng: Generator) -> Picture:
    """By 12 to 25 degrees."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.choice([-1, 1]) * rng.uniform(12, 25), 1)
    return cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


# -- pen --------------------------------------------------------------------------------------------------------------


def ground(picture: Picture) -> np.ndarray:
    """The paper without the strokes, about."""
    return cv2.GaussianBlur(cv2.dilate(picture, np.ones((15, 15))), (0, 0), 9).astype(np.float32)


def pale(picture: Picture, rng: Generator) -> Picture:
    """An eighth to a quarter of the contrast."""
    below = ground(picture)
    return rounded(below + (picture - below) * rng.uniform(0.12, 0.25) + rng.normal(0, 1.5, picture.shape))


def chalk(picture: Picture, rng: Generator) -> Picture:
    """Light on a dark ground."""
    board = np.array([[0.35, 0.6, 0.4], [0.35, 0.4, 0.45], [0.8, 0.8, 0.8]][rng.integers(3)])
    return rounded((255 - picture) * board + rng.normal(0, 3, picture.shape) + 20)


# -- what lies around -------------------------------------------------------------------------------------------------


def on_a_page(picture: Picture, rng: Generator, low: float, high: float) -> Picture:
    """Somewhere on a page of 1200×900, the photograph that share of its height."""
    height, width = 1200, 900
    scale = rng.uniform(low, high) * height / len(picture)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)[: height - 20, : width - 20]
    page = blank_page(height, width, paper(picture))
    page = page + (1.3 * soft_noise(page.shape, (40, 30), rng) + rng.normal(0, 2, page.shape[:2]))[..., None]
    top, left = rng.integers(10, height - small.shape[0] - 9), rng.integers(10, width - small.shape[1] - 9)
    lay(small, page, top, left, 0.08)
    return rounded(page)


def on_a_table(picture: Picture, rng: Generator) -> Picture:
    """The photograph as a sheet, the table all around it."""
    height, width = picture.shape[:2]
    size = int(width * 1.6), int(height * 1.6)
    tone = np.array([[60, 40, 25], [110, 75, 45], [40, 40, 45], [150, 150, 150]][rng.integers(4)])
    table = tone + 8 * soft_noise((size[1], size[0]), (200, 6), rng)[..., None]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.normal(0, 6), 1)
    matrix[:, 2] += width * rng.uniform(0.1, 0.5), height * rng.uniform(0.1, 0.5)
    sheet = cv2.warpAffine(picture, matrix, size)
    there = cv2.warpAffine(np.ones((height, width), np.float32), matrix, size)[..., None]
    return rounded(table * (1 - there) + sheet * there)


def framed(picture: Picture, rng: Generator) -> Picture:
    """A rectangle drawn near the rim."""
    height, width = picture.shape[:2]
    left, top, right, bottom = rng.uniform(0.03, 0.09, 4) * (width, height, width, height)
    corners = (int(left), int(top)), (int(width - right), int(height - bottom))
    colour, line = rng.integers(20, 120, 3).tolist(), max(1, int(rng.uniform(0.006, 0.015) * width))
    return cv2.rectangle(picture.copy(), *corners, colour, line, cv2.LINE_AA)


def in_a_form(picture: Picture, rng: Generator) -> Picture:
    """The photograph in one of a row of printed fields, words above them."""
    height, width = picture.shape[:2]
    page = blank_page(int(height * 1.5), int(width * 2.2), paper(picture))
    left, top = int(rng.uniform(0.1, 1.1) * width), int(height * 0.35)
    lay(picture, page, top, left, 0.06)
    form, colour, line = rounded(page), rng.integers(20, 110, 3).tolist(), max(1, width // 110)
    for field in range(-3, 4):
        start = left + field * width
        cv2.rectangle(form, (start, top + 2), (start + width, top + height - 2), colour, line, cv2.LINE_AA)
    words = "".join(rng.choice(list("ABCDEFGHKLMNOPRSTU abcdefghiklmno"), 18))
    place = int(0.05 * width), int(0.25 * height)
    return cv2.putText(form, words, place, 0, height / 350, colour, line, cv2.LINE_AA)


def held(picture: Picture, rng: Generator, fingers: int = 1) -> Picture:
    """Fingers at the rim."""
    height, width = picture.shape[:2]
    mask, side = np.zeros((height, width), np.uint8), int(rng.integers(4))
    first = rng.uniform(0.2, 0.8) if fingers == 1 else 0.25
    for finger in range(fingers):
        at = first + 0.2 * finger
        x, y = [(0, at), (1, at), (at, 0), (at, 1)][side]
        reach, wide = rng.uniform(0.1, 0.17), rng.uniform(0.07, 0.13)
        axes = (int(width * reach), int(height * wide)) if side < 2 else (int(width * wide), int(height * reach))
        cv2.ellipse(mask, (int(x * width), int(y * height)), axes, rng.uniform(-10, 10), 0, 360, 255, -1)
    share = cv2.GaussianBlur(mask, (0, 0), 1.5)[..., None] / 255
    skin = np.array(SKINS[rng.integers(3)]) + rng.normal(0, 4, picture.shape)
    return rounded(picture * (1 - share) + skin * share)


def neighbour(picture: Picture, rng: Generator) -> Picture:
    """A part of the same digit once more, cut by the rim."""
    height, width = picture.shape[:2]
    strokes = np.clip(picture / (ground(picture) + 1), 0, 1).astype(np.float32)
    away = int(width * rng.uniform(0.6, 0.8)) * rng.choice([-1, 1]), int(height * rng.normal(0, 0.1))
    matrix = np.array([[1, 0, away[0]], [0, 1, away[1]]], np.float32)
    return rounded(picture * cv2.warpAffine(strokes, matrix, (width, height), borderValue=(1, 1, 1)))


def several(picture: Picture, rng: Generator) -> Picture:
    """Three of the troubles that come together on a desk, and a JPEG file of it."""
    usual = [coloured, textured, crumpled, other_side, vignette, shadow, out_of_focus, perspective, held, on_a_table]
    for chosen in rng.choice(len(usual), 3, replace=False):
        picture = usual[chosen](picture, rng)
    return as_jpeg(picture, int(rng.integers(40, 85)))


TROUBLES: dict[str, Trouble] = {
    "none": lambda picture, _: picture,
    "lined": ruled,
    "squared": partial(ruled, squares=True),
    "coloured paper": coloured,
    "cardboard, wood": textured,
    "crumpled": crumpled,
    "print of the other side": other_side,
    "edge of a shadow": shadow,
    "squared, edge of a shadow": lambda picture, rng: shadow(ruled(picture, rng, squares=True), rng),
    "blinds": blinds,
    "vignette": vignette,
    "lamp mirrored": glare,
    "by night": dim,
    "moved": moved,
    "out of focus": out_of_focus,
    "off a screen": moire,
    "perspective": perspective,
    "turned by 12 to 25°": turned,
    "pale": pale,
    "chalk": chalk,
    "a quarter to half of a page": partial(on_a_page, low=0.25, high=0.5),
    "a tenth of a page": partial(on_a_page, low=0.08, high=0.12),
    "sheet on a table": on_a_table,
    "in a frame": framed,
    "in a form": in_a_form,
    "finger at the rim": held,
    "held by three fingers": partial(held, fingers=3),
    "part of a neighbour": neighbour,
    "three of them": several,
}


def row(name: str, pictures: list[Picture], labels: list[int], classifier: Classifier) -> str:
    answers = classifier.classify([imaging.interpret(picture, classifier.segmenter) for picture in pictures])
    right = np.array([answer.digit == label for answer, label in zip(answers, labels, strict=True)])
    accepted = np.array([answer.accepted for answer in answers])
    low, high = accuracy_interval(int(right.sum()), len(right))
    return (
        f"{name:28} {len(right):5} {100 * right.mean():6.1f} {100 * low:6.1f}–{100 * high:5.1f}"
        f" {100 * (1 - accepted.mean()):8.1f} {100 * (accepted & ~right).mean():15.1f}"
    )


def main(folder: Path, models: list[Path]) -> None:
    files, labels = zip(*labelled(folder), strict=True)
    pictures = [decode(file.read_bytes()) for file in files]
    pictures = [cv2.cvtColor(p, cv2.COLOR_GRAY2RGB) if p.ndim == 2 else p for p in pictures]
    classifiers = [Classifier(model) for model in models]
    print(f"{'trouble':28} {'n':>5} {'right %':>6} {'95%':>10} {'refused %':>11} {'accepted wrong %':>14}")
    for name, trouble in TROUBLES.items():
        times = range(1 if name == "none" else TIMES)
        spoilt = [trouble(p, np.random.default_rng([SEED, i, k])) for i, p in enumerate(pictures) for k in times]
        for classifier in classifiers:
            print(row(name, spoilt, [label for label in labels for _ in times], classifier), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m benchmarks.troubles FOLDER MODEL.onnx …")
    main(Path(sys.argv[1]), [Path(model) for model in sys.argv[2:]])
