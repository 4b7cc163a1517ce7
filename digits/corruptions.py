"""Our own evaluation suite: digits uint8 (n, 28, 28) and a severity from 1 to 5 go in, the same digits spoilt in one
of twenty-three ways come out.

For evaluation only: nothing here is used in training. Every function is `corrupt(images, severity, rng)`, keeps shape
and type, and is the same for the same generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from digits.ink import Bytes, Floats

Corruption = Callable[[Bytes, int, np.random.Generator], Bytes]
Grey = npt.NDArray[Any]
_Body = Callable[[Floats, int, np.random.Generator], Grey]

CORRUPTIONS: dict[str, Corruption] = {}
SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 28


def _corruption(name: str) -> Callable[[_Body], _Body]:
    """Register a function on float32 images in 0..1 under a name, wrapped so that it takes and gives bytes and checks
    its arguments.
    """

    def register(body: _Body) -> _Body:
        def corrupt(images: Bytes, severity: int, rng: np.random.Generator) -> Bytes:
            if severity not in SEVERITIES:
                raise ValueError(f"severity {severity}: expected one of {SEVERITIES}")
            if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
                raise ValueError(f"images are {images.dtype} {images.shape}: expected uint8 (n, {SIDE}, {SIDE})")
            spoilt = body(np.asarray(images / 255, np.float32), severity - 1, rng)
            return np.asarray(np.rint(np.clip(spoilt, 0, 1) * 255), np.uint8)

        CORRUPTIONS[name] = corrupt
        return body

    return register


def _each(images: Floats, function: Callable[[Floats, int], npt.NDArray[Any]]) -> Floats:
    if not len(images):
        return np.zeros((0, SIDE, SIDE), np.float32)
    return np.stack([function(image, index) for index, image in enumerate(images)]).astype(np.float32)


def _signs(count: int, rng: np.random.Generator) -> Floats:
    return rng.choice([-1.0, 1.0], count).astype(np.float32)


def _smooth(count: int, cells: int, rng: np.random.Generator) -> Floats:
    """A soft random surface for each image, (n, 28, 28), normal with standard deviation about 1."""
    coarse = rng.standard_normal((count, cells, cells), np.float32)
    return _each(coarse, lambda c, _: cv2.resize(c, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))


def _affine(images: Floats, matrices: npt.NDArray[np.float64]) -> Floats:
    """Warp each image about its middle, `matrices` (n, 2, 3) mapping from the old picture to the new."""
    middle = (SIDE - 1) / 2
    linear, move = matrices[:, :, :2], matrices[:, :, 2]
    offset = move + middle - linear @ np.array([middle, middle])
    full = np.concatenate([linear, offset[:, :, None]], 2)
    return _each(images, lambda image, i: cv2.warpAffine(image, full[i], (SIDE, SIDE), flags=cv2.INTER_CUBIC))


def _linear(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike, d: npt.ArrayLike) -> npt.NDArray[np.float64]:
    a, b, c, d = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (a, b, c, d)))
    nought = np.zeros_like(a)
    return np.stack([np.stack([a, b, nought], -1), np.stack([c, d, nought], -1)], -2)


@_corruption("gaussian noise")
def _gaussian_noise(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Independent normal noise."""
    return images + np.float32([0.08, 0.14, 0.22, 0.32, 0.45][level]) * rng.standard_normal(images.shape, np.float32)


@_corruption("salt and pepper")
def _salt_and_pepper(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Pixels turned black or white."""
    hit = rng.random(images.shape, np.float32) < [0.02, 0.05, 0.1, 0.16, 0.24][level]
    return np.where(hit, (rng.random(images.shape, np.float32) < 0.5).astype(np.float32), images)


@_corruption("blotches")
def _blotches(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Coarse, soft noise, as from damp paper."""
    return images + np.float32([0.08, 0.13, 0.19, 0.26, 0.34][level]) * _smooth(len(images), 9, rng)


@_corruption("blur")
def _blur(images: Floats, level: int, _: np.random.Generator) -> Grey:
    """Out of focus: a disc of growing radius."""
    radius = [1.0, 1.5, 2.0, 2.6, 3.3][level]
    y, x = np.mgrid[-4:5, -4:5]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return _each(images, lambda image, _: cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_CONSTANT))


