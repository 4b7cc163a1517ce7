"""A picture that was cut along its digit comes in; with paper around the digit again, it goes out.

Where ink reaches the frame on all sides, the paper that is left inside would pass for ink on a darker ground, and where
it does on some, for the edge of a table or a finger.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from digits.ink import Bytes, Floats, quantile, scaled
from digits.thumbnails import grey, is_solid

MARGIN = 0.25  # of the long side, on each side
INK = 0.3  # of the greatest contrast of the picture: what differs more from the paper is ink
PLAIN = 0.16  # of it: paper differs less from itself, as a rule
MOST_INK, MOST_RUNS = 0.5, 8  # on the rim, as a share of it and in how many places; squares have more
THIN, LONG = 0.012, 0.33  # of the rim: printed lines are thinner where they cross it, tables and shadows are longer
SPAN = 0.75  # of height and width, what the one thing that was cut out has at least
REACH = 0.5  # of the short side, what it has at least where it is cut but does not span
EVEN, SPECKS = 0.1, 0.01  # then of all else no more than so much differs more than that from paper
BESIDE = 11  # pixels, twice as far as strokes may be blurred
ALONE = 0.75  # of all ink, what it has at least: less than one of the stripes of a blind
HALF = 0.5  # of the greatest contrast: out of focus, strokes are as wide as they were where it has this
BROAD = 0.2  # of the long side, how far from paper it is at most: less than a shadow or a sheet on a table
BROAD_BESIDE = 0.22  # of its own size, where it does not span
DARK = 0.6  # of the greatest contrast, what it has on average: more than a shadow
WIDEST, HIGHEST = 4, 16  # times as wide as high, as high as wide: beyond that there is no room for a digit, or a 1
LOOKED_AT = 64  # pixels of the long side, on which that is decided
SMOOTH = 0.05  # of the rim: light changes slowly along it
RIDGE = 1e-3 * np.eye(3)
Ring = tuple[NDArray[np.intp], NDArray[np.intp]]


def with_margin(picture: Bytes, smaller: Bytes) -> Bytes:
    """A picture with a margin, where one thing fills plain paper, whether its strokes are cut at the frame or just not,
    or is cut at some sides and alone on it; any other as it is.

    Args:
        picture: uint8 (h, w) or (h, w, 3).
        smaller: the same, or reduced: quicker to reduce again.
    """
    if picture.shape[1] > WIDEST * picture.shape[0] or picture.shape[0] > HIGHEST * picture.shape[1]:
        return picture
    small = grey(scaled(smaller, LOOKED_AT))
    ring = _ring(*small.shape)
    paper = quantile(small[ring].astype(np.float32), 0.5)
    low, high = cv2.minMaxLoc(small)[:2]
    contrast = max(high - paper, paper - low)
    away = np.abs(small - _light(small, ring, paper, INK * contrast))
    along = away[ring]
    if quantile(along, 0.5) > PLAIN * contrast or not _strokes_alone(along > INK * contrast, *small.shape):
        return picture
    if not _filled(away, contrast):
        return picture
    # Paper where ink was, as it is beside it, and outwards from there.
    height, width = picture.shape[:2]
    ring = _ring(height, width)
    inked = cv2.dilate(away, np.ones((3, 3), np.uint8)) > PLAIN * contrast
    known = np.flatnonzero(
        cv2.resize(inked.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)[ring] == 0
    )
    if not len(known):  # dots all along it
        return picture
    planes = picture[ring].reshape(len(ring[0]), -1).astype(np.float32).T
    ground = [np.interp(np.arange(len(plane)), known, plane[known], period=len(plane)) for plane in planes]
    whole = picture.copy()
    whole[ring] = _smoothed(np.stack(ground, axis=1)).reshape(whole[ring].shape)
    margin = max(4, round(MARGIN * max(height, width)))
    return np.asarray(cv2.copyMakeBorder(whole, margin, margin, margin, margin, cv2.BORDER_REPLICATE), np.uint8)


def _light(small: Bytes, ring: Ring, paper: float, far: float) -> Floats:
    """The plane (h, w) that the paper along the frame follows; what is further than that from it is none."""
    height, width = small.shape
    rows, columns = ring
    terms = np.stack((np.ones(len(rows)), rows / height, columns / width), axis=1)
    values, plane = small[ring].astype(np.float64), np.array([paper, 0.0, 0.0])
    for _ in range(3):
        near = np.abs(values - terms @ plane) <= far
        some = terms[near]
        plane = np.linalg.solve(some.T @ some + RIDGE, some.T @ values[near])
    level, down, right = plane.astype(np.float32)
    return np.asarray(level + down * np.arange(height)[:, None] / height + right * np.arange(width) / width, np.float32)


def _strokes_alone(inked: NDArray[np.bool_], height: int, width: int) -> bool:
    """Whether nothing reaches the rim, or strokes alone do: nothing thinner, nothing longer, no stripes."""
    starts = np.flatnonzero(inked & ~np.roll(inked, 1))
    if len(starts) > MOST_RUNS or not THIN * len(starts) <= inked.mean() <= MOST_INK:
        return False
    sides = np.split(inked, np.cumsum([width, height, width]))
    top, right, bottom, left = (np.count_nonzero(side & ~np.roll(side, 1)) for side in sides)
    for one, other, *across in ((top, bottom, left, right), (left, right, top, bottom)):
        # An 8 may reach two opposite sides twice each, and the others then once each.
        if min(one, other) > 1 and (one + other > 4 or not all(across)):
            return False
    return all(int(np.argmin(np.roll(inked, -start))) <= LONG * len(inked) for start in starts)


def _filled(away: Floats, contrast: float) -> bool:
    """Whether one thing, made of strokes, is nearly all there is, and reaches nearly from side to side, both ways, or,
    where all else is paper, up to the frame.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats((away > INK * contrast).view(np.uint8), connectivity=8)
    height, width = away.shape
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas) or areas.max() < ALONE * areas.sum():
        return False
    label = 1 + int(areas.argmax())
    x, y, w, h = stats[label, : cv2.CC_STAT_AREA].tolist()
    thing = (labels == label).view(np.uint8)
    broadest = BROAD * max(height, width)
    if w < SPAN * width or h < SPAN * height:
        cut = min(x, y, width - x - w, height - y - h) <= 1
        cornered = thing[[0, 0, -1, -1], [0, -1, 0, -1]].any()  # as strips of the table and edges of shadows are
        if not cut or cornered or max(w, h) < REACH * min(height, width) or not _else_plain(away, thing, contrast):
            return False
        broadest = BROAD_BESIDE * max(w, h)
    core = ((thing > 0) & (away > HALF * contrast)).view(np.uint8)
    if is_solid(core, w, h):
        return False
    depth = cv2.distanceTransform(np.pad(core, 1), cv2.DIST_L2, 3)
    return bool(depth.max() <= broadest and away[thing > 0].mean() >= DARK * contrast)


def _else_plain(away: Floats, thing: Bytes, contrast: float) -> bool:
    """Whether what is not near the thing is paper, nearly everywhere."""
    elsewhere = away[cv2.dilate(thing, np.ones((BESIDE, BESIDE), np.uint8)) == 0]
    return bool(np.count_nonzero(elsewhere > EVEN * contrast) <= SPECKS * away.size)


def _ring(height: int, width: int) -> Ring:
    """Row and column of each pixel of the frame, once around: 2 (height + width) of them, the corners twice."""
    across, down = np.arange(width), np.arange(height)
    rows = np.concatenate((np.zeros_like(across), down, np.full_like(across, height - 1), down[::-1]))
    columns = np.concatenate((across, np.full_like(down, width - 1), across[::-1], np.zeros_like(down)))
    return rows, columns


def _smoothed(ring: NDArray[np.float64]) -> Bytes:
    """The mean over neighbours to either side along a ring (n, channels)."""
    reach = max(1, round(SMOOTH * len(ring)))
    padded = np.concatenate((ring[-reach:], ring, ring[:reach]))
    return np.asarray(np.rint(cv2.blur(padded, (1, 2 * reach + 1))[reach:-reach]).reshape(ring.shape), np.uint8)
