"""A digit goes in, the photograph, scan or drawing that a user might send comes out; and back through imaging, a
training set of what the model will see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from digits import camera, handwriting, imaging, scenery
from digits.data import Split
from digits.handwriting import Field
from digits.ink import Bytes, Floats
from digits.pens import depth_of, pick_pen
from digits.segmenter import ROUND, SIDE, Segmenter, reduced
from digits.workers import Progress, in_order

# A candidate this much like the digit that was photographed (see `likeness`) still shows it. Below, imaging has most
# likely lost it, and the label would be noise: see `make_photographs`.
RECOGNISABLE = 0.57
KEEP_LOST = 0.1  # of those below
Box = tuple[float, float, float, float]  # left, top, right, bottom
Also = Literal["", "cut out", "marked"]  # what else happens to a photograph that is sent
MARKED = 0.1  # share of the photographs to learn from in which the digit is ringed, underlined or bracketed
LEAVING = 0.1  # of a digit, what the camera's tilt may push out of the picture: of more nobody knows what it is
ROOM = 0.7  # of its size, what a digit then has
CUT_OUT = 0.12  # share of the photographs to learn from that are cut along their strokes
SLACK = (-0.06, 0.1)  # how far outwards such a cut is from them, as a share of the digit's width or height
UNLIKE = 0.4  # a candidate below this shows something beside the digit: a shadow's edge, a blot, part of the squares
LYING = 0.6  # of how far it goes across, what a bar rises by at most that is no 1: of MNIST's 1s one in 1,000 has 1
ELLIPTIC = 0.9  # of the ellipse that fits an outline best, what a 0 encloses at least: a triangle has 0.7, a heart 0.88
RECTANGULAR = 0.9  # of the smallest rectangle around it, an outline that encloses more is no 0: an ellipse has 0.79
SMALL, AGAIN = 0.35, 0.7  # of the digits that take less of their picture so many are looked at from closer, too
WRITTEN_SHARE = 0.2  # digits written from our own skeletons instead of taken from the data set


@dataclass(frozen=True)
class Shot:
    """A photograph and what it is of.

    Attributes:
        picture: uint8 (h, w, 3), RGB.
        ink: float32 (h, w), how much of each pixel the digit's strokes cover, 0..1.
    """

    picture: Bytes
    ink: Floats


@dataclass(frozen=True)
class Photographs:
    """What imaging makes of many photographs.

    Attributes:
        digits: what it offers for the digits, (count, 28, 28) and (count,).
        beside: uint8 (k, 28, 28), what it offers besides that shows no digit.
    """

    digits: Split
    beside: Bytes


def _frame(rng: np.random.Generator, hardness: float) -> tuple[int, int, float]:
    """Height and width of the picture and height of the digit, in pixels."""
    height = float(np.clip(np.exp(rng.normal(np.log(210), 0.5)), 28, 1000))
    width = float(np.clip(height * np.exp(rng.normal(-0.08, 0.22)), 28, 1000))
    low, high = 0.45 - 0.39 * hardness, 0.8 + 0.15 * hardness
    share = np.exp(rng.uniform(np.log(low), np.log(high)))
    size = max(share * min(height, 1.3 * width), 17.0)
    return round(max(height, size * 1.1)), round(max(width, size * 0.9)), float(size)


def _pose(rng: np.random.Generator, hardness: float, height: int, width: int) -> npt.NDArray[np.float64]:
    """The homography from the picture to the page, in pixels, the middle kept: the camera's turn and tilt."""
    angle = np.clip(rng.normal(0, 0.04 + 0.09 * hardness), -0.35, 0.35)
    tilt = rng.normal(0, 0.03 + 0.12 * hardness, 2).clip(-0.3, 0.3)
    reach = max(height, width)
    centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [tilt[0] / reach, tilt[1] / reach, 1]]
    )
    return np.asarray(np.linalg.inv(centre) @ turn @ centre, np.float64)


