"""An ink map comes in; the strokes that belong together go out, the likeliest to be the digit first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from digits.ink import Floats, quantile

MOST_PARTS = 60
JOINED = 3  # from so many parts on, what was joined may be a line of writing that does not belong
ALONE = 0.4  # what the main part of such a shape counts at least, beside the whole
FRAMED = 0.25  # of a frame's shorter side, what a digit in it has at least
RINGED = 0.45  # of a ring's longer side: a 0 may have a dot or a stroke in it
ENOUGH, SAMPLE = 60, 2000  # pixels of a ring, and of these so many are looked at
THIN = 0.5  # of its box, what a ring has at most
BAND, ROUND = 0.25, 0.8  # a ring is no broader, as a share of its radius, and is closed in so many directions
FIELD = 8  # pixels that a field's shorter side has at least
HOLLOW = 0.02  # of a field's inside, how much the form's own lines may cover
RECTANGULAR = 0.87  # of the smallest rectangle around it, what a field of a form is at least: an ellipse is 0.79
OPEN, OPEN_ROWS = 0.1, 0.25  # of its height, how far halves of a digit draw back from each other, and in how many rows
LEVEL = 0.8  # of the height of two shapes together, what a pair of digits has in common
WIDE = 2.2  # times its height, what no digit is wider than
LINE = 0.04  # of its height, what a written 1 is wider than
LIKE = 0.75  # of the size of one field, what the next one's is at least
CUT = 0.36  # the share of its own darkness below which ink is blur or shadow
WINDOW = 0.15  # "its own": as a share of the long side, how far around a pixel of a patch that is more than a digit


Box = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True, slots=True)
class Shape:
    """Strokes taken as one thing.

    `box` is where it lies; `labels` the components it is made of; `mass` the ink in it; `level` its usual
    darkness; `stroke` its width; `sides` how many sides of the frame it touches; `score` how likely it is the digit;
    `pair` the boxes of two of its parts, the left one first, that stand beside each other as two digits do, if any.
    """

    box: Box
    labels: tuple[int, ...]
    mass: float
    level: float
    stroke: float
    sides: int
    score: float
    pair: tuple[Box, Box] | None = None

    @property
    def belief_of_sides(self) -> float:
        """How likely a thing that touches so many sides of the frame is a digit, 0..1."""
        return (1.0, 0.45, 0.12, 0.03, 0.02)[self.sides]

    @property
    def size(self) -> int:
        return max(self.box[2], self.box[3])

    @property
    def area(self) -> int:
        return self.box[2] * self.box[3]

    def overlap(self, other: Shape) -> int:
        """How many pixels of the two boxes are in both."""
        x, y, w, h = self.box
        a, b, c, d = other.box
        return max(0, min(x + w, a + c) - max(x, a)) * max(0, min(y + h, b + d) - max(y, b))


def components(ink: Floats, floor: float) -> tuple[NDArray[np.int32], list[Shape]]:
    """Connected ink above `floor`: the label map (h, w), and the components that are more than specks.

    Each is cut again at a third of its own darkness, so that blur and shadow around a dark stroke are left out. Where a
    patch is large or reaches the frame, and so may be a digit on the edge of a shadow or on squares, each place is cut
    at a third of what is around it as well.
    """
    height, width = ink.shape
    # How dark each patch of ink is, on half the pixels, of which the darkest of four is taken.
    pairs = np.maximum(ink[0 : height // 2 * 2 : 2], ink[1 : height // 2 * 2 : 2])
    half = np.maximum(pairs[:, 0 : width // 2 * 2 : 2], pairs[:, 1 : width // 2 * 2 : 2])
    raw = half > floor
    patches, stats = _connected(raw)
    cut = np.full(len(stats), np.inf, np.float32)
    chosen = _largest(stats, 2 * MOST_PARTS, 3)
    areas = stats[:, cv2.CC_STAT_AREA]
    starts, values = _by_label(patches[raw], half[raw], areas)
    places = starts[chosen] + (0.8 * (areas[chosen] - 1)).astype(np.int64)
    cut[chosen] = np.maximum(CUT * values[places].astype(np.float64), floor)
    level = np.take(cut, patches)
    wide = _more_than_a_digit(stats, half.shape) & np.isfinite(cut)
    if wide.any():
        reach = round(WINDOW * max(half.shape)) | 1
        around = cv2.dilate(cv2.blur(half, (3, 3)), np.ones((reach, reach), np.uint8))
        level = np.where(wide[patches], np.maximum(level, np.float32(CUT) * around), level)
    level = cv2.resize(level, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    level = cv2.copyMakeBorder(level, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    raw = ink > level
    labels, stats = _connected(raw)
    chosen = _largest(stats, MOST_PARTS, 6)
    areas = stats[:, cv2.CC_STAT_AREA]
    starts, values = _by_label(labels[raw], ink[raw], areas)
    # What touches nothing but its own kind, since neighbours are one component.
    inner = cv2.erode(raw.view(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    inside = np.bincount(labels[inner > 0], minlength=len(stats))
    shapes = []
    for label in chosen.tolist():
        x, y, w, h, area = stats[label].tolist()
        if max(w, h) < 3:
            continue
        stroke = 2.0 * area / max(area - int(inside[label]), 1)
        sides = (x <= 1) + (y <= 1) + (x + w >= width - 1) + (y + h >= height - 1)
        own = values[starts[label] : starts[label] + area]
        shape = Shape((x, y, w, h), (label,), float(own.sum()), float(own[area * 7 // 10]), stroke, sides, 0.0)
        shapes.append(_scored(shape, height, width))
    return labels, shapes


def without_frames(labels: NDArray[np.int32], shapes: list[Shape]) -> list[Shape]:
    """The components without the lines of a form and the rings around digits: what encloses another in a rectangle or
    an ellipse, and empty fields beside it; where there is one such alone, what is in it.

    A 0 encloses nothing of a digit's size.
    """
    frames: set[Shape] = set()
    insides: list[Box] = []
    sizes: list[int] = []
    for shape in shapes:
        if min(shape.box[2:]) <= FIELD or not _encloses_one_of(shape, shapes):
            continue
        fields = _fields(labels, shape)
        filled = [field for field in fields if _holds(field, FRAMED * min(field[2:]), shape, shapes)]
        sizes += [max(w, h) for _, _, w, h in filled]
        ringed = not fields and _holds(shape.box, RINGED * shape.size, shape, shapes) and _is_ring(_mask(labels, shape))
        if filled or ringed:
            frames.add(shape)
            insides += filled or [shape.box]
    if not frames:
        return shapes

    def empty(shape: Shape) -> bool:
        like = any(LIKE * size < shape.size < size / LIKE for size in sizes)
        return like and any(LIKE * shape.size < max(w, h) for _, _, w, h in _fields(labels, shape))

    left = [shape for shape in shapes if shape not in frames and not empty(shape)]
    if len(insides) == 1 and all(shape.size < max(insides[0][2:]) for shape in left):  # the rest is print beside it
        left = [shape for shape in left if _within(shape.box, insides[0])]
    return left


def encircles(labels: NDArray[np.int32], shape: Shape, others: list[Shape]) -> bool:
    """Whether a shape is a ring or a field around one of these, of another map of the same picture."""
    if len(shape.labels) > 1 or not any(
        _within(other.box, shape.box) and RINGED * shape.size < other.size < 0.9 * shape.size for other in others
    ):
        return False
    return bool(_fields(labels, shape)) or _is_ring(_mask(labels, shape))


def _encloses_one_of(frame: Shape, shapes: list[Shape]) -> bool:
    return any(_within(shape.box, frame.box) for shape in shapes if shape is not frame)


def _within(box: Box, around: Box) -> bool:
    x, y, w, h = around
    a, b, c, d = box
    return x <= a and y <= b and a + c <= x + w and b + d <= y + h


def _holds(field: Box, least: float, frame: Shape, shapes: list[Shape]) -> bool:
    """Whether something of a digit's size, more than `least` pixels, is in it."""
    return any(shape.size > least and _within(shape.box, field) for shape in shapes if shape is not frame)


