"""What writes: pens, pencils, markers and chalk.

A field goes in, how deep each of its points lies in the stroke comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from digits import handwriting, scenery
from digits.handwriting import Field
from digits.ink import Floats


@dataclass(frozen=True)
class Pen:
    """What writes.

    Attributes:
        width: of the stroke, as a share of the digit's height; 0 keeps the width it was written with.
        strength: how much of the ground the ink hides, 0..1.
        colour: float32 (3,), RGB in 0..1.
        grain: how much the paper's tooth shows in the stroke, 0..1.
    """

    width: float
    strength: float
    colour: Floats
    grain: float


# Widths as shares of the digit's height, and how often each is used.
_KINDS = {
    "ballpoint": (0.018, 0.055, 0.33),
    "felt": (0.04, 0.1, 0.2),
    "pencil": (0.018, 0.07, 0.22),
    "marker": (0.09, 0.2, 0.1),
    "own": (0.0, 0.0, 0.15),
}
_BLACK, _BLUE, _RED, _GREEN = (0.1, 0.1, 0.12), (0.1, 0.15, 0.55), (0.7, 0.1, 0.12), (0.1, 0.4, 0.2)
_PALETTE = np.array([_BLACK, _BLUE, _RED, _GREEN, (0.4, 0.1, 0.5), (0.85, 0.45, 0.1)])


def pick_pen(rng: np.random.Generator, hardness: float, dark_ground: bool) -> Pen:
    """A ballpoint, felt pen, pencil, marker or the pen that the digit was written with; chalk on a dark ground."""
    kind = list(_KINDS)[rng.choice(len(_KINDS), p=[share for _, _, share in _KINDS.values()])]
    low, high, _ = _KINDS[kind]
    width = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low else 0.0
    if dark_ground:
        colour = np.clip(np.array([0.92, 0.92, 0.88]) + rng.normal(0, 0.12, 3), 0.5, 1)
        return Pen(width, rng.uniform(0.85 - 0.4 * hardness, 1.0), colour.astype(np.float32), rng.uniform(0, 0.7))
    if kind == "pencil":
        strength = rng.uniform(0.55 - 0.42 * hardness, 0.85)
        return Pen(width, strength, np.full(3, rng.uniform(0.15, 0.4), np.float32), rng.uniform(0.1, 0.6))
    colour = _PALETTE[rng.choice(6, p=[0.38, 0.36, 0.12, 0.06, 0.05, 0.03])] + rng.normal(0, 0.05, 3)
    strength = rng.uniform(0.85 - 0.35 * hardness, 1.0)
    return Pen(width, strength, np.clip(colour, 0, 1).astype(np.float32), rng.uniform(0, 0.35))


def depth_of(field: Field, pen: Pen, rng: np.random.Generator, hardness: float) -> Floats:
    """How deep inside the stroke each field pixel lies (float32 (140, 140), negative outside), after the pen's width,
    pressure, wobble and gaps.
    """
    height = max(field.box[3], 0.5 * field.box[2])
    if pen.width == 0 and field.edge is not None:
        depth = field.edge + np.float32(rng.normal(0, 0.008) * height)
    else:
        width = pen.width or float(np.exp(rng.uniform(np.log(0.03), np.log(0.15))))
        depth = np.float32(width * height / 2) - field.distance
    half = max(float(depth.max()), 0.5)
    side = handwriting.SIDE
    if rng.random() < 0.5:  # pressure
        lift = np.clip(scenery.smooth_field(side, side, rng, 6), 0, 1)
        depth = depth - np.float32(half * rng.uniform(0.1, 0.5)) * lift
    if rng.random() < 0.3 * hardness:  # the pen skips
        skips = scenery.smooth_field(side, side, rng, 14)
        left_out = skips > np.float32(rng.uniform(0.9, 1.05))
        depth = np.where(left_out, np.minimum(depth, np.float32(-1)), depth)
    if rng.random() < 0.5:  # an unsteady hand
        amount, cells = np.float32(rng.uniform(1, 5) * 2), int(rng.integers(3, 9))
        grid = np.arange(side, dtype=np.float32)
        shift_x = grid[None] + amount * (scenery.smooth_field(side, side, rng, cells) - np.float32(0.5))
        shift_y = grid[:, None] + amount * (scenery.smooth_field(side, side, rng, cells) - np.float32(0.5))
        moved = cv2.remap(depth, shift_x, shift_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-50)
        return np.asarray(moved, np.float32)
    return np.asarray(depth, np.float32)
