"""The bytes or pixels of any picture of a digit come in; what the network reads goes out: a few 28×28 candidates as
MNIST would have them.

What a program made of it undone (digits.originals), paper put around a digit that was cut out (digits.margins), light
flattened and ink found (digits.ink), rulings erased (digits.rulings), strokes chosen (digits.shapes), and besides all
of it by a network that has learnt what strokes are (digits.segmenter); then fitted as MNIST's makers did: into 20×20
with anti-aliasing, the centre of mass in the middle of 28×28 (LeCun et al., 1998).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from digits import ink as inks
from digits.decoding import ImageError, Limits, decode
from digits.ink import Bytes, Floats
from digits.margins import with_margin
from digits.originals import original
from digits.rulings import without_rulings
from digits.segmenter import Segmenter
from digits.shapes import JOINED, Shape, components, encircles, grouped, is_crowded, without_frames
from digits.thumbnails import FLAT, SAME, SIDE, as_mnist, fit, thumbnail

__all__ = ["ImageError", "Limits", "Reading", "decode", "interpret", "read"]

cv2.setNumThreads(1)  # pictures are read side by side in a pool: threads inside one only get in the way

THUMBNAIL = 40  # up to this long side the picture is looked at as it is, too
WORK_SIDE = 400  # things are found on a picture of this size
DETAIL = 64  # a picture smaller than twice this is enlarged
LARGE = 1024  # beyond this the segmenter's first look is at the picture that things are found on
LONG = 0.4  # of the long side, what is no longer than that may be a digit that the segmenter overlooks from afar
MOST = 6  # candidates, besides the segmenter's
# What a view's first shape, and its others, must score beside the best of all to be offered.
FIRST, OTHERS = 0.05, 0.3
DOUBT = 0.05  # ink of a polarity that is less likely than this is not looked for
BELIEF_IN_TINT = 0.8
# How wide a stroke may be, as a share of the picture's short side: as a rule, of a thick marker, of a digit that fills
# the picture, of a thin pen.
STROKE, MARKER, BRUSH, HAIR = 0.14, 0.3, 0.6, 0.07


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What may be seen in a picture.

    `images`, uint8 (k, 28, 28), 1 ≤ k ≤ 10: the candidates, light ink on black, likeliest first; after these what a
    segmenter saw, unless it is like another, and a picture of few pixels as it is. `crowded`: there are several things
    as large as a digit. `blank`: there is no ink. `photograph`: it was looked at as one, so that edges, rulings and
    rims may be among the candidates. `apart`, k numbers from 0 to 1: how far each candidate is from what a segmenter
    saw, as the mean difference of their pixels in full scales; empty where none looked, or saw nothing. `present`, from
    0 to 1: how likely there is a digit, for what a segmenter saw of the picture as a whole and of a small digit from
    closer; 1 where none looked. `unseen`: one looked and saw no strokes in what is too long to be overlooked.
    """

    images: Bytes
    crowded: bool = False
    blank: bool = False
    photograph: bool = False
    apart: tuple[float, ...] = ()
    present: float = 1.0
    unseen: bool = False

    @property
    def seen(self) -> int:
        """The candidate that a segmenter saw, or one like it; the first where none looked."""
        return self.apart.index(min(self.apart)) if self.apart else 0


BLANK = Reading(np.zeros((1, SIDE, SIDE), np.uint8), blank=True)


def read(data: bytes, limits: Limits = Limits(), segmenter: Segmenter | None = None) -> Reading:  # noqa: B008  (frozen)
    """Reads an image file, with what a model's segmenter sees in it if there is one; raises ImageError as `decode`
    does."""
    return interpret(decode(data, limits), segmenter)


def interpret(picture: Bytes, segmenter: Segmenter | None = None) -> Reading:
    """Reads pixels, uint8 (h, w) grey or (h, w, 3) RGB, of any size from 1×1. Raises ValueError for anything else."""
    if (
        picture.dtype != np.uint8
        or picture.ndim not in (2, 3)
        or picture.shape[2:] not in ((), (3,))
        or not picture.size
    ):
        raise ValueError(f"expected uint8 (h, w) or (h, w, 3), got {picture.dtype} {picture.shape}")
    darkest, brightest = cv2.minMaxLoc(picture.reshape(-1))[:2]
    if brightest - darkest < FLAT:
        return BLANK
    if max(picture.shape[:2]) > THUMBNAIL:
        picture = original(picture)
    height, width = picture.shape[:2]
    if max(height, width) <= THUMBNAIL:
        images, sure = thumbnail(picture)
        if not images:
            return BLANK
        small = Reading(images[0][None] if len(images) == 1 else np.stack(images))
        return small if sure else _both(_photograph(picture, segmenter), small)
    if 0.9 < height / width < 1.1:
        enlarged = as_mnist(picture)
        if enlarged is not None:
            return Reading(enlarged[None])
    return _photograph(picture, segmenter)