def _place(
    field: Field, size: float, height: int, width: int, rng: np.random.Generator, hardness: float
) -> npt.NDArray[np.float64]:
    """The affine map (3, 3) from the page to the field, which puts the digit, `size` pixels high, somewhere in the
    frame.
    """
    left, top, box_width, box_height = field.box
    scale = size / max(box_height, 0.6 * box_width)
    stretch, slant = np.exp(rng.normal(0, 0.1)), rng.normal(0, 0.08)
    turn = np.clip(rng.normal(0, 0.06), -0.15, 0.15)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = scale * spin @ np.array([[stretch, slant], [0, 1]])
    half = np.abs(linear) @ np.array([box_width, box_height]) / 2
    frame = np.array([width, height]) / 2
    shrink = min(1.0, float((0.95 * frame / half).min()))
    linear, half = linear * shrink, half * shrink
    room = np.maximum(frame - half, 0)
    spread = 0.5 + 0.5 * hardness
    centre = frame + rng.uniform(-spread, spread, 2) * room
    if rng.random() < 0.08 * hardness:  # touching the frame, a little cut
        axis, side = int(rng.integers(2)), rng.choice([-1.0, 1.0])
        centre[axis] = frame[axis] + side * (frame[axis] - half[axis] * rng.uniform(0.9, 1.02))
    to_page = np.eye(3)
    to_page[:2, :2] = linear
    to_page[:2, 2] = centre - linear @ np.array([left + box_width / 2, top + box_height / 2])
    return np.asarray(np.linalg.inv(to_page), np.float64)


def _box_on_page(field: Field, placed: npt.NDArray[np.float64]) -> Box:
    left, top, width, height = field.box
    return _box_behind((left, top, left + width, top + height), placed)


def _box_behind(box: Box, mapping: npt.NDArray[np.float64]) -> Box:
    """Where a mapping (3, 3) takes a box from: the box around that."""
    left, top, right, bottom = box
    corners = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]])
    x, y, w = np.linalg.inv(mapping) @ corners.T
    x, y = x / w, y / w
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _outside(box: Box, pose: npt.NDArray[np.float64], height: int, width: int) -> float:
    """How far a box on the page reaches out of the picture, as a share of its own width or height there."""
    left, top, right, bottom = _box_behind(box, pose)
    across = max(-left, right - width) / max(right - left, 1)
    return max(across, max(-top, bottom - height) / max(bottom - top, 1))


def _box_of(ink: Floats) -> tuple[int, int, int, int]:
    """Left, top, width, height of the strokes of a map (h, w); width and height are 0 where there are none."""
    x, y, w, h = cv2.boundingRect((ink > 0.2).astype(np.uint8))
    return x, y, w, h


def shoot(field: Field, rng: np.random.Generator, hardness: float, marked: bool = False) -> Shot:
    """Ink a field on some ground and take its picture.

    `hardness` 0..1: how likely and how strong each disturbance is. `marked`: somebody has ringed or underlined it.
    """
    height, width, size = _frame(rng, hardness)
    size *= ROOM if marked else 1
    screen = rng.random() < 0.1
    dark_ground = rng.random() < 0.06 + 0.06 * hardness
    pen = pick_pen(rng, hardness, dark_ground)
    pose = np.eye(3) if screen else _pose(rng, hardness, height, width)
    placed = _place(field, size, height, width, rng, hardness)
    box = _box_on_page(field, placed)
    if _outside(box, pose, height, width) > LEAVING:
        pose = np.eye(3)
    pixel = np.float32(1 / np.hypot(placed[0, 0], placed[1, 0]))  # picture pixels for one field pixel

    flags, depth = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, depth_of(field, pen, rng, hardness)
    seen = cv2.warpPerspective(
        depth, placed @ pose, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=-50
    )
    depth = np.asarray(seen, np.float32) * pixel
    stroke = 2 * float(depth.max())
    if 0 < stroke < 1.3:  # no pen draws thinner than the camera sees
        depth = depth + np.float32(0.65 - stroke / 2)
        stroke = 1.3
    ink = np.clip(depth / np.float32(rng.uniform(0.8, 1.5)) + np.float32(0.5), 0, 1)

    if screen:
        bright = 0.0 if dark_ground else 1.0
        tint = np.full(3, bright) if rng.random() < 0.7 else np.abs(bright - rng.uniform(0, 0.3, 3))
        picture = scenery.sheet_of(height, width, tint)
        rounded = rng.random() < 0.5
        colour = np.asarray(np.rint(pen.colour * 4) / 4 if rounded else np.full(3, 1 - bright), np.float32)
        if marked:
            u, v = scenery.page_coordinates(pose, height, width)
            scenery.mark(picture, u, v, box, colour, stroke, rng)
        scenery.blend(picture, colour, ink)
        if rng.random() < 0.5 * hardness:
            return Shot(camera.take(picture, rng, 0.3 * hardness, max(stroke, 1.3)), ink)
        return Shot(np.asarray(cv2.merge([camera.to_bytes(plane) for plane in picture]), np.uint8), ink)

    picture = scenery.board(height, width, rng) if dark_ground else scenery.paper(height, width, rng, hardness)
    wants_rules = rng.random() < 0.15 + 0.35 * hardness
    wants_frame = rng.random() < 0.06 + 0.06 * hardness
    wants_table = rng.random() < 0.06 + 0.16 * hardness
    if wants_rules or wants_frame or wants_table or marked:
        u, v = scenery.page_coordinates(pose, height, width)
        if wants_rules:
            scenery.rule(picture, u, v, size, pen.strength, rng, hardness)
        if wants_frame:
            scenery.frame(picture, u, v, box, pen.colour, rng)
        if wants_table:
            scenery.table(picture, u, v, box, rng)
        if marked:
            scenery.mark(picture, u, v, box, pen.colour, stroke, rng)
    alpha = ink * np.float32(pen.strength)
    if pen.grain > 0.05:
        alpha = alpha * np.clip(1 + np.float32(pen.grain) * scenery.fractal_noise(height, width, rng, 0.5), 0, 1)
    scenery.blend(picture, pen.colour, alpha)
    x, y, w, h = _box_of(ink)
    scenery.clutter(picture, (x, y, x + w, y + h), rng, hardness)
    camera.light(picture, rng, hardness)
    return Shot(camera.take(picture, rng, hardness, max(stroke, 1.3)), ink)


