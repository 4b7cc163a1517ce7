"""The bytes or pixels of any picture of a digit come in; what the network reads goes out: a few 28×28 candidates as MNIST would have them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from digits import ink as inks
from digits.decoding import ImageError, Limits, decode
from digits.ink import Bytes, Floats

__all__ = ["ImageError", "Limits", "Reading", "decode", "interpret", "read"]

cv2.setNumThreads(1)  # pictures are read side by side in a pool: threads inside one only get in the way

SIDE, BOX, MOST = 28, 20, 6
THUMBNAIL = 40


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What may be seen in a picture.

    `images`, uint8 (k, 28, 28), 1 ≤ k ≤ 6: the candidates, light ink on black, likeliest first. `crowded`: there are
    several things as large as a digit. `blank`: there is no ink.
    """

    images: Bytes
    crowded: bool = False
    blank: bool = False


def read(data: bytes, limits: Limits = Limits()) -> Reading:  # noqa: B008  (frozen)
    """Reads an image file; raises ImageError as `decode` does."""
    return interpret(decode(data, limits))


def interpret(picture: Bytes) -> Reading:
    """Reads pixels, uint8 (h, w) grey or (h, w, 3) RGB, of any size from 1×1."""
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.size == 0 or picture.shape[2:] not in ((), (3,)):
        raise ValueError(f"expected uint8 (h, w) or (h, w, 3), got {picture.dtype} {picture.shape}")
    if int(picture.max()) - int(picture.min()) < 4:
        return Reading(np.zeros((1, SIDE, SIDE), np.uint8), blank=True)
    if max(picture.shape[:2]) <= THUMBNAIL:
        return _thumbnail(picture)
    return _photograph(picture)


def fit(ink: Floats, mask: Bytes) -> Bytes:
    """Ink (0..1) under a mask as MNIST has it: fitted to 20 × 20, its centre of mass in the middle of 28 × 28."""
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:
        return np.zeros((SIDE, SIDE), np.uint8)
    scale = BOX / max(w, h)
    pad = int(np.ceil(2 / scale))
    part = cv2.copyMakeBorder((ink * mask)[y : y + h, x : x + w], pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    solid = (part > 0.4).astype(np.uint8)
    outline = float((solid - cv2.erode(solid, np.ones((3, 3), np.uint8))).sum())
    stroke = 2 * float(solid.sum()) / max(outline, 1)
    thicker = (2.4 / scale - stroke) if scale < 1.5 else 0
    if thicker >= 1:
        k = int(round(thicker)) + 1
        part = cv2.dilate(part, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (k, k)))
    rows, columns = np.flatnonzero(part.max(1) > 0.2), np.flatnonzero(part.max(0) > 0.2)
    if len(rows) and len(columns):
        part = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    h, w = part.shape
    scale = BOX / max(w, h)
    size = max(1, round(w * scale)), max(1, round(h * scale))
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC).clip(0, None)
    small *= 255 / max(float(small.max()), 1e-6)
    return centred(small)


def centred(small: Floats) -> Bytes:
    """At most 28 × 28 put on black with its centre of mass in the middle."""
    h, w = small.shape
    total = max(float(small.sum()), 1e-6)
    middle = (SIDE - 1) / 2
    top = round(middle - float(small.sum(1) @ np.arange(h)) / total)
    left = round(middle - float(small.sum(0) @ np.arange(w)) / total)
    top, left = min(max(top, 0), SIDE - h), min(max(left, 0), SIDE - w)
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[top : top + h, left : left + w] = np.clip(np.rint(small), 0, 255)
    return image


