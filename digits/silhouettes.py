"""Grey things that are no writing: clothes, faces, scenes, textures, patterns; a random generator goes in, a picture
uint8 (112, 112) comes out.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

from digits import scenery
from digits.scenery import Bytes, Floats

SIDE = 112
Points = list[tuple[float, float]]

# Half outlines (x from the middle, y down, in 0..1), mirrored: the left half is the right one with another sign.
_MIRRORED: dict[str, Points] = {
    "shirt": [(0.1, 0.12), (0.22, 0.08), (0.46, 0.28), (0.36, 0.42), (0.24, 0.34), (0.26, 0.92)],
    "pullover": [(0.08, 0.1), (0.2, 0.07), (0.36, 0.2), (0.46, 0.86), (0.35, 0.88), (0.24, 0.42), (0.25, 0.92)],
    "coat": [(0.06, 0.05), (0.22, 0.06), (0.36, 0.15), (0.43, 0.88), (0.33, 0.9), (0.27, 0.4), (0.31, 0.97)],
    "dress": [(0.06, 0.04), (0.15, 0.03), (0.17, 0.15), (0.12, 0.4), (0.3, 0.96)],
    "tank": [(0.1, 0.22), (0.13, 0.05), (0.2, 0.05), (0.22, 0.3), (0.28, 0.38), (0.28, 0.93)],
    "skirt": [(0.18, 0.15), (0.36, 0.85)],
}
_WHOLE: dict[str, Points] = {
    "trousers": [(0.3, 0.03), (0.7, 0.03), (0.76, 0.97), (0.57, 0.97), (0.5, 0.3), (0.43, 0.97), (0.24, 0.97)],
    "shorts": [(0.25, 0.15), (0.75, 0.15), (0.88, 0.8), (0.55, 0.83), (0.5, 0.45), (0.45, 0.83), (0.12, 0.8)],
    "sneaker": [
        (0.04, 0.68),
        (0.08, 0.55),
        (0.3, 0.52),
        (0.55, 0.35),
        (0.68, 0.42),
        (0.92, 0.36),
        (0.96, 0.68),
        (0.5, 0.72),
    ],
    "sandal": [
        (0.04, 0.7),
        (0.3, 0.62),
        (0.5, 0.42),
        (0.6, 0.44),
        (0.55, 0.6),
        (0.85, 0.5),
        (0.93, 0.35),
        (0.96, 0.7),
        (0.5, 0.74),
    ],
    "boot": [(0.08, 0.92), (0.1, 0.75), (0.4, 0.62), (0.44, 0.08), (0.82, 0.06), (0.84, 0.6), (0.86, 0.93), (0.6, 0.9)],
    "heel": [(0.03, 0.8), (0.2, 0.72), (0.55, 0.4), (0.9, 0.3), (0.92, 0.85), (0.86, 0.85), (0.82, 0.55), (0.45, 0.82)],
    "bag": [(0.08, 0.4), (0.92, 0.4), (0.96, 0.9), (0.04, 0.9)],
    "hat": [(0.02, 0.75), (0.25, 0.65), (0.3, 0.3), (0.5, 0.22), (0.7, 0.3), (0.75, 0.65), (0.98, 0.75), (0.5, 0.82)],
}


def _to_bytes(grey: Floats) -> Bytes:
    return np.asarray(np.clip(grey * 255, 0, 255), np.uint8)


def _cloth(rng: np.random.Generator) -> Floats:
    """Woven, knitted, striped or plain, (112, 112), around 1."""
    x, y = np.meshgrid(np.linspace(-1, 1, SIDE, dtype=np.float32), np.linspace(-1, 1, SIDE, dtype=np.float32))
    cloth = 1 + np.float32(rng.uniform(0.02, 0.25)) * scenery.fractal_noise(SIDE, SIDE, rng, 1.0)
    cloth = cloth * (1 - np.float32(rng.uniform(0, 0.4)) * np.abs(x)) * (1 + np.float32(rng.uniform(-0.3, 0.3)) * y)
    pattern = rng.random()
    if pattern < 0.3:
        angle, pitch = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]), rng.uniform(8, 40)
        wave = np.sin(np.float32(pitch) * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y))
        cloth = cloth * (1 + np.float32(rng.uniform(0.1, 0.6)) * np.sign(wave))
    elif pattern < 0.45:  # a print
        centre, size = rng.uniform(-0.3, 0.3, 2), rng.uniform(0.1, 0.35)
        inside = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < size**2) * scenery.smooth_field(SIDE, SIDE, rng, 8)
        cloth = cloth + np.float32(rng.uniform(-0.8, 0.8)) * inside
    elif pattern < 0.6:  # checked or spotted
        spots = scenery.smooth_field(SIDE, SIDE, rng, int(rng.integers(8, 28))) > 0.6
        cloth = cloth * (1 - np.float32(rng.uniform(0.2, 0.8)) * spots)
    return cloth


def clothes(rng: np.random.Generator) -> Bytes:
    """A garment, shoe or bag laid on black, grey as its cloth, filling most of the frame."""
    names = [*_MIRRORED, *_WHOLE]
    name = names[rng.integers(len(names))]
    if name in _MIRRORED:
        half = np.array(_MIRRORED[name]) + rng.normal(0, 0.02, (len(_MIRRORED[name]), 2))
        points = np.concatenate([half * [1, 1] + [0.5, 0], (half * [-1, 1] + [0.5, 0])[::-1]])
    else:
        points = np.array(_WHOLE[name]) + rng.normal(0, 0.025, (len(_WHOLE[name]), 2))
        if rng.random() < 0.5:
            points[:, 0] = 1 - points[:, 0]
    points = (points - 0.5) * np.exp(rng.normal(0, 0.08, 2)) * rng.uniform(0.85, 1.05) + 0.5
    mask = np.zeros((SIDE, SIDE), np.uint8)
    outline = np.rint(points * SIDE * 16).astype(np.int32)
    cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA, 4)
    if name == "bag":
        thick = int(rng.integers(2, 9))
        cv2.ellipse(
            mask,
            (SIDE // 2, int(0.42 * SIDE)),
            (int(SIDE * rng.uniform(0.15, 0.35)), int(SIDE * rng.uniform(0.15, 0.35))),
            0,
            180,
            360,
            255,
            thick,
        )
    if rng.random() < 0.5:  # rounder
        mask = cv2.threshold(cv2.GaussianBlur(mask, (0, 0), rng.uniform(1, 5)), 127, 255, cv2.THRESH_BINARY)[1]
    grey = np.float32(rng.uniform(0.25, 0.95)) * _cloth(rng)
    marks = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(rng.integers(0, 5)):  # seams, zips, laces, soles
        start, end = rng.uniform(0.1, 0.9, 2), rng.uniform(0.1, 0.9, 2)
        if rng.random() < 0.6:
            end[0] = start[0] + rng.normal(0, 0.03)
        cv2.line(
            marks,
            np.rint(start * SIDE).astype(int).tolist(),
            np.rint(end * SIDE).astype(int).tolist(),
            255,
            int(rng.integers(1, 4)),
            cv2.LINE_AA,
        )
    grey = grey + np.float32(rng.uniform(-0.6, 0.5) / 255) * marks
    return _to_bytes(np.clip(grey, 0.06, 1) * mask * np.float32(1 / 255))


def knitwear(rng: np.random.Generator) -> Bytes:
    """Clothes by another recipe, for evaluation: soft blobs joined at shoulders, ribs all over, on a light or a dark
    ground.
    """
    y, x = np.mgrid[-1:1:112j, -1:1:112j].astype(np.float32)
    body = np.maximum(
        np.abs(x) / np.float32(rng.uniform(0.35, 0.6)), np.abs(y + 0.05) / np.float32(rng.uniform(0.7, 0.95))
    )
    arm = (
        np.abs(np.abs(x) - np.float32(rng.uniform(0.55, 0.8)) - np.float32(0.2) * y) / np.float32(0.17)
        + np.clip(np.abs(y) - np.float32(rng.uniform(0.2, 0.8)), 0, 1) * 4
    )
    neck = np.hypot(x / np.float32(rng.uniform(0.15, 0.35)), (y + 0.95) / np.float32(rng.uniform(0.2, 0.4)))
    inside = np.clip((1 - np.minimum(body, arm)) * 12, 0, 1) * np.clip((neck - 1) * 8, 0, 1)
    ribs = 1 + np.float32(rng.uniform(0.05, 0.4)) * np.sin(
        np.float32(rng.uniform(15, 60)) * (x if rng.random() < 0.5 else y)
    )
    ground = np.float32(rng.choice([0.0, 0.05, 0.9]))
    tone = (
        np.float32(rng.uniform(0.3, 0.8)) * ribs * (1 + np.float32(0.1) * scenery.fractal_noise(SIDE, SIDE, rng, 1.5))
    )
    return _to_bytes(ground + inside * (tone - ground))


def face(rng: np.random.Generator) -> Bytes:
    """A head: skin, hair, eyes, brows, nose, mouth, neck, lit from a side, slightly out of focus, before some wall."""
    y, x = np.mgrid[-1:1:112j, -1:1:112j].astype(np.float32)
    turn, lean = np.float32(rng.normal(0, 0.15)), np.float32(rng.normal(0, 0.1))
    zoom = np.float32(rng.uniform(0.75, 1.25))
    x, y = (
        (x + lean * y) * zoom - np.float32(rng.normal(0, 0.08)),
        (y - lean * x) * zoom - np.float32(rng.normal(0, 0.08)),
    )
    wall = np.float32(rng.uniform(0, 0.9)) + np.float32(rng.uniform(0, 0.15)) * scenery.fractal_noise(
        SIDE, SIDE, rng, 1.5
    )
    skin, hair = rng.uniform(0.3, 0.9), rng.uniform(0, 0.6)
    wide, tall = rng.uniform(0.42, 0.6), rng.uniform(0.6, 0.8)

    def oval(cx: float, cy: float, rx: float, ry: float, sharp: float = 6.0) -> Floats:
        away = ((x - np.float32(cx)) / np.float32(rx)) ** 2 + ((y - np.float32(cy)) / np.float32(ry)) ** 2
        return np.asarray(np.clip((1 - away) * np.float32(sharp), 0, 1), np.float32)

    def lay(picture: Floats, tone: float, alpha: Floats) -> Floats:
        return np.asarray(picture + alpha * (np.float32(tone) - picture), np.float32)

    picture = lay(wall.astype(np.float32), rng.uniform(0, 0.9), oval(0, 1.35, rng.uniform(0.7, 1.3), 0.65))
    picture = lay(
        picture,
        hair,
        oval(0, rng.uniform(-0.25, 0.05), wide * rng.uniform(1.05, 1.4), tall * rng.uniform(1, 1.25))
        * np.float32(rng.random() < 0.85),
    )
    picture = lay(picture, 0.85 * skin, oval(0, 0.75, 0.25, 0.4))
    picture = lay(picture, skin, oval(0, 0.08, wide, tall))
    eye_y, gap = rng.uniform(-0.15, 0.0), rng.uniform(0.17, 0.24)
    for side in (-1, 1):
        at = side * gap + float(turn)
        picture = lay(picture, 0.6 * skin, oval(at, eye_y, 0.14, 0.1, 2) * np.float32(0.7))
        picture = lay(picture, rng.uniform(0, 0.2), oval(at, eye_y, 0.07, 0.045))
        picture = lay(picture, hair * 0.8, oval(at, eye_y - 0.13, 0.14, 0.035) * np.float32(0.8))
    picture = lay(picture, 0.75 * skin, oval(float(turn), 0.22, 0.08, 0.06, 2) * np.float32(0.7))
    picture = lay(picture, 0.45 * skin, oval(float(turn), 0.43, rng.uniform(0.12, 0.22), rng.uniform(0.03, 0.09), 3))
    if rng.random() < 0.25:  # a beard or glasses
        picture = lay(picture, hair, oval(0, 0.6, wide * 0.8, 0.25, 2) * np.float32(0.6))
    picture = (
        picture
        * (1 + np.float32(rng.uniform(-0.5, 0.5)) * x)
        * (1 + np.float32(0.08) * scenery.fractal_noise(SIDE, SIDE, rng, 1.0))
    )
    return _to_bytes(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.5)))


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
    patch = np.rot90(patch, rng.integers(4))
    patch = patch[:, ::-1] if rng.random() < 0.5 else patch
    levels = ((np.arange(256) / 255) ** np.exp(rng.normal(0, 0.5)) - 0.5) * rng.uniform(0.5, 1.8) + 0.5
    if rng.random() < 0.5:
        levels = 1 - levels
    return np.asarray(_to_bytes(levels.astype(np.float32))[patch])


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
    return _to_bytes(np.asarray(grey > rng.uniform(0.3, 0.8), np.float32) if rng.random() < 0.3 else grey)


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
    return _to_bytes(
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
    return _to_bytes(grey)


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
    return _to_bytes((ramp ** np.exp(rng.normal(0, 0.6)) if rng.random() < 0.7 else 1 - ramp).astype(np.float32))


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
    return _to_bytes(grey * np.float32(rng.uniform(0.4, 1)))


def checkerboard(rng: np.random.Generator) -> Bytes:
    """Squares of two tones, turned a little."""
    cells = rng.integers(3, 15)
    board = np.indices((cells, cells)).sum(0) % 2
    grey = cv2.resize(board.astype(np.float32), (160, 160), interpolation=cv2.INTER_NEAREST)
    turn = cv2.getRotationMatrix2D((80, 80), rng.uniform(-45, 45), 1)
    return _to_bytes(
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
    return _to_bytes(grey if rng.random() < 0.5 else 1 - grey)
