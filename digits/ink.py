"""Pixels of a picture come in; how much ink lies on each, whatever the light, goes out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

GROUND_SIDE = 128  # the light over a page varies slowly: its map needs no more pixels than this
COLOUR_NOISE = 5.0  # JPEG's chroma and the sensor's vary by this much in Cr and Cb on blank paper
INK_OF_COLOUR = 20.0  # what the hundredth of a page that is farthest from its hue must reach: less is no coloured pen
_COARSE = 20


def quantile(values: NDArray[np.float32], share: float) -> float:
    """The value that `share` (0..1) of the values lie below, between two of them interpolated; at least one value.

    np.percentile and np.median give the same and take up to ten times as long for maps as small as these.
    """
    flat = values.ravel()
    place = share * (flat.size - 1)
    low = int(place)
    high = min(low + 1, flat.size - 1)
    ordered = np.partition(flat, (low, high))
    return float(ordered[low]) + (place - low) * (float(ordered[high]) - float(ordered[low]))


def scaled(pixels: Bytes, side: int) -> Bytes:
    """The picture with its long side reduced to `side`; smaller pictures stay as they are."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    return pixels if factor >= 1 else _resized(pixels, factor)


def _resized(pixels: Bytes, factor: float) -> Bytes:
    height, width = pixels.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # Down to half the size each result is the mean of its four neighbours either way, and linear is ten times as fast.
    method = cv2.INTER_AREA if factor < 0.55 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=method), np.uint8)