def _grey(picture: Bytes) -> Bytes:
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _thumbnail(picture: Bytes) -> Reading:
    grey = _grey(picture)
    if grey.shape != (SIDE, SIDE):
        h, w = grey.shape
        scale = SIDE / max(h, w)
        size = max(1, round(w * scale)), max(1, round(h * scale))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        dy, dx = SIDE - grey.shape[0], SIDE - grey.shape[1]
        grey = cv2.copyMakeBorder(grey, dy // 2, dy - dy // 2, dx // 2, dx - dx // 2, cv2.BORDER_REPLICATE)
    ring = np.concatenate((grey[:2].ravel(), grey[-2:].ravel(), grey[:, :2].ravel(), grey[:, -2:].ravel()))
    ground, low, high = float(np.median(ring)), float(grey.min()), float(grey.max())
    light_ink = high - ground >= ground - low
    upright = grey if light_ink else 255 - grey
    ground = ground if light_ink else 255 - ground
    level = ground + 0.4 * (float(upright.max()) - ground)
    mask = (upright > level).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(mask)
    touching = x < 2 or y < 2 or x + w > SIDE - 2 or y + h > SIDE - 2
    ink = np.clip((upright.astype(np.float32) - ground) / max(float(upright.max()) - ground, 1), 0, 1)
    clean = float(((ink > 0.15) & (ink < 0.85)).mean()) < 0.3
    ring_mask = np.concatenate((mask[:2].ravel(), mask[-2:].ravel(), mask[:, :2].ravel(), mask[:, -2:].ravel()))
    if not touching:
        images = [upright] if light_ink or clean else [grey, upright]
    elif clean and ring_mask.mean() < 0.3:
        images = [fit(ink, (ink > 0.1).astype(np.uint8)), upright]
    else:
        images = [grey, 255 - grey]
    return Reading(np.stack(images))


def _photograph(picture: Bytes) -> Reading:
    work = inks.scaled(picture, inks.WORK_SIDE)
    if max(work.shape[:2]) < 160:
        work = cv2.resize(work, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    found: list[tuple[float, Bytes]] = []
    for ink in inks.ink_maps(work):
        level = inks.threshold(ink)
        mask = (ink > level).astype(np.uint8)
        cleared = inks.without_rulings(mask)
        chosen = _choose(cleared, ink)
        if chosen is None:
            continue
        score, part = chosen
        top = float(np.percentile(ink[part > 0], 70))
        near = cv2.dilate(part, np.ones((3, 3), np.uint8))
        found.append((score, fit(np.clip(ink / max(top, 1), 0, 1), near)))
    if not found:
        return Reading(np.zeros((1, SIDE, SIDE), np.uint8), blank=True)
    found.sort(key=lambda pair: -pair[0])
    best = found[0][0]
    return Reading(np.stack([image for score, image in found if score > 0.3 * best]))


def _choose(mask: Bytes, ink: Floats) -> tuple[float, Bytes] | None:
    """The components that most likely are the digit, as a mask, and how good they are."""
    height, width = mask.shape
    joined = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    count, labels, stats, centres = cv2.connectedComponentsWithStats(joined)
    scores = np.zeros(count)
    for i in range(1, count):
        x, y, w, h, _ = stats[i]
        if max(w, h) < 0.04 * max(height, width) or max(w, h) < 8:
            continue
        here = (labels[y : y + h, x : x + w] == i) & (mask[y : y + h, x : x + w] > 0)
        mass = float(ink[y : y + h, x : x + w][here].sum())
        off = abs(centres[i][0] / width - 0.5) + abs(centres[i][1] / height - 0.5)
        sides = (x <= 1) + (y <= 1) + (x + w >= width - 1) + (y + h >= height - 1)
        scores[i] = mass * (1.2 - off) * 0.3**sides
    if scores.max(initial=0) <= 0:
        return None
    main = int(scores.argmax())
    x, y, w, h, _ = stats[main]
    chosen = np.zeros(count, np.uint8)
    chosen[main] = 1
    reach = 0.25 * max(w, h)
    for i in range(1, count):
        a, b, c, d, area = stats[i]
        if i != main and scores[i] > 0.02 * scores[main]:
            gap_x = max(x - (a + c), a - (x + w), 0)
            gap_y = max(y - (b + d), b - (y + h), 0)
            if gap_x < 0.5 * reach and gap_y < reach and max(c, d) < 0.8 * max(w, h):
                chosen[i] = 1
    part = chosen[labels] * mask
    return float(scores[main]), part