def cut_out(shot: Shot, rng: np.random.Generator) -> Shot:
    """A shot as people and programs cut it out: one to four sides along the strokes, with a little paper left, or none,
    or a little of the ink lost.
    """
    x, y, w, h = _box_of(shot.ink)
    height, width = shot.ink.shape
    if min(w, h) < 4:
        return shot
    left, top, right, bottom = np.rint(rng.uniform(*SLACK, 4) * (w, h, w, h)).astype(int)
    cut = rng.random(4) < 0.6
    cut[rng.integers(4)] = True
    rows = slice(max(0, y - top) if cut[0] else 0, min(height, y + h + bottom) if cut[1] else height)
    columns = slice(max(0, x - left) if cut[2] else 0, min(width, x + w + right) if cut[3] else width)
    return Shot(np.ascontiguousarray(shot.picture[rows, columns]), np.ascontiguousarray(shot.ink[rows, columns]))


def photograph(digit: Bytes, rng: np.random.Generator, hardness: float) -> Bytes:
    """Photograph a digit, uint8 (28, 28), light on black as in MNIST, as phones, scanners and tablets would show it.

    Returns uint8 (h, w, 3), RGB, 28 to 1,045 pixels a side. Raises ValueError where the digit is blank.
    """
    return shoot(handwriting.field_of(digit), rng, hardness).picture


def sent_photograph(
    images: Bytes,
    labels: npt.NDArray[np.int64],
    hardness: tuple[float, float],
    also: Also,
    segmenter: Segmenter | None,
    rng: np.random.Generator,
) -> tuple[bytes, imaging.Reading, int]:
    """Photograph one of the digits (n, 28, 28), cut out or marked if asked for, and send it: a JPEG file, what imaging
    reads in it, and its label."""
    chosen = int(rng.integers(len(labels)))
    shot = shoot(handwriting.field_of(images[chosen]), rng, rng.uniform(*hardness), marked=also == "marked")
    picture = cut_out(shot, rng).picture if also == "cut out" else shot.picture
    encoded = camera.as_jpeg(picture, 90).tobytes()
    return encoded, imaging.read(encoded, segmenter=segmenter), int(labels[chosen])


def _read_one(
    images: Bytes, labels: npt.NDArray[np.int64], segmenter: Segmenter | None, rng: np.random.Generator
) -> tuple[imaging.Reading, int]:
    field, label = field_and_label(images, labels, rng, written=False)
    return imaging.interpret(shoot_to_learn_from(field, rng, rng.uniform(0, 1)).picture, segmenter), label


def read_photographs(
    images: Bytes,
    labels: npt.NDArray[np.int64],
    count: int,
    seed: int,
    *,
    workers: int = 2,
    progress: Progress | None = None,
    segmenter: Segmenter | None = None,
) -> tuple[list[imaging.Reading], npt.NDArray[np.int64]]:
    """Photographs like those to learn from, but for digits written anew, read as a service would: all candidates of
    each, and the labels (count,).

    The same arguments give the same, whatever `workers` is.
    """
    made = list(in_order(partial(_read_one, images, labels, segmenter), count, seed, workers, progress))
    return [reading for reading, _ in made], np.array([label for _, label in made], np.int64)