def _mask(labels: NDArray[np.int32], shape: Shape) -> NDArray[np.uint8]:
    """One component in its box, 0 and 1."""
    x, y, w, h = shape.box
    return (labels[y : y + h, x : x + w] == shape.labels[0]).astype(np.uint8)


def _fields(labels: NDArray[np.int32], shape: Shape) -> list[Box]:
    """The rectangular holes of a component, turned or not: left, top, width, height of each."""
    x, y, _, _ = shape.box
    mask = _mask(labels, shape)
    outlines, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    fields: list[Box] = []
    for outline, level in zip(outlines, levels[0], strict=True):
        _, (width, height), _ = cv2.minAreaRect(outline)
        if level[3] < 0 or min(width, height) < FIELD or cv2.contourArea(outline) < RECTANGULAR * width * height:
            continue
        left, top, across, down = cv2.boundingRect(outline)
        inside = mask[top + down // 5 : top + down - down // 5, left + across // 5 : left + across - across // 5]
        if inside.mean() < HOLLOW:  # no stroke of a digit hangs on it
            fields.append((x + left, y + top, across, down))
    return fields


def _is_ring(mask: NDArray[np.uint8]) -> bool:
    """Whether all of it lies along an ellipse, and nearly all around it: the ends need not meet."""
    rows, columns = np.nonzero(mask)
    if not ENOUGH <= len(rows) <= THIN * mask.size:
        return False
    every = 1 + len(rows) // SAMPLE
    rows, columns = rows[::every], columns[::every]
    (x, y), (width, height), angle = cv2.fitEllipse(np.stack((columns, rows), axis=1).astype(np.float32))
    if not FIELD <= min(width, height) <= max(width, height) < 2 * min(width, height):
        return False
    turn = np.deg2rad(angle)
    right, down = columns - x, rows - y
    along = (right * np.cos(turn) + down * np.sin(turn)) / (width / 2)
    across = (down * np.cos(turn) - right * np.sin(turn)) / (height / 2)
    if quantile(np.abs(np.hypot(along, across) - 1).astype(np.float32), 0.98) > BAND:
        return False
    directions = np.histogram(np.arctan2(across, along), 36, (-np.pi, np.pi))[0]
    return bool(np.count_nonzero(directions) >= ROUND * len(directions))


def _more_than_a_digit(stats: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which components reach the frame of a map of that shape, or far across it."""
    height, width = shape
    x, y, w, h = stats[:, : cv2.CC_STAT_AREA].T
    wide = (x == 0) | (y == 0) | (x + w == width) | (y + h == height) | (np.maximum(w, h) > 0.7 * min(shape))
    return np.asarray(wide, np.bool_)


def _connected(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The label map of 8-connected components, 0 where there is none, and OpenCV's statistics (labels, 5)."""
    # Grana's algorithm takes a third of the default's time.
    _, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_GRANA
    )
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)


