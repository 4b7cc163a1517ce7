"""Grey things that are no writing, clothes, faces: a random generator goes in, a picture uint8 (112, 112) comes out."""

from __future__ import annotations

import cv2
import numpy as np

from digits import scenery
from digits.camera import to_bytes
from digits.ink import Bytes, Floats

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
        mask = np.where(cv2.GaussianBlur(mask, (0, 0), rng.uniform(1, 5)) > 127, 255, 0).astype(np.uint8)
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
    return to_bytes(np.clip(grey, 0.06, 1) * mask * np.float32(1 / 255))


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
    return to_bytes(ground + inside * (tone - ground))


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
    return to_bytes(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.5)))
