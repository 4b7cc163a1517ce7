"""Things and scenes that hold nothing to read: a random generator goes in, a picture uint8 (200, 200) comes out.

Opaque shapes of all sizes in front of each other have what photographs of the world have: edges, broad surfaces,
textures, and ends where something begins (the dead leaves model; Lee, Mumford and Huang, IJCV 41, 2001).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from digits import scenery
from digits.camera import to_bytes
from digits.ink import Bytes, Floats

SIDE = 200
ALONE, FEW = 0.45, 0.3  # shares of the pictures with one thing in them, and with two to six; the rest is full of them

Points = npt.NDArray[np.float64]
_Y, _X = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)


def things(rng: np.random.Generator) -> Bytes:
    """One thing before a ground, a few of them, or a scene full of them, grey."""
    picture = _surface(rng, textured=rng.random() < 0.4)
    kind = rng.random()
    if kind < ALONE:
        _lay(picture, rng, rng.uniform(0.5, 1), rng.normal(0.5, 0.05, 2))
    elif kind < ALONE + FEW:
        for _ in range(rng.integers(2, 7)):
            _lay(picture, rng, rng.uniform(0.2, 0.7), rng.uniform(0.05, 0.95, 2))
    else:
        # So many of each size that all sizes cover as much as each other; large ones first, lest they hide the rest.
        for size in sorted(0.08 / np.sqrt(rng.uniform(0.006, 1, rng.integers(20, 90))), reverse=True):
            _lay(picture, rng, size, rng.uniform(0, 1, 2))
    picture *= 1 + np.float32(rng.uniform(0, 0.5)) * (scenery.smooth_field(SIDE, SIDE, rng, 2) - np.float32(0.5))
    seen = cv2.GaussianBlur(picture, (0, 0), float(np.exp(rng.uniform(np.log(0.4), np.log(2.5)))))
    seen += np.float32(rng.uniform(0, 0.04)) * scenery.white_noise(SIDE, SIDE, rng)
    return to_bytes(np.asarray(1 - seen if rng.random() < 0.3 else seen, np.float32))


def _lay(picture: Floats, rng: np.random.Generator, size: float, middle: Points) -> None:
    """Puts a thing in place, of that size and around that middle, both as shares of the side."""
    mask, surface = _shape(rng, size, middle), _surface(rng, textured=rng.random() < 0.6)
    for _ in range(rng.integers(0, 6) if rng.random() < 0.6 else 0):  # what is on it: a print, a window, a button
        part = _shape(rng, size * rng.uniform(0.08, 0.5), middle + rng.normal(0, 0.2, 2) * size)
        surface += part * (np.float32(rng.uniform(0, 1)) - surface)
    if rng.random() < 0.3:
        rim = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        surface += rim * (np.float32(rng.uniform(0, 1)) - surface)
    if rng.random() < 0.4:  # its shadow
        beside = cv2.warpAffine(mask, np.hstack((np.eye(2), rng.uniform(-8, 8, (2, 1)))), (SIDE, SIDE))
        picture *= 1 - np.float32(rng.uniform(0.2, 0.6)) * cv2.GaussianBlur(beside, (0, 0), rng.uniform(1, 8))
    picture += mask * (surface - picture)


def _surface(rng: np.random.Generator, textured: bool) -> Floats:
    """What a ground or a thing is made of: (SIDE, SIDE), 0 to 1, lit from one side; grained, striped, spotted or
    cloudy where it is textured."""
    level = rng.uniform(0.85, 1) if rng.random() < 0.3 else rng.uniform(0, 1)
    across, down = rng.normal(0, 0.15, 2).astype(np.float32)
    surface = np.float32(level) + across * _X + down * _Y
    texture = rng.choice(["grain", "stripes", "spots", "clouds"]) if textured else ""
    if texture == "grain":
        slope = float(rng.choice([0.5, 1.0, 1.5]))
        surface += np.float32(rng.uniform(0.03, 0.25)) * scenery.fractal_noise(SIDE, SIDE, rng, slope)
    elif texture == "stripes":
        angle, pitch = rng.uniform(0, np.pi), np.float32(rng.uniform(8, 90))
        wave = np.sin(pitch * (np.float32(np.cos(angle)) * _X + np.float32(np.sin(angle)) * _Y))
        surface += np.float32(rng.uniform(0.05, 0.4)) * (np.sign(wave) if rng.random() < 0.5 else wave)
    elif texture == "spots":
        spots = scenery.smooth_field(SIDE, SIDE, rng, int(rng.integers(6, 40))) > rng.uniform(0.5, 0.8)
        surface += np.float32(rng.uniform(-0.6, 0.6)) * spots
    elif texture == "clouds":
        soft = scenery.smooth_field(SIDE, SIDE, rng, int(rng.integers(2, 6))) - np.float32(0.5)
        surface += np.float32(rng.uniform(0.1, 0.6)) * soft
    return np.asarray(np.clip(surface, 0, 1), np.float32)


def _shape(rng: np.random.Generator, size: float, middle: Points) -> Floats:
    """Where a thing is: (SIDE, SIDE), 1 inside, 0 outside."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    centre, reach = middle * SIDE, size * SIDE / 2
    outline = _outline(rng)
    stretch = np.exp(rng.normal(0, 0.35, 2))
    corners = outline / np.abs(outline).max() * (stretch / stretch.max()) * reach + centre
    cv2.fillPoly(mask, [np.rint(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if rng.random() < 0.4:  # rounder
        soft = cv2.GaussianBlur(mask, (0, 0), max(0.5, rng.uniform(0.02, 0.12) * reach))
        mask = np.where(soft > 127, 255, 0).astype(np.uint8)
    if rng.random() < 0.12:  # with a hole in it
        hole = np.rint(centre + rng.normal(0, 0.2, 2) * reach).astype(int).tolist()
        cv2.circle(mask, hole, max(1, int(reach * rng.uniform(0.1, 0.4))), 0, -1)
    return np.asarray(mask, np.float32) / np.float32(255)


def _outline(rng: np.random.Generator) -> Points:
    """The corners (n, 2) of something round, with corners, boxed, grown, or made (the same to the left and right)."""
    kind = rng.choice(["round", "cornered", "box", "grown", "made"])
    if kind == "box":
        return np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    if kind == "made":
        down = np.sort(rng.uniform(-1, 1, rng.integers(4, 9)))
        half = np.stack([rng.uniform(0.1, 1, len(down)), down], 1)
        return np.concatenate([half, (half * [-1, 1])[::-1]])
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False) + rng.uniform(0, 2 * np.pi)
    radius = np.ones(90)
    if kind == "cornered":
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        radius = rng.uniform(0.5, 1, len(angles))
    elif kind == "grown":
        for wave in range(2, 8):
            radius += rng.normal(0, 0.5 / wave) * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.maximum(radius, 0.15)[:, None]