def _largest(stats: NDArray[np.int32], most: int, least_area: int) -> NDArray[np.int64]:
    """At most `most` labels of components of at least `least_area` pixels, the largest first."""
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = 1 + np.argsort(-areas)[:most]
    return np.asarray(order[areas[order - 1] >= least_area], np.int64)


def _by_label(labels: NDArray[np.int32], ink: Floats, areas: NDArray[np.int32]) -> tuple[NDArray[np.int64], Floats]:
    """The ink of every labelled pixel, sorted by label and then by darkness, and before it where each label starts.

    One sort of whole numbers: floats from 0 on are ordered as their bits are.
    """
    keys = labels.astype(np.int64) << 32 | ink.view(np.int32)
    keys.sort()
    starts = np.concatenate(([0, 0], np.cumsum(areas[1:])))[: len(areas)]
    return starts, keys.astype(np.int32).view(np.float32)


def _scored(shape: Shape, height: int, width: int) -> Shape:
    x, y, w, h = shape.box
    size = max(w, h)
    score = shape.mass / max(shape.stroke, 1.5)  # the length of the stroke times its darkness: blots don't win by area
    off = max(abs((x + w / 2) / width - 0.5), abs((y + h / 2) / height - 0.5)) * 2
    score *= 1.15 - 0.6 * off * off
    score *= shape.belief_of_sides
    if shape.sides and (w > 0.9 * width or h > 0.9 * height) and shape.sides < 3:
        score *= 0.3
    if shape.sides == 2 and (w >= width - 2 or h >= height - 2):
        score *= 0.3
    if size < max(0.035 * max(height, width), 9):
        score *= 0.1
    if w > WIDE * h:
        score *= 0.15
    if shape.stroke > 0.42 * size:
        score *= 0.3  # a blot, a thumb
    return replace(shape, score=score)


