"""A picture that a program has enlarged or laid on a page comes in; the picture as it was goes out."""

from __future__ import annotations

import cv2
import numpy as np

from digits.ink import Bytes

LEAST = 8  # pixels of the short side that a picture had before its pixels were repeated: as scikit-learn's digits
PLAIN = 12  # levels: what a colour differs by from itself, at most
OTHER = 24  # levels: what differs by more from a page is none
ALL_ALONG = 0.95  # of each of its sides, what is other than the page around it, at least
HOLES = 0.25  # of a picture, what is like the page around it, at most: a drawn frame has more
SEEN = 0.02  # of its inside, what is other than its usual colour, at least: a bar drawn for a 1 has less
SQUARE, SLIM = 1.2, 2.0  # times as long as broad, at most: a tile with a digit in the page's colour; any picture
SOFT = 0.05  # of its height or width, the rim of an enlarged picture that is a mixture with the page, at most
SAMPLE = 16  # lines that mostly tell whether a picture was enlarged
ENOUGH = 128  # pixels of a side, on which colours are counted


def original(picture: Bytes) -> Bytes:
    """What was laid on a page of one colour, with each pixel once; any other picture as it is.

    `picture` is uint8 (h, w) or (h, w, 3), and so is what is given back.
    """
    for _ in range(3):  # a page that was enlarged, a picture on it, which was enlarged before
        once = without_page(unrepeated(picture))
        if once.shape == picture.shape:
            break
        picture = once
    return picture


def unrepeated(picture: Bytes) -> Bytes:
    """Each pixel once, where all of them were repeated as often, both ways."""
    often = int(np.gcd(*picture.shape[:2]))
    for lines in (picture, picture.swapaxes(0, 1)):
        if often < 2 or not np.array_equal(lines[0], lines[1]):  # nearly all pictures end here
            return picture
        if _alike(lines[:, :: lines.shape[1] // SAMPLE | 1], often) < 2:  # and drawings here
            return picture
    for lines in (picture, picture.swapaxes(0, 1)):
        often = _alike(lines, often)
    if often < 2 or min(picture.shape[:2]) < LEAST * often:
        return picture
    return np.ascontiguousarray(picture[::often, ::often])


def _alike(lines: Bytes, most: int) -> int:
    """By how many of its lines, a divisor of `most`, a picture goes on at a time before it changes."""
    changed = (lines[1:] != lines[:-1]).reshape(len(lines) - 1, -1).any(axis=1)
    return int(np.gcd.reduce(np.flatnonzero(changed) + 1, initial=most))


def without_page(picture: Bytes) -> Bytes:
    """The one rectangle with something in it that lies on a page of one colour, or between two bars of one."""
    page = _colour_of(picture[[0, -1]])
    if page is None:
        page = _colour_of(picture[:, [0, -1]])
    if page is None:
        return picture
    other = _other(picture, page)
    left, top, width, height = cv2.boundingRect(other)
    if min(width, height) < LEAST or max(width, height) > SLIM * min(width, height):
        return picture
    box = np.s_[top : top + height, left : left + width]
    mask = other[box]
    sides = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    if min(side.mean() for side in sides) < ALL_ALONG or mask.mean() < 1 - HOLES:
        return picture
    inside = np.ascontiguousarray(_sharp(picture[box]))
    content, like_page = _parts(inside, page)
    # What is drawn in the page's colour may be the holes of a 0 or an 8 with straight sides, but for a square.
    if content < SEEN or (like_page > 0.5 and max(width, height) > SQUARE * min(width, height)):
        return picture
    return inside


def _colour_of(lines: Bytes) -> Bytes | None:
    """The one colour of some lines, uint8 () or (3,); None where there are several. `lines` is (a, b) or (a, b, 3)."""
    low, high = lines.min(axis=(0, 1)), lines.max(axis=(0, 1))
    return None if (high - low).max() > PLAIN else low + (high - low) // 2


def _other(picture: Bytes, colour: Bytes) -> Bytes:
    """1 where a picture is other than a colour in any channel, uint8 (h, w), and 0 elsewhere."""
    apart = cv2.absdiff(picture, (*np.atleast_1d(colour).tolist(), 0, 0, 0)[:4])
    most = apart if apart.ndim == 2 else cv2.max(cv2.max(apart[..., 0], apart[..., 1]), apart[..., 2])
    return np.asarray(cv2.threshold(most, OTHER, 1, cv2.THRESH_BINARY)[1], np.uint8)


def _parts(picture: Bytes, page: Bytes) -> tuple[float, float]:
    """How much of a picture is of another colour than most of it, and how much of that is like the page, both as
    shares; well within its sides, which may be soft."""
    height, width = picture.shape[:2]
    down, across = 2 + int(SOFT * height), 2 + int(SOFT * width)
    core = picture[down : height - down : max(1, height // ENOUGH), across : width - across : max(1, width // ENOUGH)]
    if not core.size:
        return 0.0, 0.0
    core = np.ascontiguousarray(core)
    seen = _other(core, np.median(core, axis=(0, 1)).astype(np.uint8)) > 0
    return float(seen.mean()), 1 - float(_other(core, page)[seen].mean()) if seen.any() else 0.0


def _sharp(picture: Bytes) -> Bytes:
    """Without the lines along a side that are on the way from one colour to that of the next line."""
    for _ in range(4):
        most = 2 + int(SOFT * len(picture))
        rim = picture[: most + 1].astype(int)
        steep = np.abs(np.diff(rim, axis=0)).reshape(len(rim) - 1, -1).mean(axis=1) > PLAIN
        picture = np.rot90(picture[0 if steep.all() else int(steep.argmin()) :])
    return picture
