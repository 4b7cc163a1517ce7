"""Pixels of a picture come in; how much ink lies on each, whatever the light, and where the digit is, go out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

WORK_SIDE = 384  # the long side of the picture on which things are found


def scaled(pixels: Bytes, side: int) -> Bytes:
    """The picture reduced so that its long side is at most `side`."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return pixels
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def ink_maps(pixels: Bytes) -> tuple[Floats, Floats]:
    """How much darker, and how much lighter, than the surrounding ground each pixel is: float32 (h, w), about 0..255."""
    if pixels.ndim == 3:
        lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        light, colour = lab[..., 0], lab[..., 1:]
    else:
        light, colour = pixels, None
    height, width = light.shape
    step = max(1, round(max(height, width) / 96))
    small_size = max(1, width // step), max(1, height // step)
    small = cv2.resize(cv2.medianBlur(light, 3), small_size, interpolation=cv2.INTER_AREA)
    reach = max(3, max(small_size) // 3 | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    soft = cv2.GaussianBlur(light, (3, 3), 0).astype(np.float32)
    maps = []
    for operation, sign in ((cv2.MORPH_CLOSE, 1), (cv2.MORPH_OPEN, -1)):
        ground = cv2.morphologyEx(small, operation, kernel, borderType=cv2.BORDER_REPLICATE)
        ground = cv2.GaussianBlur(ground, (0, 0), reach / 4)
        level = cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        maps.append(np.maximum(sign * (level - soft), 0))
    if colour is not None:
        tone = cv2.resize(colour, small_size, interpolation=cv2.INTER_AREA)
        tone = cv2.merge([cv2.medianBlur(np.ascontiguousarray(tone[..., i]), 5) for i in range(2)])
        tone = cv2.GaussianBlur(tone, (0, 0), reach / 3)
        tone = cv2.resize(tone, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        away = cv2.GaussianBlur(colour, (3, 3), 0).astype(np.float32) - tone
        distance = cv2.magnitude(np.ascontiguousarray(away[..., 0]), np.ascontiguousarray(away[..., 1]))
        distance = np.maximum(distance - 4, 0)
        maps = [m + np.minimum(distance, 2 * m + 6) for m in maps]
    return maps[0], maps[1]


def threshold(ink: Floats) -> float:
    """Otsu's threshold (1979) of the ink map, not below four times the paper's noise."""
    top = float(ink.max())
    if top <= 0:
        return 1.0
    noise = float(np.median(ink)) * 1.5
    scaled_map = np.minimum(ink * (255 / top), 255).astype(np.uint8)
    otsu, _ = cv2.threshold(scaled_map, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return max(otsu * top / 255, 3 * noise, 6.0)


def without_rulings(mask: Bytes) -> Bytes:
    """Straight runs that cross nearly all of the picture taken out, and what they cut mended."""
    result = mask
    for horizontal in (True, False):
        length = mask.shape[1] if horizontal else mask.shape[0]
        run = max(15, int(length * 0.3))
        kernel = np.ones((1, run) if horizontal else (run, 1), np.uint8)
        lines = cv2.morphologyEx(result, cv2.MORPH_OPEN, kernel)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(lines)
        keep = np.zeros(count, np.uint8)
        for i in range(1, count):
            extent = stats[i, cv2.CC_STAT_WIDTH if horizontal else cv2.CC_STAT_HEIGHT]
            thickness = stats[i, cv2.CC_STAT_AREA] / max(1, extent)
            if extent > 0.85 * length and thickness < 0.05 * max(mask.shape):
                keep[i] = 1
        if keep.any():
            cut = cv2.dilate(keep[labels], np.ones((3, 3), np.uint8))
            result = np.where(cut > 0, 0, result).astype(np.uint8)
            mend = np.ones((7, 1) if horizontal else (1, 7), np.uint8)
            result = cv2.morphologyEx(result, cv2.MORPH_CLOSE, mend)
    return np.asarray(result, np.uint8)
