"""Handwriting: an MNIST digit, a character or random curves go in, a smooth field to draw with comes out.

A field is float32 (140, 140): the distance to the middle of the stroke, in field pixels (or the signed distance to its
edge), so that the same digit can be inked crisply at any size and with any pen. Skeletons of characters are our own,
written as points on a grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from digits.ink import Bytes, Floats

SIDE = 140

# A stroke is a row of points "xy", both in hexadecimal, y down to the baseline at a; a point said twice is a corner,
# | lifts the pen.
# fmt: off
DIGITS: dict[int, tuple[str, ...]] = {
    0: ("50 21 05 29 5a 89 a5 81 50", "60 31 16 39 5a 88 94 71 42", "50 22 16 29 5a 89 94 72 40",
        "70 40 14 17 3a 79 95 82 50 30", "50 21 05 29 5a 89 a5 81 50|82 28"),
    1: ("50 5a", "60 4a", "33 50 50 5a", "05 60 60 6a", "17 60 60 6a", "33 60 60 6a|2a aa", "14 60 60 5a|1a 9a",
        "06 70 70 6a", "07 80 80 4a", "25 40 60 60 6a"),
    2: ("12 30 70 92 84 1a 1a 9a", "12 40 80 93 65 29 1a 38 6a 99", "11 40 71 83 66 0a 0a aa", "13 30 80 84 2a 1a 9a",
        "12 40 82 65 38 19 18 37 49 8a a9", "12 50 82 74 47 2a 1a 19 28 48 6a a8", "33 24 12 30 70 83 65 1a 1a 9a"),
    3: ("11 40 81 74 44 44 75 97 6a 09", "00 80 80 44 44 86 98 5a 09", "12 40 82 64 44 75 98 5a 18",
        "11 50 82 54 54 86 88 5a 1a", "12 50 82 65 45 44 54 86 88 5a 18", "11 50 81 74 45 75 97 6a 28 37"),
    4: ("20 06 06 96|73 7a", "60 06 06 a6|60 6a", "10 05 15 95|80 7a", "70 06 06 a6|63 6a", "21 05 36 95|82 7a",
        "20 15 26 76 84|90 7a", "30 06 06 96|80 5a"),
    5: ("10 04 04 54 97 7a 19|10 90", "90 10 10 04 04 64 97 7a 19", "80 20 14 14 54 86 7a 3a 09",
        "20 15 15 64 87 6a 09|20 a0", "90 30 14 45 76 87 5a 19", "20 14 44 76 78 4a 18|30 a1"),
    6: ("80 32 06 28 6a 98 75 35 07", "70 24 17 3a 79 86 55 17", "60 34 17 2a 7a 97 65 26", "60 16 19 4a 79 86 46 18",
        "70 31 06 29 5a 98 75 36 28 49"),
    7: ("00 90 90 3a", "02 00 00 90 90 4a", "00 90 90 55 4a", "00 a0 a0 3a|25 85", "01 00 90 90 55 4a|24 85",
        "00 90 90 3a|36 86", "04 20 42 90 90 4a|25 96",
        "05 20 43 90 90 5a|26 a6", "03 10 22 52 90 90 4a"),
    8: ("82 50 12 44 76 98 5a 08 36 64 82", "91 60 21 34 65 88 5a 18 25 64 91", "50 32 54 72 50|54 27 5a 87 54",
        "93 70 31 23 54 87 5a 28 26 64 a0", "80 40 22 44 76 78 4a 18 26 54 a2"),
    9: ("92 50 12 34 74 92 92 9a", "92 50 13 45 92 92 88 4a 19", "83 50 12 35 83 82 86 6a",
        "81 40 13 35 84 81 81 7a 4a", "82 50 12 34 64 82 83 96 8a 4a 18", "71 40 12 34 64 72 85 97 6a 29",
        "80 40 13 34 74 90 90 3a", "82 50 22 34 64 82 75 6a 6a"),
}
# Letters that a person can't tell from a digit are left out: O o D Q (0), I i l (1), Z z (2), S s (5), G b (6), B (8),
# g q (9).
LETTERS: dict[str, tuple[str, ...]] = {
    "A": ("0a 50 50 aa|26 86", "0a 34 50 74 aa|26 86", "1a 41 61 9a|27 87", "0a 50 50 9a|08 37 95"),
    "C": ("91 50 05 2a 7a 99", "82 60 21 05 19 4a 89", "81 40 14 17 3a 8a"),
    "E": ("90 10 10 1a 1a 9a|15 75", "10 1a|10 80|15 65|1a 8a", "83 50 22 34 54 34 16 2a 6a 98",
          "80 40 11 14 64|14 06 19 3a 8a"),
    "F": ("90 10 10 1a|15 75", "20 2a|10 90|25 75", "91 50 30 30 2a|14 65", "02 10 40 90|50 48 2a 09|25 75"),
    "H": ("10 1a|90 9a|15 95", "20 1a|90 8a|06 94", "10 1a|15 54 85|90 8a"),
    "J": ("30 a0|80 88 5a 18", "40 a0|70 78 4a 17", "20 90|70 69 4a 29 26"),
    "K": ("10 1a|90 15 15 9a", "20 1a|90 15|35 9a", "10 1a|91 55 15|55 78 9a"),
    "L": ("10 1a 1a 9a", "20 28 1a 1a 9a", "30 28 3a 8a 98", "40 20 32 38 1a 08 48 9a"),
    "M": ("0a 10 10 57 57 90 90 aa", "0a 00 00 56 56 a0 a0 aa", "0a 03 10 32 48 50 50 62 80 93 aa",
          "0a 20 20 4a 4a 80 80 aa"),
    "N": ("1a 10 10 9a 9a 90", "0a 20 20 8a 8a a0", "1a 12 30 52 8a 9a 90", "10 1a|12 40 82 8a"),
    "P": ("10 1a|10 70 93 65 15", "20 1a|10 60 92 64 25", "21 2a|13 20 70 93 75 25"),
    "R": ("10 1a|10 70 92 65 15 15 9a", "20 1a|10 60 82 64 25|45 8a", "11 1a|02 20 70 83 55 25 35 68 9a"),
    "T": ("00 a0|50 5a", "11 90|60 4a", "02 10 a0|60 58 3a", "02 00 00 a0 a0 a2|50 5a|3a 7a"),
    "U": ("10 18 5a 98 90", "10 17 3a 69 90 90 9a", "02 10 18 4a 87 90 89 aa"),
    "V": ("00 5a 5a a0", "00 3a 3a 70 80 91", "02 10 4a 4a 90"),
    "W": ("00 2a 2a 53 53 8a 8a a0", "00 17 2a 47 52 57 7a 97 a0", "02 10 2a 2a 52 52 8a 8a a0 a1",
          "00 1a 1a 50 50 7a 7a a0"),
    "X": ("00 aa|a0 0a", "00 43 45 0a|a0 63 65 9a", "01 20 8a a9|90 0a", "10 9a|a0 36 1a"),
    "Y": ("00 55 55 a0|55 5a", "00 45|a0 45 2a", "02 10 44 55 83 a0|55 4a"),
    "a": ("84 44 07 3a 79 84 84 8a", "23 50 73 8a 9a|75 36 18 4a 78", "84 54 17 29 58 83 78 8a a9"),
    "c": ("94 54 06 2a 6a 99", "84 54 27 3a 6a 99", "85 83 44 17 4a 99"),
    "d": ("74 34 07 3a 78|80 8a", "75 44 17 3a 68|90 79 9a", "80 8a|84 45 18 4a 87"),
    "e": ("17 97 84 34 07 3a 99", "07 86 84 44 17 4a 99", "18 66 84 54 26 29 5a 98"),
    "f": ("80 50 42 4a|14 84", "90 61 53 4b 2e|24 84", "70 41 3a|05 75", "07 54 71 50 43 4e 5b 66 85"),
    "h": ("10 1a|17 54 86 8a", "20 1a|18 54 85 89 aa", "08 33 20 1a|17 54 76 79 9a"),
    "j": ("54 5c 2d|52 52", "64 6b 3e 1c|71 71", "34 64 6c 3e|61 72"),
    "k": ("10 1a|83 17 17 8a", "20 1a|84 26|46 8a", "10 1a|17 54 66 37 17 8a"),
    "m": ("04 0a|06 34 46 4a|46 74 86 8a", "04 0a|05 24 36 3a|36 54 66 6a", "1a 14 14 5a 5a 94 94 9a",
          "05 14 19|17 34 46 49|47 74 85 89 aa"),
    "n": ("14 1a|17 54 86 8a", "04 14 1a|17 44 65 69 8a", "15 24 2a|16 54 86 89 aa"),
    "p": ("14 1e|15 54 97 6a 19", "24 1e|15 64 86 59 28", "05 24 2e|26 54 87 5a 28"),
    "r": ("14 1a|17 44 84", "04 24 2a|27 54 75", "24 2a|26 54 74 85"),
    "t": ("40 49 7a 99|14 84", "50 58 6a 89|25 85", "40 4a|13 83", "60 3a 6a 98|24 84"),
    "u": ("14 18 4a 88 84 84 8a", "04 14 19 4a 78 84 79 9a", "14 17 4a 77|74 7a"),
    "v": ("14 5a 5a 94", "04 14 4a 4a 74 84 95", "24 4a 64 85"),
    "w": ("04 2a 2a 56 56 8a 8a a4", "04 08 2a 47 55 58 7a 98 a4", "04 14 2a 2a 55 55 7a 7a 94 a5"),
    "x": ("14 8a|84 1a", "14 46 47 1a|94 66 67 9a", "14 34 69 9a|94 1a"),
    "y": ("14 5a|94 3e", "14 18 59|94 2e", "04 14 49|84 5c 2e 0d"),
}
# Signs that nobody takes for a digit; brackets, exclamation marks and arrows up or down may be a 1.
SIGNS: dict[str, tuple[str, ...]] = {
    "?": ("12 30 70 92 84 56 57|59 5a", "02 20 60 82 64 45 47|49 4a", "13 31 61 83 65 46 58|5a 6a",
          "11 40 81 83 55 57|5a 4a", "22 50 83 55 45 57|5a 5b", "10 60 83 75 35 47|39 4a"),
    "&": ("a9 32 40 61 25 17 4a 97", "9a 42 50 71 26 18 5a a6", "aa 43 30 50 63 27 29 5a 87 95",
          "80 40 22 44 64 26 18 4a 77 85|55 a5"),
    "%": ("90 1a|30 11 23 42 30|77 68 7a 99 77", "80 2a|20 02 23 42 20|88 79 8a 99 88", "91 09|11 22|88 99"),
    "✓": ("05 3a 3a a0", "16 39 39 90", "07 29 29 92", "25 4a 4a a1"),
    "→": ("05 a5|62 a5 a5 68", "15 95|73 95 95 77", "06 94|61 94 94 77"),
    "←": ("05 a5|42 05 05 48", "15 95|33 15 15 37"),
    "#": ("30 2a|80 7a|03 a3|07 a7", "40 1a|90 6a|04 a3|07 a6"),
    "@": ("75 54 36 47 66 74 77 98 a5 82 40 13 17 4a 99", "64 45 37 57 73 77 97 94 71 31 05 18 5a 8a"),
    "+": ("50 5a|05 a5", "62 48|15 95"),
    "=": ("03 a3|07 a7", "14 94|17 96"),
    "÷": ("05 a5|51 52|58 59", "15 95|52 52|59 58"),
    "√": ("05 25 3a 3a 60 60 a0", "06 16 2a 2a 51 51 a1"),
    "€": ("92 60 22 28 6a 98|04 74|06 66", "81 50 23 27 5a 89|13 73|16 66"),
    "<": ("92 15 15 98", "81 25 25 89"),
    "*": ("50 5a|12 98|92 18", "41 59|14 86|83 17"),
    "π": ("03 a3|33 2a|73 7a", "14 32 a2|43 39|73 79 9a"),
}
# fmt: on


@dataclass(frozen=True)
class Field:
    """What a pen needs to draw a shape: `distance` to the middle of the stroke, `edge` (positive inside) to its
    outline, and the box of the shape.

    Attributes:
        distance: float32 (140, 140), field pixels, 0 on the skeleton.
        edge: float32 (140, 140), signed distance to the outline as it was written, field pixels; None where only a
            skeleton exists.
        box: left, top, width, height of the shape in the field.
    """

    distance: Floats
    edge: Floats | None
    box: tuple[float, float, float, float]


def _thinning_tables() -> tuple[Bytes, Bytes]:
    """Zhang and Suen's (1984) two deletion rules as look-up tables over the eight neighbours packed in a byte,
    clockwise from north.
    """
    codes = np.arange(256)
    bits = (codes[:, None] >> np.arange(8)) & 1
    count = bits.sum(1)
    changes = ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(1)
    north, east, south, west = bits[:, 0], bits[:, 2], bits[:, 4], bits[:, 6]
    common = (count >= 2) & (count <= 6) & (changes == 1)
    first = common & (north * east * south == 0) & (east * south * west == 0)
    second = common & (north * east * west == 0) & (north * south * west == 0)
    return first.astype(np.uint8), second.astype(np.uint8)


_TABLES = _thinning_tables()
_NEIGHBOURS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)


def thin(mask: Bytes) -> Bytes:
    """Thin a shape (uint8 (h, w), 0 or 1) to a skeleton one pixel wide, by Zhang and Suen's parallel rules."""
    mask = mask.copy()
    while True:
        before = cv2.countNonZero(mask)
        for table in _TABLES:
            codes = cv2.filter2D(mask, cv2.CV_8U, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
            mask &= np.asarray(1 - cv2.LUT(codes, table), np.uint8)
        if cv2.countNonZero(mask) == before:
            return mask


def _distance_to(skeleton: Bytes, blur: float) -> Floats:
    """Distance to a skeleton (non-zero pixels), smoothed so that its staircase doesn't show, lowered so that the
    middle stays at 0.
    """
    distance = cv2.distanceTransform((skeleton == 0).astype(np.uint8), cv2.DIST_L2, 5)
    if skeleton.shape[0] < SIDE:
        distance = cv2.resize(distance, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) * np.float32(
            SIDE / skeleton.shape[0]
        )
    smooth = cv2.GaussianBlur(distance, (0, 0), blur)
    return np.asarray(np.maximum(smooth - 0.8 * blur, 0), np.float32)  # E|x| of a Gaussian: 0.8 σ


def _box(mask: npt.NDArray[np.generic]) -> tuple[float, float, float, float]:
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return float(left), float(top), float(max(width, 1)), float(max(height, 1))


def field_of(digit: Bytes) -> Field:
    """Turn a grey picture of a shape, light on black, uint8 (28, 28) or any square, into a field.

    Raises ValueError where it is blank.
    """
    grey = digit.astype(np.float32)
    peak = float(grey.max())
    if peak < 16:
        raise ValueError(f"nothing to draw: the brightest pixel is {peak:.0f} of 255, expected a digit, light on black")
    large = cv2.resize(grey / peak, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    if digit.shape[0] < SIDE:
        large = cv2.GaussianBlur(large, (0, 0), 0.35 * SIDE / digit.shape[0])
    mask = (large > 0.45).astype(np.uint8)
    if not mask.any():
        mask = (large >= 0.9 * large.max()).astype(np.uint8)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    # Thinned half as fine: a third of the time, and no difference to be seen.
    skeleton = thin(np.ascontiguousarray(mask[::2, ::2]))
    edge = np.asarray(cv2.GaussianBlur(inside - outside, (0, 0), 1.0), np.float32)
    return Field(_distance_to(skeleton, 2.0), edge, _box(mask))


def curve(points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """A Catmull-Rom spline through points (n, 2), (10 n − 9, 2); a point said twice makes a corner."""
    p = np.concatenate([points[:1], points, points[-1:]]).astype(np.float64)
    t = np.linspace(0, 1, 10, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    spline = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.concatenate([spline.transpose(1, 0, 2).reshape(-1, 2), points[-1:]])


def strokes_of(skeleton: str, rng: np.random.Generator, jitter: float) -> list[npt.NDArray[np.float64]]:
    """Read a skeleton's strokes, shake its points by `jitter` (grid units, the body is 10 high) and smooth them;
    about (n, 2) points in 0..14.
    """
    strokes = []
    for stroke in skeleton.split("|"):
        points = np.array([[int(point[0], 16), int(point[1], 16)] for point in stroke.split()], np.float64)
        shaken = points + rng.normal(0, jitter, points.shape)
        corners = np.flatnonzero((points[1:] == points[:-1]).all(1)) + 1
        pieces = np.split(shaken, corners)
        for before, after in pairwise(pieces):
            after[0] = before[-1]  # the corner was shaken twice
        strokes.append(np.concatenate([curve(piece) for piece in pieces]))
    return strokes


def field_of_strokes(strokes: list[npt.NDArray[np.float64]], rng: np.random.Generator, *, slant: float = 0.15) -> Field:
    """Lay strokes (points (n, 2), any unit) in a field: slanted and stretched by chance, fitted to its middle 100
    pixels.
    """
    shape = np.array([[0.8 * np.exp(rng.normal(0, 0.2)), 0], [-rng.normal(0, slant), 1.0]])
    points = [s @ shape for s in strokes]
    every = np.concatenate(points)
    low, high = every.min(0), every.max(0)
    scale = 100 / max(float((high - low).max()), 1e-6)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    for p in points:
        placed = (p - (low + high) / 2) * scale + SIDE / 2
        cv2.polylines(canvas, [np.round(placed * 16).astype(np.int32)], False, 1, 1, cv2.LINE_8, 4)
    return Field(_distance_to(canvas, 1.0), None, _box(canvas))


def write_digit(label: int, rng: np.random.Generator) -> Field:
    """Write a digit by hand from one of our skeletons, regional styles included (1 with a long up-stroke or
    a foot, barred and wavy 7, open 4, straight and curled 9).
    """
    variants = DIGITS[label]
    return field_of_strokes(strokes_of(variants[rng.integers(len(variants))], rng, 0.32), rng)