def grouped(shapes: list[Shape], height: int, width: int) -> list[Shape]:
    """Parts of one broken or detached shape joined; the result sorted, best score first.

    Something beside a shape joins it when the gap is hardly wider than the stroke; something above, below or within
    its box when it is smaller or near: the bar of a 5, the second stroke of a 4, gaps of a dry pen. Where many parts
    joined, or a line below, the first is there alone too, after them.
    """
    left = sorted(shapes, key=lambda s: -s.score)
    done: list[Shape] = []
    while left:
        main = alone = left.pop(0)
        lined, changed = False, True
        while changed:
            changed = False
            for other in left:
                if _belongs(main, other):
                    left.remove(other)
                    lined = lined or _underlines(other, main)
                    main = _joined(main, other, height, width)
                    changed = True
                    break
        done.append(main)
        if lined or len(main.labels) >= JOINED:
            done.append(replace(alone, score=float(np.clip(alone.score, ALONE * main.score, 0.9 * main.score))))
    return sorted(done, key=lambda s: -s.score)


def _belongs(main: Shape, other: Shape) -> bool:
    x, y, w, h = main.box
    a, b, c, d = other.box
    beside, apart = max(x - (a + c), a - (x + w)), max(y - (b + d), b - (y + h))
    size = max(h, w, d, c)
    stroke = max(min(main.stroke, other.stroke), 1.5)
    if max(beside, apart) > max(2.5 * stroke, 0.2 * size):
        return False  # further than any rule below allows
    if other.level < 0.4 * main.level or other.level > 3 * main.level:
        return False
    if other.stroke > 2.5 * main.stroke + 2 or other.mass < 0.004 * main.mass:
        return False
    if main.stroke > 2.5 * other.stroke + 2 and (main.sides or other.mass > 0.1 * main.mass):
        return False
    within = beside < 0 and apart < 0
    if (other.sides or main.sides) and not within and max(beside, apart) > 0.5 * stroke:
        return False  # what reaches in from outside belongs to something else
    union_w, union_h = max(x + w, a + c) - min(x, a), max(y + h, b + d) - min(y, b)
    if union_w > 1.5 * max(union_h, max(w, h)):
        return False
    if within:
        return not (w > WIDE * h and d > 0.4 * h)  # a row of open fields, as of a comb
    tall = d > 0.6 * h and d > 0.45 * c  # as high as the digit itself: perhaps its neighbour
    if beside >= 0:
        if apart >= 0:  # off a corner
            return max(beside, apart) <= max(1.2 * stroke, 0.06 * size)
        return beside <= (max(1.0 * stroke, 0.04 * size) if tall else max(1.8 * stroke, 0.13 * size))
    overlap = min(x + w, a + c) - max(x, a)
    if overlap < 0.3 * min(w, c):
        return apart <= max(1.5 * stroke, 0.07 * size)
    small = d < 0.4 * h and other.mass < 0.6 * main.mass
    return apart <= (max(2.5 * stroke, 0.2 * size) if small else max(1.5 * stroke, 0.07 * size))