class Page:
    """A picture prepared for finding ink on it: uint8 (h, w) grey or (h, w, 3) RGB.

    `light`, uint8 (h, w), is its lightness; `colour`, float32 (h, w) or None, how far each pixel's colour is from the
    paper's around it, in Cr and Cb; `tint`, likewise, how far its hue is from the whole page's, whatever light falls on
    it, and None where nothing is of another hue.
    """

    def __init__(self, pixels: Bytes) -> None:
        if pixels.ndim == 3:
            parts = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)  # a tenth of the cost of Lab, and what JPEG stores
            self.light: Bytes = np.ascontiguousarray(parts[..., 0])
            half = _resized(parts, 0.5)  # JPEG files hold no more colour than that
            self.colour: Floats | None = _colour_distance(half, parts.shape[:2])
            self.tint: Floats | None = _tint(half, parts.shape[:2])
        else:
            self.light, self.colour, self.tint = pixels, None, None
        self._smooth = cv2.GaussianBlur(self.light, (3, 3), 0)
        factor = min(1.0, GROUND_SIDE / max(self.light.shape))
        self._small = cv2.medianBlur(_resized(self._smooth, factor), 3)
        self._trend = trend(self._small)

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.light.shape
        return height, width

    def ground(self, dark_ink: bool, stroke: float) -> Bytes:
        """The light of the paper under the ink, (h, w): a closing (dark ink) or opening (light ink) with a square
        wider than any stroke, `stroke` being a share of the short side. A shadow wider than that is ground.

        At the frame a closing takes a slope for ink, so the trend of the light is taken away first.
        """
        reach = max(3, round(stroke * min(self._small.shape))) | 1
        operation = cv2.MORPH_CLOSE if dark_ink else cv2.MORPH_OPEN
        flat = self._small - self._trend
        level = cv2.morphologyEx(flat, operation, np.ones((reach, reach), np.uint8), borderType=cv2.BORDER_REPLICATE)
        level = cv2.GaussianBlur(level, (0, 0), max(1.0, reach / 12)) + self._trend
        # At the sharp edge of a shadow the smoothed ground is off by the blur: the nearest ground that makes less ink.
        nearest = cv2.erode if dark_ink else cv2.dilate
        level = nearest(level, np.ones((3, 3), np.uint8))
        level = np.clip(np.rint(level), 0, 255).astype(np.uint8)
        return np.asarray(cv2.resize(level, self.light.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)

    def ink(self, dark_ink: bool, stroke: float) -> Floats:
        """How far each pixel stands out from the ground in the direction of the ink: float32 (h, w), 0 to about 450."""
        level = self.ground(dark_ink, stroke)
        away = cv2.subtract(level, self._smooth) if dark_ink else cv2.subtract(self._smooth, level)
        ink = away.astype(np.float32)
        if self.colour is not None:
            # Colour alone is weak evidence: chroma is stored at half the resolution and bleeds around strokes.
            ink += np.minimum(self.colour, 1.5 * ink + 4)
        return np.asarray(ink, np.float32)

    def darkness_of_ink(self) -> float:
        """How much of what stands out is darker than its surroundings, 0 (all lighter) to 1 (all darker).

        Against a wide median ink is what is rarer, so that the holes of a 0 or an 8 count for little.
        """
        level = self._small - self._trend + np.float32(128)
        small = scaled(np.clip(level, 0, 255).astype(np.uint8), 96)
        reach = min(max(5, round(0.55 * min(small.shape))) | 1, 63)
        # Mirrored at the frame: there the rim of a table, repeated outwards, would outnumber the paper.
        pad = min(reach // 2, min(small.shape) - 1)
        wide = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
        height, width = small.shape
        middle = cv2.medianBlur(wide, reach)[pad : pad + height, pad : pad + width]
        away = small.astype(np.float32) - middle
        noise = 2 * quantile(np.abs(away), 0.5) + 4
        darker = float(np.maximum(-away - noise, 0).sum())
        lighter = float(np.maximum(away - noise, 0).sum())
        # Where hardly anything stands out at this size, ink is as a rule the darker: paper is more common than slate.
        return (darker + 70) / (darker + lighter + 100)


def _colour_distance(half: Bytes, shape: tuple[int, int]) -> Floats:
    """From the paper around, on a map of half the size, uint8 (h / 2, w / 2, 3) of Y, Cr, Cb: float32 (h, w)."""
    height, width = shape
    half = np.ascontiguousarray(half[..., 1:])
    small = _resized(half, min(1.0, 64 / max(half.shape)))
    reach = max(3, min(15, min(small.shape[:2]) // 3)) | 1
    paper = [cv2.medianBlur(np.ascontiguousarray(small[..., axis]), reach) for axis in (0, 1)]
    tone = cv2.resize(cv2.merge(paper), half.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    a, b = cv2.split(cv2.blur(cv2.absdiff(half, tone), (2, 2)).astype(np.float32))
    distance = np.maximum(cv2.magnitude(a, b) - np.float32(COLOUR_NOISE), 0)
    return np.asarray(cv2.resize(distance, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _tint(half: Bytes, shape: tuple[int, int]) -> Floats | None:
    """From the whole page's hue, on the same map: float32 (h, w), as dark as ink would be, or None.

    A shadow takes as much from the colour as from the light, so their ratio stays: coloured ink stands out alone, where
    an ink map holds the shadow's edge, the grey print beside it, or only the rim of a stroke too broad for its ground.
    """
    light, *colours = cv2.split(cv2.blur(half, (2, 2)).astype(np.float32))
    light += np.float32(80)  # in the dark all hues are noise
    hues = [(colour - np.float32(128)) / light for colour in colours]
    a, b = (hue - np.float32(quantile(hue[::2, ::2], 0.5)) for hue in hues)
    distance = np.maximum(cv2.magnitude(a, b) - np.float32(4) / light, 0) * np.float32(300)
    if quantile(distance[::2, ::2], 0.99) < INK_OF_COLOUR:
        return None
    return np.asarray(cv2.resize(distance, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def trend(small: Bytes) -> Floats:
    """The quadratic surface, float32 (h, w), that most of the picture follows; strokes and edges weigh little."""
    height, width = small.shape
    coarse = cv2.resize(small, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    weight = np.ones_like(coarse)
    surface = coarse
    for _ in range(3):
        weighted = _TERMS * weight[:, None]
        surface = _TERMS @ np.linalg.solve(weighted.T @ _TERMS + _RIDGE, weighted.T @ coarse)
        away = np.abs(coarse - surface)
        weight = 1 / (1 + (away / (1.5 * quantile(away, 0.5) + 1)) ** 2)
    fitted = surface.reshape(_COARSE, _COARSE).astype(np.float32)
    return np.asarray(cv2.resize(fitted, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _terms() -> Floats:
    y, x = np.mgrid[-1 : 1 : _COARSE * 1j, -1 : 1 : _COARSE * 1j].reshape(2, -1)
    return np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), 1).astype(np.float32)


_TERMS = _terms()
_RIDGE = 1e-3 * np.eye(6, dtype=np.float32)


def noise_floor(ink: Floats, deviations: float = 4.0) -> float:
    """What blank paper does not exceed on this map, from its median and median absolute deviation."""
    sample = ink[:: max(1, ink.shape[0] // 80), :: max(1, ink.shape[1] // 80)]
    middle = quantile(sample, 0.5)
    spread = 1.4826 * quantile(np.abs(sample - np.float32(middle)), 0.5)
    # Where the digit covers most of the picture both are the ink's own: then a third of the strongest ink must do.
    return min(middle + deviations * (spread + 1), 0.35 * quantile(sample, 0.99) + deviations)