def _both(photograph: Reading, small: Reading) -> Reading:
    """A picture of few pixels that may be a photograph: what was found in it, and then the picture as it is."""
    if photograph.blank:
        return small
    seen = photograph.images[photograph.seen]
    others = [image for image in small.images if min(_apart(image, other) for other in photograph.images) > SAME]
    apart = (*photograph.apart, *(_apart(seen, image) for image in others)) if photograph.apart else ()
    return replace(photograph, images=np.stack((*photograph.images, *others)), apart=apart)


def _with(reading: Reading, image: Bytes | None, present: float, long: bool) -> Reading:
    """A reading with what a segmenter saw: one more candidate, unless it has one like it; `long` is what rules saw."""
    reading = replace(reading, present=present)
    if image is None:
        return replace(reading, unseen=long)
    apart = tuple(_apart(image, other) for other in reading.images)
    if min(apart) <= SAME:
        return replace(reading, apart=apart)
    return replace(reading, images=np.concatenate((reading.images, image[None])), apart=(*apart, 0.0))


def _apart(image: Bytes, other: Bytes) -> float:
    return float(cv2.absdiff(image, other).mean()) / 255


@dataclass(frozen=True, slots=True)
class _View:
    """One way to see the picture: a map, of ink or of hues (`tinted`), the components on it, the shapes they make."""

    ink: Floats
    labels: NDArray[np.int32]
    shapes: list[Shape]
    dark_ink: bool
    belief: float
    tinted: bool = False

    @property
    def score(self) -> float:
        return self.belief * self.shapes[0].score if self.shapes else 0.0