@_corruption("motion blur")
def _motion_blur(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Moved by a few pixels in any direction while the shutter was open."""
    reach = [1.5, 2.2, 3.0, 4.0, 5.2][level]
    angles = rng.uniform(0, np.pi, len(images))
    steps = np.linspace(-reach, reach, 11)
    shifts = np.stack([np.cos(angles), np.sin(angles)], 1)[:, None] * steps[None, :, None]

    def moved(image: Floats, index: int) -> npt.NDArray[Any]:
        views = [cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]]), (SIDE, SIDE)) for x, y in shifts[index]]
        return np.asarray(np.mean(views, 0), np.float32)

    return _each(images, moved)


@_corruption("low contrast")
def _low_contrast(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Squeezed to a few grey levels around a level of its own."""
    share = np.float32([0.6, 0.42, 0.3, 0.2, 0.12][level])
    base = rng.uniform(0, 1, (len(images), 1, 1)).astype(np.float32) * (1 - share)
    return base + share * images


@_corruption("uneven light")
def _uneven_light(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """A glow behind the digit, from nothing at one side to a strong one at the other."""
    strength = np.float32([0.25, 0.4, 0.55, 0.7, 0.85][level])
    angle = rng.uniform(0, 2 * np.pi, (len(images), 1, 1)).astype(np.float32)
    y, x = np.mgrid[-1:1:28j, -1:1:28j].astype(np.float32)
    slope = np.clip(0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y), 0, 1)
    return np.asarray(images * (1 - strength * slope) + strength * slope)


@_corruption("haze")
def _haze(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """A veil of uneven thickness between the camera and the digit."""
    veil = np.float32([0.3, 0.42, 0.54, 0.66, 0.76][level])
    thickness = np.clip(veil + 0.08 * _smooth(len(images), 4, rng), 0, 0.92)
    return np.asarray(images * (1 - thickness) + 0.75 * thickness)


@_corruption("inverted")
def _inverted(images: Floats, level: int, _: np.random.Generator) -> Grey:
    """Dark on light, on a ground that grows darker with severity."""
    return (1 - images) * np.float32([1.0, 0.85, 0.7, 0.55, 0.4][level]) + np.float32([0, 0.02, 0.04, 0.07, 0.1][level])


@_corruption("occlusion")
def _occlusion(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """A grey rectangle laid over a part of the digit."""
    side = [5, 7, 9, 11, 13][level]
    top, left = rng.integers(2, SIDE - side - 1, (2, len(images), 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE]
    covered = (y >= top) & (y < top + side * 3 // 4) & (x >= left) & (x < left + side)
    tone = rng.uniform(0, 1, (len(images), 1, 1)).astype(np.float32)
    return np.where(covered, tone, images).astype(np.float32)


@_corruption("missing rows")
def _missing_rows(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Rows or columns that a bad scanner or sensor left black."""
    order = rng.random((len(images), SIDE)).argsort(1)
    gone = (order < [2, 4, 6, 8, 10][level])[:, :, None]
    upright = (rng.random(len(images)) < 0.5)[:, None, None]
    return np.where(np.where(upright, gone.transpose(0, 2, 1), gone), np.float32(0), images)


@_corruption("lines")
def _lines(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Straight pen lines crossed over the digit."""
    number = level + 1
    ends = rng.uniform(0, SIDE, (len(images), number, 2, 2))
    side = rng.integers(2, size=(len(images), number))
    tone = rng.uniform(0.5, 1, (len(images), number))

    def crossed(image: Floats, index: int) -> Floats:
        drawn = np.ascontiguousarray(image)
        for (start, end), upright, grey in zip(ends[index], side[index], tone[index], strict=True):
            start[upright], end[upright] = -1, SIDE
            line = np.zeros((SIDE, SIDE), np.uint8)
            first, last = (np.rint(point * 16).astype(int).tolist() for point in (start, end))
            cv2.line(line, first, last, 255, 1, cv2.LINE_AA, 4)
            drawn = np.maximum(drawn, line.astype(np.float32) * np.float32(grey / 255))
        return drawn

    return _each(images, crossed)


@_corruption("squared paper")
def _squared_paper(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """A regular grid behind the digit."""
    pitch = rng.integers(5, 10, (2, len(images), 1, 1))
    phase = rng.integers(0, 9, (2, len(images), 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE]
    grid = ((y + phase[0]) % pitch[0] == 0) | ((x + phase[1]) % pitch[1] == 0)
    return np.asarray(np.maximum(images, grid * np.float32([0.15, 0.28, 0.4, 0.52, 0.65][level])))


@_corruption("rotation")
def _rotation(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Turned either way about its middle."""
    angle = np.deg2rad([8, 15, 22, 29, 36][level]) * _signs(len(images), rng)
    return _affine(images, _linear(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)))


@_corruption("shear")
def _shear(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Slanted either way."""
    return _affine(images, _linear(1, [0.15, 0.28, 0.41, 0.54, 0.68][level] * _signs(len(images), rng), 0, 1))


@_corruption("scaling")
def _scaling(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Smaller, or larger until it nearly leaves the frame, and stretched a little."""
    grows = rng.random(len(images)) < 0.5
    factor = np.where(grows, [1.07, 1.14, 1.2, 1.26, 1.33][level], [0.86, 0.75, 0.65, 0.56, 0.48][level])
    return _affine(images, _linear(factor * rng.uniform(0.93, 1.07, len(images)), 0, 0, factor))


@_corruption("shift")
def _shift(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Moved along one axis or both."""
    distance = [2, 3, 4, 5, 6][level]
    matrices = np.tile(np.eye(2, 3), (len(images), 1, 1))
    matrices[:, :, 2] = rng.choice([-1, 1], (len(images), 2)) * distance
    matrices[np.arange(len(images)), rng.integers(2, size=len(images)), 2] *= rng.random(len(images)) < 0.5
    return _affine(images, matrices)


@_corruption("elastic")
def _elastic(images: Floats, level: int, rng: np.random.Generator) -> Grey:
    """Pulled about like rubber, as Simard and others (2003) did."""
    amount = np.float32([0.5, 0.8, 1.1, 1.45, 1.8][level])
    dx, dy = (amount * _smooth(len(images), 6, rng) for _ in range(2))
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    return _each(images, lambda image, i: cv2.remap(image, x + dx[i], y + dy[i], cv2.INTER_LINEAR))


def _sized(images: Floats, operation: Callable[..., npt.NDArray[Any]], radius: float) -> Floats:
    """Grey erosion or dilation by a disc whose radius (pixels) need not be whole, done four times as large."""
    size = round(2 * radius * 4) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))

    def worked(image: Floats, _: int) -> npt.NDArray[Any]:
        large = cv2.resize(image, (4 * SIDE, 4 * SIDE), interpolation=cv2.INTER_LINEAR)
        return cv2.resize(operation(large, disc), (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    return _each(images, worked)


@_corruption("thin")
def _thin(images: Floats, level: int, _: np.random.Generator) -> Grey:
    """Strokes worn away from both sides until some break."""
    return _sized(images, cv2.erode, [0.25, 0.5, 0.75, 1.0, 1.25][level])


@_corruption("thick")
def _thick(images: Floats, level: int, _: np.random.Generator) -> Grey:
    """Strokes run out to both sides until loops close."""
    return _sized(images, cv2.dilate, [0.4, 0.8, 1.2, 1.6, 2.0][level])


@_corruption("jpeg")
def _jpeg(images: Floats, level: int, _: np.random.Generator) -> Grey:
    """Stored as a small JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, [30, 18, 11, 7, 4][level]]

    def stored(image: Floats, _: int) -> npt.NDArray[Any]:
        data = cv2.imencode(".jpg", np.rint(image * 255).astype(np.uint8), options)[1]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.float32) / 255

    return _each(images, stored)


@_corruption("pixelated")
def _pixelated(images: Floats, level: int, _: np.random.Generator) -> Grey:
    """Reduced to fewer pixels and shown as squares."""
    cells = [16, 13, 11, 9, 7][level]

    def coarse(image: Floats, _: int) -> npt.NDArray[Any]:
        return cv2.resize(
            cv2.resize(image, (cells, cells), interpolation=cv2.INTER_AREA),
            (SIDE, SIDE),
            interpolation=cv2.INTER_NEAREST,
        )

    return _each(images, coarse)


@_corruption("outline")
def _outline(images: Floats, level: int, _: np.random.Generator) -> Grey:
    """The strokes fade until only their edges are left."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    rim = _each(images, lambda image, _: cv2.dilate(image, cross) - cv2.erode(image, cross))
    share = np.float32([0.3, 0.5, 0.7, 0.85, 1.0][level])
    return images * (1 - share) + rim * share
