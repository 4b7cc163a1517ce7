"""Small pictures, and ink already found, come in; 28×28 as MNIST has them goes out."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from digits.ink import Bytes, Floats

SIDE, BOX = 28, 20
SAME = 6 / 255  # candidates that are no further apart are one
FLAT = 4  # grey levels: what differs by less is blank
MOVED = 2.0  # pixels off the middle from which on a digit is also looked at in the middle
BROADEST = 7  # pixels of 28 from ground, what a pen is at most that fills the picture
ALONG = 0.8  # of a side, what its strokes cover at most
SOLID = 0.68  # of its box, what strokes cover at most: 996 in 1,000 of MNIST's above 40 of 255; buttons cover more
SLIM = 2.2  # times as high as wide, or as wide as high; a 1 so slim may fill its box
LOST = 0.2  # of its ink: less is lost where an MNIST image was enlarged than where one was drawn
STROKE = 2.3  # MNIST's usual stroke, in pixels of the 20 × 20 box; thinner ones would not survive the reduction


def fit(ink: Floats, stroke: float = 0.0, broken: bool = False) -> Bytes:
    """Ink (h, w), 0..1, fitted to 20 × 20, with its centre of mass in the middle of 28 × 28.

    A stroke (its width in pixels, 0 if unknown) that would be thinner than MNIST's is thickened first; gaps of a
    broken one are closed.
    """
    solid = (ink > 0.35).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(solid)
    if w == 0:
        return np.zeros((SIDE, SIDE), np.uint8)
    scale = BOX / max(w, h)
    shrink = max(1, int(0.2 / scale))  # far more pixels than needed: halve first
    part = ink[y : y + h, x : x + w]
    if shrink > 1:
        part = cv2.resize(part, (max(1, w // shrink), max(1, h // shrink)), interpolation=cv2.INTER_AREA)
        reduced = max(w, h) / max(part.shape)  # of the longer side: a thin 1 may be five pixels wide, or one
        scale, stroke = scale * reduced, stroke / reduced
    elif scale > 0.4:
        part = cv2.resize(part, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR)
        scale, stroke = scale / 3, stroke * 3
    pad = int(np.ceil(2 / scale))
    part = cv2.copyMakeBorder(part, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    if broken:
        part = cv2.morphologyEx(part, cv2.MORPH_CLOSE, _disc(0.9 / scale))
    missing = STROKE / scale - stroke if stroke > 0 else 0.0
    if missing >= 0.8:
        part = cv2.dilate(part, _disc(missing))
    return centred(_fitted(part))


def _disc(diameter: float) -> Bytes:
    reach = max(2, round(diameter) + 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)), np.uint8)


def _fitted(part: Floats) -> Floats:
    """Cropped to its ink and reduced to 20 pixels on the long side, 0..255."""
    rows, columns = np.flatnonzero(part.max(1) > 0.3), np.flatnonzero(part.max(0) > 0.3)
    if not len(rows) or not len(columns):
        return np.zeros((1, 1), np.float32)
    part = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    h, w = part.shape
    scale = BOX / max(w, h)
    size = max(1, round(w * scale)), max(1, round(h * scale))
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(small * np.float32(255 / max(float(small.max()), 1e-6)), np.float32)


def centred(small: Floats) -> Bytes:
    """At most 28 × 28, put on black with its centre of mass in the middle."""
    h, w = small.shape
    total = max(float(small.sum()), 1e-6)
    middle = (SIDE - 1) / 2
    top = round(middle - float(small.sum(1) @ np.arange(h)) / total)
    left = round(middle - float(small.sum(0) @ np.arange(w)) / total)
    top, left = min(max(top, 0), SIDE - h), min(max(left, 0), SIDE - w)
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[top : top + h, left : left + w] = np.clip(np.rint(small), 0, 255)
    return image


def grey(picture: Bytes) -> Bytes:
    """Lightness, uint8 (h, w); of a picture whose colours are all about as light, red, green or blue alone."""
    if picture.ndim == 2:
        return picture
    light = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    planes = sorted((light, *cv2.split(picture)), key=_range)
    return np.asarray(planes[-1] if _range(planes[-1]) > 3 * _range(light) else light, np.uint8)


def _range(plane: Bytes) -> float:
    low, high = cv2.minMaxLoc(plane)[:2]
    return float(high - low)


def _ring(depth: int) -> NDArray[np.intp]:
    """Where the pixels along the four sides are, for `take`."""
    inner = np.zeros((SIDE - 2 * depth, SIDE - 2 * depth), bool)
    return np.flatnonzero(np.pad(inner, depth, constant_values=True))


RIM, WIDE_RIM = _ring(2), _ring(3)


def middle(values: Bytes) -> float:
    """The median of an even number of values; np.median takes five times as long for so few."""
    half = len(values) // 2
    low, high = np.sort(values)[half - 1 : half + 1].tolist()
    return float(low + high) / 2


def inverted(image: Bytes) -> Bytes:
    return np.asarray(255 - image, np.uint8)


def _plain(rim: Bytes, ground: float, inked: Bytes) -> bool:
    """Whether less than a quarter of what is along the sides is ink, and the rest within 10 grey levels of the ground,
    on average."""
    if cv2.countNonZero(inked) >= 0.25 * inked.size:
        return False
    return float(np.abs(rim.astype(np.float32) - ground)[inked == 0].mean()) < 10


def squared(image: Bytes) -> Bytes:
    """Resized to 28 on the long side and padded to 28 × 28 with the colour of its rim."""
    h, w = image.shape
    scale = SIDE / max(h, w)
    size = max(1, round(w * scale)), max(1, round(h * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    dy, dx = SIDE - small.shape[0], SIDE - small.shape[1]
    rim = int(np.median(np.concatenate((small[0], small[-1], small[:, 0], small[:, -1]))))
    edges = dy // 2, dy - dy // 2, dx // 2, dx - dx // 2
    return np.asarray(cv2.copyMakeBorder(small, *edges, cv2.BORDER_CONSTANT, value=(rim,)), np.uint8)


def as_mnist(picture: Bytes) -> Bytes | None:
    """An MNIST image that was only enlarged or inverted, back at 28 × 28; None for anything else."""
    whole = grey(picture)
    small = np.asarray(cv2.resize(whole, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    rim = small.take(WIDE_RIM)
    if int(rim.max()) - int(rim.min()) > 12 or 12 < int(rim[0]) < 243:
        return None
    image = small if rim[0] <= 12 else inverted(small)
    if image.max() < 200:
        return None
    mask = (image > 40).astype(np.uint8)
    _, _, w, h = cv2.boundingRect(mask)
    if not (18 <= max(w, h) <= 21 and off_centre(image) < 1.2 and mask.mean() < 0.4) or is_solid(mask, w, h):
        return None
    return image if _lost(whole, small) < LOST * image.mean() else None


def _lost(whole: Bytes, small: Bytes) -> float:
    """What a picture has that is not in its reduction, in grey levels: nothing, where it was enlarged from as few
    pixels."""
    size = whole.shape[1], whole.shape[0]
    again = (cv2.resize(small, size, interpolation=how) for how in (cv2.INTER_NEAREST, cv2.INTER_CUBIC))
    return min(float(cv2.absdiff(whole, other).mean()) for other in again)


def thumbnail(picture: Bytes) -> tuple[list[Bytes], bool]:
    """The candidates for a picture of at most 40 pixels a side, likeliest first, each uint8 (28, 28); none of one that
    is blank. And whether these are all: other sizes than MNIST's may as well be of photographs.
    """
    image = grey(picture)
    if _range(image) < FLAT:
        return [], True
    exact = image.shape == (SIDE, SIDE)
    if not exact:
        image = squared(image)
    rim = image.take(RIM)
    (low, high), (least, most) = cv2.minMaxLoc(image)[:2], cv2.minMaxLoc(rim)[:2]
    one_grey = least == most
    ground = least if one_grey else middle(rim)
    light_ink = high - ground >= ground - low
    upright = image if light_ink else inverted(image)
    base, top = (ground, high) if light_ink else (255 - ground, 255 - low)
    span = max(top - base, 1)
    mask = np.asarray(cv2.threshold(upright, base + 0.4 * span, 1, cv2.THRESH_BINARY)[1], np.uint8)
    # A drawing or a scan: ground and ink are flat, and there is little between them.
    between = (upright > math.floor(base + 0.12 * span)) & (upright < math.ceil(base + 0.8 * span))
    clean = np.count_nonzero(between) < 0.25 * image.size and cv2.countNonZero(mask) < 0.45 * mask.size
    x, y, w, h = cv2.boundingRect(mask)
    sides = (y < 2) + (y + h > SIDE - 2), (x < 2) + (x + w > SIDE - 2)
    if not (clean and (one_grey or _plain(rim, ground, mask.take(RIM)))):
        seen = [image] if light_ink else [image, inverted(image)]
        if 2 not in sides or not _fills(mask):
            return seen, exact
        # Cropped to the digit? An MNIST image may as well have a stripe across it, others a shadow; the model sees.
        refit = _refitted(upright, base, span, mask)
        # A disc with a light digit in it has no room in fewer pixels, where digits that fill them look as solid.
        disc = max(picture.shape[:2]) > SIDE and is_solid(mask, w, h)
        return ([refit], True) if not exact and not disc and _is_written(mask) else ([*seen, refit], exact)
    # A lopsided digit, centred by its mass, may come near one side; its box is no larger than MNIST's for that. With
    # something across it, it touches sides, and the middle of all that is not the digit's: the network has seen such.
    whole = max(w, h) <= BOX + 1 and (sum(sides) == 0 or light_ink or off_centre(upright) < 1)
    crossed = light_ink and sides[0] < 2 and sum(sides) < 3
    if exact and max(w, h) >= 12 and (whole or crossed):
        return ([recentred(upright), upright] if whole and off_centre(upright) >= MOVED else [upright]), True
    refit = _refitted(upright, base, span, mask)
    specks = exact and light_ink and cv2.connectedComponents(mask)[0] > 6
    # Cropped to the digit, or a digit with something across it? The model sees which.
    sure = exact or (one_grey and not is_solid(mask, w, h))
    return ([upright, refit] if specks else [refit, upright]), sure


def is_solid(thing: Bytes, width: int, height: int) -> bool:
    """Whether a thing, other than 0 in a mask (h, w), covers more of its box of that size than strokes do."""
    return max(width, height) < SLIM * min(width, height) and cv2.countNonZero(thing) > SOLID * width * height


def _fills(mask: Bytes) -> bool:
    """Whether one thing reaches from side to side, broader than lines that are across a digit."""
    if cv2.connectedComponents(mask)[0] > 2:
        return False
    x, y, w, h = cv2.boundingRect(cv2.erode(mask, np.ones((3, 3), np.uint8)))
    return (y < 3 and y + h > SIDE - 3) or (x < 3 and x + w > SIDE - 3)


def _is_written(mask: Bytes) -> bool:
    """Whether what fills a picture is no broader than a pen and covers none of its sides, as tables and shadows do."""
    if cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3).max() > BROADEST:
        return False
    return bool(max(mask[[0, -1]].mean(axis=1).max(), mask[:, [0, -1]].mean(axis=0).max()) < ALONG)


def _refitted(upright: Bytes, base: float, span: float, mask: Bytes) -> Bytes:
    """The ink alone, between base and base + span, as MNIST would have it."""
    ink = np.clip((upright.astype(np.float32) - base) / span, 0, 1)
    return fit(np.asarray(ink, np.float32), stroke_of(mask))


def recentred(image: Bytes) -> Bytes:
    """Moved by whole pixels until the centre of mass is in the middle; what leaves the frame is lost."""
    x, y = _off_middle(image)
    shift = np.array([[1, 0, -round(x)], [0, 1, -round(y)]], np.float32)
    return np.asarray(cv2.warpAffine(image, shift, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def off_centre(image: Bytes) -> float:
    """How far the centre of mass is from the middle of 28 × 28, in pixels along the worse axis."""
    x, y = _off_middle(image)
    return max(abs(x), abs(y))


def _off_middle(image: Bytes) -> tuple[float, float]:
    """The centre of mass as seen from the middle of 28 × 28, in pixels to the right and down."""
    moments = cv2.moments(image)
    mass, middle = max(moments["m00"], 1.0), (SIDE - 1) / 2
    return moments["m10"] / mass - middle, moments["m01"] / mass - middle


def stroke_of(mask: Bytes) -> float:
    """How wide the strokes of a mask (h, w) of 0 and 1 are, in pixels: twice the area by the length of the rim."""
    area = int(mask.sum())
    inner = int(cv2.erode(np.pad(mask, 1), np.ones((3, 3), np.uint8)).sum())
    return 2.0 * area / max(area - inner, 1)