def _underlines(other: Shape, main: Shape) -> bool:
    """Whether it lies below, flat and wide; it may as well be the foot of a 2."""
    _, y, w, h = main.box
    _, b, c, d = other.box
    return b > y + 0.85 * h and c > max(3 * d, 0.6 * w)


def _joined(main: Shape, other: Shape, height: int, width: int) -> Shape:
    x, y, w, h = main.box
    a, b, c, d = other.box
    left, top = min(x, a), min(y, b)
    w, h = max(x + w, a + c) - left, max(y + h, b + d) - top
    sides = (left <= 1) + (top <= 1) + (left + w >= width - 1) + (top + h >= height - 1)
    mass = main.mass + other.mass
    level = (main.level * main.mass + other.level * other.mass) / mass
    stroke = (main.stroke * main.mass + other.stroke * other.mass) / mass
    pair = main.pair or other.pair or _pair(main, other)
    labels = main.labels + other.labels
    return _scored(Shape((left, top, w, h), labels, mass, level, stroke, sides, 0, pair), height, width)


def _pair(main: Shape, other: Shape) -> tuple[Box, Box] | None:
    """The boxes of two shapes, if these stand beside each other as high, dark and broad in the stroke as two digits."""
    x, y, w, h = main.box
    a, b, c, d = other.box
    beside = max(x - (a + c), a - (x + w)) >= 0 and c <= 1.5 * d
    common, joint = min(y + h, b + d) - max(y, b), max(y + h, b + d) - min(y, b)
    alike = 0.6 < main.level / other.level < 1 / 0.6 and 0.5 < main.stroke / other.stroke < 2
    line = w < LINE * h or c < LINE * d  # of a form
    if line or not (beside and common > LEVEL * joint and alike):
        return None
    return (main.box, other.box) if x < a else (other.box, main.box)


def is_crowded(labels: NDArray[np.int32], shapes: list[Shape]) -> bool:
    """Whether there is another digit beside the first shape, or in it."""
    return bool(rivals(shapes)) or _is_of_two(labels, shapes[0])


def _is_of_two(labels: NDArray[np.int32], shape: Shape) -> bool:
    """Whether two of its parts are digits, and not halves of one, as of a broken 0: open towards each other, but at
    their head and foot, where they would meet."""
    if shape.pair is None or shape.sides:
        return False
    (_, y, _, h), (_, b, _, d) = shape.pair
    rows = slice(max(y, b), min(y + h, b + d))
    left, right = (np.isin(labels[rows, x : x + w], shape.labels) for x, _, w, _ in shape.pair)
    both = left.any(axis=1) & right.any(axis=1)
    # Which rows of each part draw back from where it is nearest to the other one.
    height = rows.stop - rows.start
    off = [side.argmax(axis=1) for side in (left[both, ::-1], right[both])]
    back, behind = (each - each.min() > OPEN * height for each in off)
    ends = slice(0, height // 4), slice(-(height // 4), None)
    meet = all(not side[end].all() for side in (back, behind) for end in ends)
    return not (meet and (back & behind).mean() > OPEN_ROWS)


def rivals(shapes: list[Shape]) -> list[Shape]:
    """The shapes beside the first that could be digits too: about as high, as heavy and as dark, inside the frame, and
    no line of a form, which is straighter and thinner for its length than a written 1."""
    main = shapes[0]
    found = []
    for other in shapes[1:]:
        *_, w, h = other.box
        if other.sides or other.size < 0.5 * main.size or h < 0.45 * main.box[3] or other.mass < 0.2 * main.mass:
            continue
        if w < LINE * h:
            continue
        if not 0.4 < other.level / main.level < 2.5 or not 0.4 < other.stroke / main.stroke < 2.5 or w > 2 * h:
            continue
        if main.overlap(other) < 0.3 * min(main.area, other.area):
            found.append(other)
    return found
