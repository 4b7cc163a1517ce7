"""Pixels of a picture come in; how much ink lies on each, whatever the light, goes out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

GROUND_SIDE = 128  # the light over a page varies slowly: its map needs no more pixels than this
COLOUR_NOISE = 5.0  # JPEG's chroma and the sensor's vary by this much in Lab on blank paper


def scaled(pixels: Bytes, side: int) -> Bytes:
    """The picture with its long side reduced to `side`; smaller pictures stay as they are."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return pixels
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def lightness_and_colour(pixels: Bytes) -> tuple[Bytes, Bytes | None]:
    """Lab lightness (h, w) and, of RGB pictures, the two colour axes (h, w, 2)."""
    if pixels.ndim == 2:
        return pixels, None
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    return np.ascontiguousarray(lab[..., 0]), np.ascontiguousarray(lab[..., 1:])


def ground(light: Bytes, stroke: float, dark_ink: bool) -> Floats:
    """The light of the paper under the ink, (h, w): a closing (dark ink) or opening (light ink) with a square wider
    than any stroke, `stroke` being a share of the short side. A page's edge or a shadow wider than that is ground."""
    height, width = light.shape
    factor = min(1.0, GROUND_SIDE / max(height, width))
    small = cv2.resize(light, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA)
    small = cv2.medianBlur(small, 3)
    reach = max(3, round(stroke * min(small.shape))) | 1
    kernel = np.ones((reach, reach), np.uint8)
    operation = cv2.MORPH_CLOSE if dark_ink else cv2.MORPH_OPEN
    slope = trend(small)  # at the frame a closing takes a slope for ink: without it there is hardly any
    level = cv2.morphologyEx(small - slope, operation, kernel, borderType=cv2.BORDER_REPLICATE)
    level = cv2.GaussianBlur(level, (0, 0), max(1.0, reach / 12)) + slope
    return cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def trend(small: Bytes) -> Floats:
    """The quadratic surface, float32 (h, w), that most of the picture follows; strokes and edges weigh little."""
    height, width = small.shape
    size = min(width, 24), min(height, 24)
    coarse = cv2.resize(small, size, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    terms = _terms(size[1], size[0])
    weight = np.ones_like(coarse)
    surface = coarse
    for _ in range(4):
        scaled_terms = terms * weight[:, None]
        normal = scaled_terms.T @ terms + 1e-3 * np.eye(6, dtype=np.float32)
        surface = terms @ np.linalg.solve(normal, scaled_terms.T @ coarse)
        away = np.abs(coarse - surface)
        weight = 1 / (1 + (away / (1.5 * float(np.median(away)) + 1)) ** 2)
    fitted = surface.reshape(size[1], size[0]).astype(np.float32)
    return np.asarray(cv2.resize(fitted, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _terms(height: int, width: int) -> Floats:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].reshape(2, -1)
    return np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), 1).astype(np.float32)


def ink_map(light: Bytes, colour: Bytes | None, dark_ink: bool, stroke: float = 0.25) -> Floats:
    """How far each pixel stands out from the ground in the direction of the ink: float32 (h, w), 0 to about 300."""
    level = ground(light, stroke, dark_ink)
    smooth = cv2.GaussianBlur(light, (3, 3), 0).astype(np.float32)
    ink = np.maximum(level - smooth if dark_ink else smooth - level, 0)
    if colour is None:
        return np.asarray(ink, np.float32)
    height, width = light.shape
    factor = min(1.0, 64 / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    tone = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
    reach = max(3, min(15, min(size) // 3)) | 1
    tone = np.dstack([cv2.medianBlur(np.ascontiguousarray(tone[..., axis]), reach) for axis in range(2)])
    tone = cv2.resize(tone, (width, height), interpolation=cv2.INTER_LINEAR)
    away = cv2.blur(cv2.absdiff(colour, tone), (3, 3)).astype(np.float32)
    a, b = cv2.split(away)
    distance = np.maximum(cv2.magnitude(a, b) - COLOUR_NOISE, 0)
    # Colour alone is weak evidence: chroma is stored at half the resolution and bleeds around strokes.
    return np.asarray(ink + np.minimum(distance, 1.5 * ink + 4), np.float32)


def noise_floor(ink: Floats, deviations: float = 4.0) -> float:
    """What blank paper does not exceed on this map, from its median and median absolute deviation."""
    sample = ink[:: max(1, ink.shape[0] // 150), :: max(1, ink.shape[1] // 150)]
    middle = float(np.median(sample))
    spread = 1.4826 * float(np.median(np.abs(sample - middle)))
    # Where the digit covers most of the picture both are the ink's own: then a third of the strongest ink must do.
    return min(middle + deviations * (spread + 1), 0.35 * float(np.percentile(sample, 99)) + deviations)


def darkness_of_ink(light: Bytes) -> float:
    """How much of what stands out is darker than its surroundings, 0 (all lighter) to 1 (all darker).

    Against a wide median ink is what is rarer, so that the holes of a 0 or an 8 count for little.
    """
    small = scaled(light, 96)
    reach = min(max(5, round(0.55 * min(small.shape))) | 1, 63)
    middle = cv2.medianBlur(cv2.copyMakeBorder(small, 8, 8, 8, 8, cv2.BORDER_REPLICATE), reach)[8:-8, 8:-8]
    away = small.astype(np.float32) - middle
    noise = 2 * float(np.median(np.abs(away))) + 4
    darker = float(np.maximum(-away - noise, 0).sum())
    lighter = float(np.maximum(away - noise, 0).sum())
    return (darker + 1e-3) / (darker + lighter + 2e-3)
