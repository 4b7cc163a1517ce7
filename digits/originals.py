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
SEEN = 0.02  # of it, what is other than its usual colour, at least: a bar drawn for a 1 has less
SLIM = 1.5  # times as long as broad: beyond that a rectangle with holes and a rim of one colour may be an 8
SOFT = 0.05  # of its height or width, the rim of an enlarged picture that is a mixture with the page, at most


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
    for lines in (picture, picture.swapaxes(0, 1)):
        changed = (lines[1:] != lines[:-1]).reshape(len(lines) - 1, -1).any(axis=1)
        often = int(np.gcd.reduce(np.flatnonzero(changed) + 1, initial=often))
    if often < 2 or min(picture.shape[:2]) < LEAST * often:
        return picture
    return np.ascontiguousarray(picture[::often, ::often])


def without_page(picture: Bytes) -> Bytes:
    """The one rectangle with something in it that lies on a page of one colour."""
    page = _colour_along(picture)
    if page is None:
        return picture
    other = _other(picture, page)
    left, top, width, height = cv2.boundingRect(other)
    if min(width, height) < LEAST:
        return picture
    box = np.s_[top : top + height, left : left + width]
    mask, inside = other[box], picture[box]
    if min(side.mean() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) < ALL_ALONG:
        return picture
    usual = np.median(inside.reshape(-1, *picture.shape[2:]), axis=0).astype(np.uint8)
    if mask.mean() < 1 - HOLES or _other(inside, usual).mean() < SEEN:
        return picture
    inside = _sharp(inside)
    if max(width, height) > SLIM * min(width, height) and _colour_along(inside) is not None:
        return picture
    return np.ascontiguousarray(inside)


def _colour_along(picture: Bytes) -> Bytes | None:
    """The one colour along the four sides, uint8 () or (3,); None where there are several."""
    sides = np.concatenate((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    low, high = sides.min(axis=0), sides.max(axis=0)
    return None if (high - low).max() > PLAIN else low + (high - low) // 2


def _other(picture: Bytes, colour: Bytes) -> Bytes:
    """1 where a picture is other than a colour in any channel, uint8 (h, w), and 0 elsewhere."""
    apart = cv2.absdiff(picture, np.broadcast_to(colour, picture.shape))
    most = apart if apart.ndim == 2 else apart.max(axis=2)
    return np.asarray(cv2.threshold(most, OTHER, 1, cv2.THRESH_BINARY)[1], np.uint8)


def _sharp(picture: Bytes) -> Bytes:
    """Without the lines along a side that are on the way from one colour to that of the next line."""
    for _ in range(4):
        most = 2 + int(SOFT * len(picture))
        rim = picture[: most + 1].astype(int)
        steep = np.abs(np.diff(rim, axis=0)).reshape(len(rim) - 1, -1).mean(axis=1) > PLAIN
        picture = np.rot90(picture[0 if steep.all() else int(steep.argmin()) :])
    return picture