def reference(ink: Floats) -> Bytes:
    """What perfect imaging would hand over: the strokes fitted to 20 × 20 and centred by mass in 28 × 28, uint8."""
    x, y, w, h = _box_of(ink)
    if w == 0:
        return np.zeros((28, 28), np.uint8)
    part, scale = ink[y : y + h, x : x + w], 20 / max(w, h)
    size = max(1, round(w * scale)), max(1, round(h * scale))
    fitted = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.float32)
    fitted /= max(float(fitted.max()), 1e-6)
    # Not cv2.moments, which takes a picture two pixels wide for a list of points.
    mass = float(fitted.sum())
    left = 13.5 - float(fitted.sum(0) @ np.arange(fitted.shape[1])) / mass
    top = 13.5 - float(fitted.sum(1) @ np.arange(fitted.shape[0])) / mass
    moved = cv2.warpAffine(fitted, np.array([[1, 0, left], [0, 1, top]]), (28, 28))
    return np.asarray(np.clip(moved * 255, 0, 255), np.uint8)


def _strokes_only(image: npt.NDArray[np.generic]) -> Floats:
    """A difference of Gaussians as wide as a stroke: lines stay, the inside of blobs goes."""
    grey = np.pad(np.asarray(image, np.float32), 2)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.9) - cv2.GaussianBlur(grey, (0, 0), 2.5), np.float32)


def likeness(candidates: Bytes, target: Bytes) -> Floats:
    """How much each candidate (k, 28, 28) looks like the target (28, 28): (k,), 1 for the same, around 0.4 for another.

    The best normalised correlation of the strokes over small shifts, over the target as it is and thickened, since
    imaging changes the pen's width, and over the target at 100 and 78%, since debris makes imaging fit a digit smaller.
    """
    thick = cv2.dilate(target, np.ones((3, 3), np.uint8))
    small = cv2.resize(thick, (22, 22), interpolation=cv2.INTER_AREA)
    wanted = [_strokes_only(t)[2:-2, 2:-2] for t in (target, thick, small)]
    seen = [_strokes_only(candidate) for candidate in candidates]
    best = [max(float(cv2.matchTemplate(s, w, cv2.TM_CCOEFF_NORMED).max()) for w in wanted) for s in seen]
    return np.nan_to_num(np.array(best, np.float32), posinf=0, neginf=0)


def reads_as_bar_or_ring(image: Bytes) -> bool:
    """Whether a picture (28, 28) holds just one straight bar or one plain ring, which anyone would take for a 1 or a
    0. A bar that lies is no 1; the frame of a form, a triangle and a heart are no rings.
    """
    mask = (image >= max(0.4 * float(image.max()), 40)).astype(np.uint8)
    outlines, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer = [i for i, level in enumerate(levels[0]) if level[3] < 0 and len(outlines[i]) > 6] if outlines else []
    if len(outer) != 1:
        return False
    outline = outlines[outer[0]]
    around, area = cv2.minAreaRect(outline), cv2.contourArea(outline)
    width, height = around[1]
    if min(width, height) + 1 < 0.36 * (max(width, height) + 1):
        first, second, third, _ = cv2.boxPoints(around)
        x, y = np.abs(max(second - first, third - second, key=np.linalg.norm))
        return bool(y > LYING * x)
    if area > RECTANGULAR * width * height:
        return False
    holes = [cv2.contourArea(o) for o, level in zip(outlines, levels[0], strict=True) if level[3] == outer[0]]
    solid = area / max(cv2.contourArea(cv2.convexHull(outline)), 1)
    ring = holes and max(holes) > 0.15 * area and sum(h > 0.03 * area for h in holes) == 1 and solid > 0.86
    return bool(ring and area > ELLIPTIC * np.pi / 4 * np.prod(cv2.fitEllipse(outline)[1]))


def field_and_label(
    images: Bytes, labels: npt.NDArray[np.int64], rng: np.random.Generator, written: bool = True
) -> tuple[Field, int]:
    """One of the digits (n, 28, 28) drawn at random, or one that is written anew if it may be, to be photographed."""
    index = int(rng.integers(len(images)))
    label = int(labels[index])
    if written and rng.random() < WRITTEN_SHARE * (2 if label in (1, 7) else 1):
        return handwriting.write_digit(label, rng), label
    return handwriting.field_of(images[index]), label


def shoot_to_learn_from(field: Field, rng: np.random.Generator, hardness: float) -> Shot:
    """A shot, of which some are marked and some are cut out."""
    shot = shoot(field, rng, hardness, marked=rng.random() < MARKED)
    return cut_out(shot, rng) if rng.random() < CUT_OUT else shot