def _photograph(picture: Bytes, segmenter: Segmenter | None) -> Reading:
    work = inks.scaled(picture, WORK_SIDE)
    around = with_margin(picture, work)
    if around is not picture:
        picture, work = around, inks.scaled(around, WORK_SIDE)
    if min(work.shape[:2]) < 4:  # a strip so thin that nothing can be written on it
        return BLANK
    if max(work.shape[:2]) < 2 * DETAIL:
        work = np.asarray(cv2.resize(work, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)
    page = inks.Page(work)
    dark = page.darkness_of_ink()
    order = [(True, dark), (False, 1 - dark)]
    order.sort(key=lambda pair: -pair[1])
    views: list[_View] = []
    for dark_ink, belief in order:
        if belief >= DOUBT or not views:
            views += _look(page, dark_ink, belief)
    if page.tint is not None:
        views += [replace(view, tinted=True) for view in _views(page.tint, True, BELIEF_IN_TINT)]
    if not views:
        return BLANK
    views = [view for view in views if not any(_shadowed(view, other) for other in views)]
    views.sort(key=lambda view: -view.score)
    reading = _reading(views)
    if segmenter is None or reading.blank:
        return reading
    long = views[0].shapes[0].size > LONG * max(work.shape[:2])
    return _with(reading, *segmenter.digit(picture, work if max(picture.shape) > LARGE else None), long)


def _shadowed(view: _View, other: _View) -> bool:
    """Whether a view shows only what is left between the strokes of the other polarity: the hole of a 0, a halo."""
    if view.dark_ink == other.dark_ink or view.belief > 0.7:
        return False
    mine, its = view.shapes[0], other.shapes[0]
    if mine.overlap(its) < 0.6 * min(mine.area, its.area):
        return False
    return its.level * its.belief_of_sides > 1.2 * mine.level * mine.belief_of_sides


def _reading(views: list[_View]) -> Reading:
    best = views[0].score
    images: list[Bytes] = []
    offered: list[Shape] = []
    for view in views:
        for shape, share in zip(view.shapes, (FIRST, OTHERS, OTHERS), strict=False):
            if view.belief * shape.score < share * best or len(images) == MOST:
                break
            if view.tinted and any(_part(shape, other) for other in offered):
                continue  # where a pen is nearly dry, or dark, it has little colour
            if view.tinted and encircles(view.labels, shape, [other.shapes[0] for other in views if other is not view]):
                continue  # in another pen than the digit
            image = _drawn(view, shape)
            if image.any() and all(_apart(image, other) > SAME for other in images):
                images.append(image)
                offered.append(shape)
    if not images:
        return BLANK
    return Reading(np.stack(images), crowded=is_crowded(views[0].labels, views[0].shapes), photograph=True)


def _part(shape: Shape, whole: Shape) -> bool:
    """Whether a shape lies in another, in one piece or two and off the frame, and is clearly smaller."""
    inside = shape.overlap(whole) > 0.9 * shape.area and shape.area < 0.8 * whole.area
    return inside and len(whole.labels) < JOINED and not whole.sides


def _look(page: inks.Page, dark_ink: bool, belief: float) -> list[_View]:
    """The picture seen with ink of one polarity: with rulings erased and, where that is in doubt, with them."""
    ink = page.ink(dark_ink, STROKE)
    views = _views(ink, dark_ink, belief)
    first, its_ink = (views[0].shapes[0], views[0].ink) if views else (None, ink)
    short = min(page.shape)
    if first is None or first.stroke > 0.05 * short or first.size > 0.6 * short:
        # A brush so broad, or a digit so large, that the ground under it may have been taken from the ink itself.
        for stroke in (BRUSH, MARKER):
            wider = _views(page.ink(dark_ink, stroke), dark_ink, belief)
            if not wider:
                continue
            if first is None or _hollow(first, wider[0].shapes[0]):
                views, first, its_ink = wider, wider[0].shapes[0], wider[0].ink
            elif wider[0].shapes[0].score > 1.5 * first.score:
                views = [wider[0], *views]  # or a shadow as broad as that: the model sees which
    if first is None or first.sides or first.stroke > 0.3 * first.size or _uneven(first, its_ink):
        # A thumb, a shadow or the table: thin strokes remain when the ground follows everything broader.
        views += _views(page.ink(dark_ink, HAIR), dark_ink, belief)
    if first is not None and first.sides >= 2:
        # Squares too small to be followed: the pen is what is much darker than they are.
        views += _views(ink, dark_ink, belief, floor=0.45 * inks.quantile(ink, 0.997))
    if not views:
        soft = cv2.GaussianBlur(ink, (0, 0), 2)
        views += _views(np.asarray(soft, np.float32), dark_ink, belief, faint=True)
    return views


def _uneven(shape: Shape, ink: Floats) -> bool:
    """Whether something in a shape is so much darker than the rest that the rest may be a shadow's edge."""
    x, y, w, h = shape.box
    return float(ink[y : y + h, x : x + w].max()) > 3 * shape.level


def _hollow(narrow: Shape, wide: Shape) -> bool:
    """Whether a shape was only the outline, or a part, of the one found on a wider ground."""
    return wide.mass > 1.4 * narrow.mass and wide.sides <= max(narrow.sides, 2) and wide.stroke > 1.2 * narrow.stroke


def _views(ink: Floats, dark_ink: bool, belief: float, faint: bool = False, floor: float = 0.0) -> list[_View]:
    cleared, ruled, sure = without_rulings(ink)
    views = [_view(cleared, dark_ink, belief, faint, floor)]
    if ruled and not sure:
        views.append(_view(ink, dark_ink, 0.5 * belief, faint, floor))
    return [view for view in views if view.shapes]


def _view(ink: Floats, dark_ink: bool, belief: float, faint: bool, floor: float) -> _View:
    height, width = ink.shape
    labels, parts = components(ink, max(floor, inks.noise_floor(ink, 2.5 if faint else 4.0)))
    shapes = grouped(without_frames(labels, parts), height, width)
    least = (0.1 if faint else 0.025) * max(height, width)
    return _View(ink, labels, [shape for shape in shapes if shape.size >= max(least, 8)], dark_ink, belief)


def _drawn(view: _View, shape: Shape) -> Bytes:
    """One shape, alone, as MNIST would have it."""
    ink, labels = view.ink, view.labels
    chosen = np.zeros(int(labels.max()) + 1, np.uint8)
    chosen[list(shape.labels)] = 1
    x, y, w, h = shape.box
    margin = 3
    top, left = max(0, y - margin), max(0, x - margin)
    bottom, right = min(ink.shape[0], y + h + margin), min(ink.shape[1], x + w + margin)
    mask = chosen[labels[top:bottom, left:right]]
    part = ink[top:bottom, left:right]
    near = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    low, high = 0.2 * shape.level, shape.level
    alpha = np.clip((part - low) / max(high - low, 1), 0, 1) * near
    return fit(np.asarray(alpha, np.float32), shape.stroke, broken=len(shape.labels) > 1)
