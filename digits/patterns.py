"""Grey patterns that hold nothing to read: scenes, clouds, noise, blanks, gradients, stripes, squares, barcodes.

A random generator goes in, a picture uint8 (112, 112) comes out.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

from digits import scenery
from digits.camera import to_bytes
from digits.ink import Bytes, Floats

SIDE = 112


@cache
def _scene(index: int) -> Bytes:
    return np.asarray(cv2.cvtColor(load_sample_images().images[index], cv2.COLOR_RGB2GRAY), np.uint8)


def _patch(index: int, rng: np.random.Generator) -> Bytes:
    scene = _scene(index)
    side = int(np.exp(rng.uniform(np.log(24), np.log(min(scene.shape)))))
    y, x = rng.integers(scene.shape[0] - side + 1), rng.integers(scene.shape[1] - side + 1)
    patch = cv2.resize(
        scene[y : y + side, x : x + side],
        (SIDE, SIDE),
        interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR,
    )
    patch = np.rot90(np.asarray(patch), int(rng.integers(4)))
    patch = patch[:, ::-1] if rng.random() < 0.5 else patch
    levels = ((np.arange(256) / 255) ** np.exp(rng.normal(0, 0.5)) - 0.5) * rng.uniform(0.5, 1.8) + 0.5
    if rng.random() < 0.5:
        levels = 1 - levels
    return np.asarray(to_bytes(levels.astype(np.float32))[patch])


def buildings(rng: np.random.Generator) -> Bytes:
    """A patch of scikit-learn's photograph of a Chinese temple, at any scale."""
    return _patch(0, rng)


def flowers(rng: np.random.Generator) -> Bytes:
    """A patch of scikit-learn's photograph of a flower, at any scale."""
    return _patch(1, rng)


def clouds(rng: np.random.Generator) -> Bytes:
    """1/f noise, as natural scenes have it, soft or cut in two tones."""
    grey = 0.5 + np.float32(rng.uniform(0.1, 0.4)) * scenery.fractal_noise(
        SIDE, SIDE, rng, float(rng.choice([1.0, 1.5]))
    )
    return to_bytes(np.asarray(grey > rng.uniform(0.3, 0.8), np.float32) if rng.random() < 0.3 else grey)


def noise(rng: np.random.Generator) -> Bytes:
    """Uniform, normal, salt and pepper or blotchy noise with grains of one pixel to a quarter of the frame, over any
    level.
    """
    cells = int(rng.choice([6, 10, 16, 28, 28, 28, 56, 112]))
    kind, level = rng.integers(4), rng.uniform(0, 1)
    if kind == 0:
        grey = rng.random((cells, cells), np.float32) * np.float32(rng.uniform(0.3, 1))
    elif kind == 1:
        grey = np.float32(level) + np.float32(rng.uniform(0.05, 0.5)) * rng.standard_normal((cells, cells), np.float32)
    elif kind == 2:
        grey = np.where(rng.random((cells, cells)) < rng.uniform(0.02, 0.5), 1 - round(level), round(level)).astype(
            np.float32
        )
    else:
        grey = np.asarray(rng.random((cells, cells)) < rng.uniform(0.02, 0.5), np.float32)
    return to_bytes(
        np.asarray(
            cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC if kind == 3 else cv2.INTER_NEAREST),
            np.float32,
        )
    )


def blank(rng: np.random.Generator) -> Bytes:
    """Nothing, or next to nothing: one level, a soft gradient, faint noise, some specks."""
    level = np.float32(rng.choice([0.0, 0.0, 1.0, rng.random()]))
    grey = np.full((SIDE, SIDE), level, np.float32)
    if rng.random() < 0.4:
        grey += np.float32(rng.uniform(0, 0.3)) * (
            scenery.smooth_field(SIDE, SIDE, rng, int(rng.integers(2, 4))) - level
        )
    if rng.random() < 0.5:
        grey += np.float32(rng.uniform(0, 0.06)) * scenery.white_noise(SIDE, SIDE, rng)
    for _ in range(rng.integers(0, 4) if rng.random() < 0.4 else 0):
        centre = rng.integers(0, SIDE, 2).tolist()
        cv2.circle(grey, centre, int(rng.integers(1, 5)), float(1 - level), -1, cv2.LINE_AA)
    return to_bytes(grey)


def gradient(rng: np.random.Generator) -> Bytes:
    """From dark to light across the frame, or out from a point."""
    y, x = np.mgrid[-1:1:112j, -1:1:112j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (
        np.cos(angle) * x + np.sin(angle) * y
        if rng.random() < 0.5
        else np.hypot(x - rng.uniform(-1.2, 1.2), y - rng.uniform(-1.2, 1.2))
    )
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    return to_bytes((ramp ** np.exp(rng.normal(0, 0.6)) if rng.random() < 0.7 else 1 - ramp).astype(np.float32))


def stripes(rng: np.random.Generator) -> Bytes:
    """Three or more parallel bars, any direction, hard or soft; or two such sets woven."""
    y, x = np.mgrid[-1:1:112j, -1:1:112j].astype(np.float32)

    def wave() -> Floats:
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(9, 45)
        sine = np.sin(pitch * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(0, 7))
        return np.asarray(
            np.clip(0.5 + np.exp(rng.uniform(-0.7, 3)) * (sine - rng.uniform(-0.6, 0.6)), 0, 1), np.float32
        )

    grey = wave() if rng.random() < 0.6 else np.maximum(wave(), wave())
    return to_bytes(grey * np.float32(rng.uniform(0.4, 1)))


def checkerboard(rng: np.random.Generator) -> Bytes:
    """Squares of two tones, turned a little."""
    cells = int(rng.integers(3, 15))
    board = np.indices((cells, cells)).sum(0) % 2
    grey = cv2.resize(board.astype(np.float32), (160, 160), interpolation=cv2.INTER_NEAREST)
    turn = cv2.getRotationMatrix2D((80, 80), rng.uniform(-45, 45), 1)
    return to_bytes(
        np.asarray(cv2.warpAffine(grey, turn, (160, 160))[24:136, 24:136] * rng.uniform(0.4, 1), np.float32)
    )


def barcode(rng: np.random.Generator) -> Bytes:
    """Bars of chance widths, or a square code with its three finder marks; dark on light or light on dark."""
    if rng.random() < 0.5:
        bars = np.repeat(np.arange(60) % 2, rng.integers(1, 5, 60))[:SIDE].astype(np.float32)
        grey = np.zeros((SIDE, SIDE), np.float32)
        top, bottom = rng.integers(2, 30), rng.integers(70, 110)
        grey[top:bottom, : len(bars)] = bars
        grey = np.ascontiguousarray(grey.T) if rng.random() < 0.3 else grey
    else:
        cells = int(rng.integers(15, 30))
        code = (rng.random((cells, cells)) < 0.5).astype(np.float32)
        for y, x in ((0, 0), (0, cells - 7), (cells - 7, 0)):
            code[y : y + 7, x : x + 7] = 1
            code[y + 1 : y + 6, x + 1 : x + 6] = 0
            code[y + 2 : y + 5, x + 2 : x + 5] = 1
        grey = np.asarray(cv2.resize(code, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.float32)
    return to_bytes(grey if rng.random() < 0.5 else 1 - grey)