def _photograph_one(
    images: Bytes,
    labels: npt.NDArray[np.int64],
    hardness: tuple[float, float],
    written: bool,
    segmenter: Segmenter | None,
    rng: np.random.Generator,
) -> tuple[Bytes, int, Bytes]:
    while True:
        field, label = field_and_label(images, labels, rng, written)
        shot = shoot_to_learn_from(field, rng, rng.uniform(*hardness))
        candidates = imaging.interpret(shot.picture, segmenter).images
        alike = likeness(candidates, reference(shot.ink))
        best = int(alike.argmax())
        if alike[best] >= RECOGNISABLE or rng.random() < KEEP_LOST:
            beside = [image.any() and not reads_as_bar_or_ring(image) for image in candidates] & (alike < UNLIKE)
            beside[best] = False  # one that is kept though it is lost
            return candidates[best], label, candidates[beside]


def make_photographs(
    images: Bytes,
    labels: npt.NDArray[np.int64],
    count: int,
    seed: int,
    *,
    hardness: tuple[float, float] = (0.0, 1.0),
    workers: int = 2,
    progress: Progress | None = None,
    written: bool = True,
    segmenter: Segmenter | None = None,
) -> Photographs:
    """Photograph digits drawn at random and bring them back through imaging, as training data.

    Of imaging's candidates the one most like the photographed digit is kept. Where even that one's likeness is below
    RECOGNISABLE, imaging has lost the digit and the label would be noise: the sample is kept with probability
    KEEP_LOST only, else another digit is photographed in its place. `written`: some digits are written anew, as no
    digit to choose or measure on should be. The same arguments give the same pictures, whatever `workers` is.
    """
    make = partial(_photograph_one, images, labels, hardness, written, segmenter)
    made = list(in_order(make, count, seed, workers, progress))
    split = Split(np.stack([image for image, _, _ in made]), np.array([label for _, label, _ in made], np.int64))
    return Photographs(split, np.concatenate([beside for _, _, beside in made]))


@dataclass(frozen=True)
class Strokes:
    """Pictures uint8 (n, 3, SIDE, SIDE) as `reduced` gives them, and how much of each pixel is ink, uint8 (n, SIDE,
    SIDE)."""

    pictures: Bytes
    ink: Bytes


def _samples(
    images: Bytes, labels: npt.NDArray[np.int64], written: bool, rng: np.random.Generator
) -> list[tuple[Bytes, Bytes]]:
    return looks_at(field_and_label(images, labels, rng, written)[0], rng)


def looks_at(field: Field, rng: np.random.Generator) -> list[tuple[Bytes, Bytes]]:
    """A photograph of a field as `reduced` gives it, and its ink; where that is small, often from closer too.

    Three quarters are harder than a half: what strokes are in easy ones is soon learnt.
    """
    shot = shoot_to_learn_from(field, rng, math.sqrt(rng.uniform(0, 1)))
    samples = [_reduced(shot)]
    x, y, w, h = _box_of(shot.ink)
    size = max(w, h)
    if 0 < size < SMALL * max(shot.ink.shape) and rng.random() < AGAIN:
        reach = size * rng.uniform(ROUND - 0.3, ROUND + 0.9) / 2
        middle = np.array([y + h / 2, x + w / 2]) + rng.uniform(-0.25, 0.25, 2) * reach
        top, left = np.maximum(middle - reach, 0).astype(int)
        bottom, right = (middle + reach).astype(int) + 1
        part = slice(top, bottom), slice(left, right)
        samples.append(_reduced(Shot(shot.picture[part], shot.ink[part])))
    return samples


def _reduced(shot: Shot) -> tuple[Bytes, Bytes]:
    square, (height, width) = reduced(shot.picture)
    method = cv2.INTER_AREA if max(shot.ink.shape) > SIDE else cv2.INTER_LINEAR
    ink = np.zeros((SIDE, SIDE), np.uint8)
    ink[:height, :width] = np.rint(cv2.resize(shot.ink, (width, height), interpolation=method) * 255)
    return square, ink


def make_strokes(
    images: Bytes,
    labels: npt.NDArray[np.int64],
    count: int,
    seed: int,
    *,
    workers: int = 2,
    progress: Progress | None = None,
    written: bool = True,
) -> Strokes:
    """Photographs `count` digits drawn at random, more hard ones than easy; where they are small, many from closer too.

    `written` as for `make_photographs`. The same arguments give the same pictures, whatever `workers` is.
    """
    pictures = np.empty((2 * count, 3, SIDE, SIDE), np.uint8)  # no more of it is touched than is filled
    ink = np.empty((2 * count, SIDE, SIDE), np.uint8)
    filled = 0
    for samples in in_order(partial(_samples, images, labels, written), count, seed, workers, progress):
        for picture, strokes in samples:
            pictures[filled], ink[filled] = picture, strokes
            filled += 1
    return Strokes(pictures[:filled], ink[:filled])
