"""How a scene is seen: its light and its camera.

A scene float32 (3, h, w) in 0..1, RGB, goes in, a picture uint8 (h, w, 3) comes out.
"""

from __future__ import annotations

import cv2
import numpy as np

from digits.ink import Bytes, Floats
from digits.scenery import smooth_field, white_noise


def light(picture: Floats, rng: np.random.Generator, hardness: float) -> None:
    """Light the scene in place: exposure, colour of the lamp, gradient, vignette, soft and hard shadows, a blind, a
    flash spot, a lamp mirrored.
    """
    height, width = picture.shape[1:]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.1 + 0.3 * hardness)
    lamp = 1 + np.float32(slope * np.cos(angle)) * x + np.float32(slope * np.sin(angle)) * y
    if rng.random() < 0.2 + 0.4 * hardness:
        lamp = lamp - np.float32(rng.uniform(0.05, 0.35)) * (x * x + y * y) * 0.5
    if rng.random() < 0.15 + 0.3 * hardness:
        lamp = lamp * (1 - np.float32(rng.uniform(0.1, 0.5)) * np.clip(smooth_field(height, width, rng, 4), 0, 1))
    for _ in range(rng.binomial(2, 0.06 + 0.22 * hardness)):  # the edge of a shadow: a hand, a phone, a window frame
        across = _across(x, y, rng) + np.float32(rng.uniform(0, 0.3)) * x * y
        softness = np.float32(np.exp(rng.uniform(np.log(0.04), np.log(0.8))))
        lamp = lamp * (
            1
            - np.float32(rng.uniform(0.1, 0.6))
            * np.clip((across - np.float32(rng.uniform(-0.7, 0.7))) / softness, 0, 1)
        )
    if rng.random() < 0.08 * hardness:  # through a blind
        waves = _across(x, y, rng) * np.float32(rng.uniform(3, 20))
        slats = 1 / (1 + np.exp(np.float32(-rng.uniform(2, 15)) * np.sin(waves + np.float32(rng.uniform(0, 6.3)))))
        lamp = lamp * (1 - np.float32(rng.uniform(0.15, 0.5)) * slats)
    if rng.random() < 0.1 * hardness:
        spot = _around(x, y, rng)
        lamp = lamp + np.float32(rng.uniform(0.2, 0.8)) * np.exp(-spot * np.float32(rng.uniform(2, 12)))
    exposure = np.exp(rng.normal(-0.12, 0.12 + 0.22 * hardness))
    warmth = rng.normal(0, 0.02 + 0.06 * hardness)
    lamp = np.maximum(lamp, 0.12) * np.float32(exposure)
    for plane, tint in zip(picture, (1 + warmth, 1.0, 1 - warmth), strict=True):
        plane *= lamp * np.float32(tint)
    if rng.random() < 0.15 * hardness:  # a lamp mirrored in a glossy sheet or a board: ink and paper alike turn white
        spot = _around(x, y, rng)
        veil = np.float32(rng.uniform(0.2, 0.75)) * np.exp(-spot * np.float32(np.exp(rng.uniform(1, 3.5))))
        picture += veil * (np.float32(1) - picture)


def _across(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """The distance from the middle along a random direction: x (1, w) and y (h, 1), of -1..1, to (h, w)."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y, np.float32)


def _around(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """The squared distance from a random place: x (1, w) and y (h, 1), of -1..1, to (h, w)."""
    return np.asarray((x - np.float32(rng.uniform(-1, 1))) ** 2 + (y - np.float32(rng.uniform(-1, 1))) ** 2, np.float32)


def to_bytes(plane: Floats) -> Bytes:
    """0..1 to 0..255, clipped."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(plane, 0), alpha=255), np.uint8)


def _motion(length: int, angle: float) -> Floats:
    kernel = np.zeros((length, length), np.float32)
    middle = length // 2
    reach = np.array([np.cos(angle), np.sin(angle)]) * middle
    cv2.line(kernel, np.rint(middle - reach).astype(int).tolist(), np.rint(middle + reach).astype(int).tolist(), 1.0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def take(picture: Floats, rng: np.random.Generator, hardness: float, stroke: float) -> Bytes:
    """Take the picture: defocus or motion blur (bounded by the `stroke` width in pixels), sensor noise, tone,
    sharpening, JPEG. Returns RGB, uint8 (h, w, 3).
    """
    height, width = picture.shape[1:]
    if rng.random() < 0.4 + 0.4 * hardness:
        sigma = max(rng.uniform(0.2, 0.5 + 0.3 * hardness * min(stroke, 8.0)), 0.3)
        if rng.random() < 0.7:
            planes = [cv2.GaussianBlur(plane, (0, 0), sigma) for plane in picture]
        else:
            kernel = _motion(max(3, int(sigma * 3) | 1), rng.uniform(0, np.pi))
            planes = [cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REFLECT) for plane in picture]
    else:
        planes = list(picture)
    if rng.random() < 0.5 + 0.5 * hardness:
        level = np.float32(np.exp(rng.uniform(np.log(0.003), np.log(0.012 + 0.04 * hardness))))
        grain = level * white_noise(height, width, rng)
        planes = [plane + grain for plane in planes]
        if rng.random() < 0.4:
            planes = [plane + level * np.float32(0.7) * white_noise(height, width, rng) for plane in planes]
    if rng.random() < 0.2 + 0.3 * hardness:
        sigma, amount = rng.uniform(0.8, 2.0), rng.uniform(0.3, 1.2)
        planes = [
            cv2.addWeighted(plane, 1 + amount, cv2.GaussianBlur(plane, (0, 0), sigma), -amount, 0) for plane in planes
        ]
    gamma, contrast = np.exp(rng.normal(0, 0.05 + 0.15 * hardness)), rng.uniform(1 - 0.35 * hardness, 1.05)
    levels = np.linspace(0, 1, 256) ** gamma
    table = np.clip(((levels - 0.5) * contrast + 0.5) * 255, 0, 255).astype(np.uint8)
    seen = cv2.merge([cv2.LUT(to_bytes(plane), table) for plane in planes])
    if rng.random() < 0.05:
        seen = cv2.cvtColor(cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.9:
        quality = int(rng.uniform(80 - 60 * hardness, 96))
        seen = cv2.cvtColor(cv2.imdecode(as_jpeg(seen, quality), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return np.asarray(seen, np.uint8)


def as_jpeg(picture: Bytes, quality: int) -> Bytes:
    """A picture (h, w, 3), RGB, as the bytes (n,) of a JPEG file."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(encoded, np.uint8)
