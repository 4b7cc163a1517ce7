"""What is not one digit: letters, signs, words, several digits, scribbles, drawings, things, clothes, faces, textures,
noise, blank pages; as the model would get them, or as they are sent.

Digits go in (for the kinds that are made of them), pictures and the names of their kinds come out. What a person would
read as one digit is kept away: letters that share a digit's shape are left out (see `handwriting.LETTERS` and
`glyphs`), and so is whatever ends up as a plain bar (1) or ring (0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from digits import glyphs, imaging, objects, patterns, silhouettes, sketches
from digits.handwriting import SIDE, Field, curve, field_of
from digits.imaging import Reading
from digits.ink import Bytes, Floats
from digits.pens import Pen, depth_of
from digits.photographer import likeness, looks_at, reads_as_bar_or_ring, reference, shoot
from digits.segmenter import Segmenter, reduced
from digits.workers import Progress, in_order

Generator = np.random.Generator


# Kinds made of ink, drawn with any pen, straight or photographed.
_INKED: dict[str, Callable[[Generator], Field]] = {
    "handwritten letters": sketches.letter,
    "handwritten signs": sketches.sign,
    "printed letters": partial(sketches.glyph, glyphs.LATIN, glyphs.LATIN_FONTS),
    "Greek letters": partial(sketches.glyph, glyphs.GREEK, glyphs.WIDE_FONTS),
    "Cyrillic letters": partial(sketches.glyph, glyphs.CYRILLIC, glyphs.WIDE_FONTS),
    "Hebrew and Arabic letters": partial(sketches.glyph, glyphs.HEBREW_ARABIC, glyphs.WIDE_FONTS[:2]),
    "symbols": lambda rng: sketches.glyph(glyphs.symbols(), glyphs.WIDE_FONTS[:1], rng),
    "words": sketches.word,
    "scribbles": sketches.scribble,
    "curves": sketches.curves,
    "shapes": sketches.shape,
    "drawings": sketches.drawing,
}
# Kinds in grey, shown as they are or taken for a picture by imaging.
_GREY: dict[str, Callable[[Generator], Bytes]] = {
    "things": objects.things,
    "clothes": silhouettes.clothes,
    "knitwear": silhouettes.knitwear,
    "faces": silhouettes.face,
    "buildings": patterns.buildings,
    "flowers": patterns.flowers,
    "clouds": patterns.clouds,
    "noise": patterns.noise,
    "blanks": patterns.blank,
    "gradients": patterns.gradient,
    "stripes": patterns.stripes,
    "checkerboards": patterns.checkerboard,
    "barcodes": patterns.barcode,
}
TRIES = 50
PICKED = 0.6  # as alike as this are a digit and what imaging makes of it
_OF_DIGITS = ("several digits", "fragments", "scratched out", "empty pages")

HELD_OUT_KINDS = ("Cyrillic letters", "knitwear", "flowers", "barcodes")
TRAINED_KINDS = tuple(kind for kind in (*_INKED, *_GREY, *_OF_DIGITS) if kind not in HELD_OUT_KINDS)
# Kinds without a digit or a part of one, from which the segmenter learns what is none.
DIGITLESS_KINDS = tuple(kind for kind in TRAINED_KINDS if kind not in _OF_DIGITS[:3])
# Letters, clothes, faces and several digits are what users send by mistake: they get a larger share than stripes do.
_SHARES = {
    "handwritten letters": 10.0,
    "handwritten signs": 5.0,
    "printed letters": 4.0,
    "several digits": 3.0,
    "drawings": 4.0,
    "things": 10.0,
    "clothes": 3.0,
    "faces": 2.0,
    "buildings": 2.0,
    "noise": 2.0,
}


def _framed(grey: Floats, rng: Generator) -> Bytes:
    """Ink (any square, 0..1) as a thumbnail: mostly fitted and centred by mass as MNIST does, else placed by chance
    or filling the frame.
    """
    image = reference(grey)
    if rng.random() < 0.4:
        scale = rng.uniform(0.75, 1.35)
        turn = np.asarray(cv2.getRotationMatrix2D((13.5, 13.5), 0, scale), np.float64)
        turn[:, 2] += rng.normal(0, 1.5, 2)
        image = np.asarray(cv2.warpAffine(image, turn, (28, 28)), np.uint8)
    if rng.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9)), np.uint8)
    return image


class Thing(NamedTuple):
    """Something that is no digit, or several: a picture of it, and the thing by itself as a thumbnail, (28, 28).

    `thumbnail`: the picture is one, too, and what the network is shown; else imaging is first. `digits`, each (28, 28):
    what it is made of.
    """

    picture: Bytes
    plain: Bytes
    thumbnail: bool = False
    digits: tuple[Bytes, ...] = ()


def _drawn(field: Field, rng: Generator) -> Floats:
    width = float(np.exp(rng.uniform(np.log(0.05), np.log(0.16)))) if field.edge is None or rng.random() < 0.5 else 0.0
    depth = depth_of(field, Pen(width, 1.0, np.zeros(3, np.float32), 0.0), rng, 0.3)
    return np.asarray(np.clip(depth + 0.5, 0, 1), np.float32)


def drawn_digit(field: Field, rng: Generator) -> Bytes:
    """A field inked with a pen of chance width and framed as MNIST does: uint8 (28, 28)."""
    return reference(_drawn(field, rng))


def _inked(field: Field, rng: Generator) -> Thing:
    route, ink = rng.random(), _drawn(field, rng)
    plain = reference(ink)
    if route < 0.5:
        return Thing(shoot(field, rng, rng.uniform(0, 0.8)).picture, plain)
    if route < 0.6:
        large = np.rint(255 * ink).astype(np.uint8)
        return Thing(large if rng.random() < 0.3 else 255 - large, plain)
    image = _framed(ink, rng)
    if route >= 0.75:
        return Thing(image, plain, thumbnail=True)
    return Thing(image if rng.random() < 0.7 else 255 - image, plain)


def _grey(picture: Bytes, rng: Generator) -> Thing:
    route, small = rng.random(), _small(picture)
    if route < 0.35:
        return Thing(small, small, thumbnail=True)
    if route < 0.5:
        return Thing(small if rng.random() < 0.7 else 255 - small, small)
    large = picture if rng.random() < 0.7 else np.asarray(cv2.resize(picture, None, fx=2, fy=2), np.uint8)
    return Thing(large if rng.random() < 0.5 else _tinted(large, rng), small)


def _small(picture: Bytes) -> Bytes:
    return np.asarray(cv2.resize(picture, (28, 28), interpolation=cv2.INTER_AREA), np.uint8)


def _tinted(picture: Bytes, rng: Generator) -> Bytes:
    """A grey picture (h, w) in two colours: (h, w, 3)."""
    dark, light = sorted(rng.uniform(0, 255, (2, 3)), key=np.sum)
    if rng.random() < 0.5:  # nearly white
        light = 255 - 0.3 * rng.uniform(0, 255, 3)
    share = (picture / np.float32(255))[..., None]
    return np.asarray(dark + share * (light - dark), np.uint8)


def _arranged(digits: list[Bytes], rng: Generator) -> Bytes:
    """Two to four digits (28, 28) in one picture: in a row, stacked, in a square, or over each other."""
    trimmed = [d[:, max(0, np.flatnonzero(d.any(0))[0] - 1) : np.flatnonzero(d.any(0))[-1] + 2] for d in digits]
    layout = rng.choice(["row", "stack", "square", "overlap"], p=[0.5, 0.15, 0.2, 0.15])
    if layout == "square":
        four = [digits[i % len(digits)] for i in range(4)]
        return np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])
    if layout == "stack":
        return np.vstack(digits[:3])
    if layout == "overlap":
        canvas = np.zeros((40, 40), np.uint8)
        for digit in digits[:3]:
            y, x = rng.integers(0, 13, 2)
            canvas[y : y + 28, x : x + 28] = np.maximum(canvas[y : y + 28, x : x + 28], digit)
        return canvas
    gap = int(rng.integers(-2, 6))
    canvas = np.zeros((28, sum(t.shape[1] + gap for t in trimmed) + 30), np.uint8)
    x = 3
    for t in trimmed:
        y = int(rng.integers(-2, 3))
        moved = np.roll(t, y, 0)
        canvas[:, x : x + t.shape[1]] = np.maximum(canvas[:, x : x + t.shape[1]], moved)
        x += t.shape[1] + gap
    return canvas[:, : x + 3]


def _square(picture: Bytes) -> Bytes:
    height, width = picture.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(picture, ((top, side - height - top), (left, side - width - left)))


def _several(images: Bytes, labels: npt.NDArray[np.int64], rng: Generator) -> Thing:
    chosen = rng.integers(len(images), size=rng.integers(2, 5))
    # 1s alone are bars, whatever their number.
    if len(set(labels[chosen].tolist()) - {1}) < min(2, len(chosen) - 1) or not images[chosen].any((1, 2)).all():
        chosen = rng.integers(len(images), size=4)
        first, second, third, fourth = (images[i] for i in chosen)
        picture = np.vstack([np.hstack([first, second]), np.hstack([third, fourth])])
    else:
        picture = _arranged([images[i] for i in chosen], rng)
    square, route = _square(picture), rng.random()
    squeezed = _small(picture if route < 0.2 else square).astype(np.float32)
    small = np.rint(squeezed * (255 / max(float(squeezed.max()), 1))).astype(np.uint8)
    digits = tuple(reference(images[i] / np.float32(255)) for i in chosen)
    if route < 0.5:
        return Thing(small, small, thumbnail=True, digits=digits)
    sent = square if route < 0.6 else shoot(field_of(square), rng, rng.uniform(0, 0.6)).picture
    return Thing(sent, small, digits=digits)


def _fragment(images: Bytes, labels: npt.NDArray[np.int64], rng: Generator) -> Thing:
    """Less than 45% of a digit's ink, cut off by the frame; not of 0, 1, 7 and 9, whose parts are digits too."""
    fit = np.flatnonzero(np.isin(labels, (2, 3, 4, 5, 6, 8)))
    digit = images[fit[rng.integers(len(fit))]] if len(fit) else images[rng.integers(len(images))]
    angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.45)
    y, x = np.mgrid[:28, :28]
    across = np.cos(angle) * x + np.sin(angle) * y
    order = np.argsort(across, axis=None)
    ink = np.cumsum(digit.ravel()[order].astype(np.float64))
    cut = across.ravel()[order][np.searchsorted(ink, share * ink[-1])]
    kept = np.where(across < cut, digit, 0).astype(np.uint8)
    push = (
        np.array([[1, 0, np.cos(angle) * (28 - cut) * 0.3], [0, 1, np.sin(angle) * (28 - cut) * 0.3]])
        if rng.random() < 0.5
        else np.eye(3)[:2]
    )
    part = np.asarray(cv2.warpAffine(kept, push, (28, 28)), np.uint8)
    return Thing(part, part, thumbnail=True)


def _scratched(images: Bytes, rng: Generator) -> Thing:
    field = field_of(images[rng.integers(len(images))])
    left, top, width, height = field.box
    n = int(rng.integers(9, 22))
    across = (
        np.linspace(left - 5, left + width + 5, n) if rng.random() < 0.5 else rng.uniform(left - 5, left + width + 5, n)
    )
    down = np.where(np.arange(n) % 2 == 0, top, top + height) + rng.normal(0, 0.12 * height, n)
    points = np.stack([across, down], 1)
    if rng.random() < 0.3:
        points = points[:, ::-1]
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    cv2.polylines(canvas, [np.rint(curve(points) * 16).astype(np.int32)], False, 1, 1, cv2.LINE_8, 4)
    scratch = cv2.distanceTransform(1 - canvas, cv2.DIST_L2, 5)
    edge = np.maximum(
        field.edge if field.edge is not None else -field.distance, np.float32(rng.uniform(2.5, 6)) - scratch
    )
    x, y, w, h = cv2.boundingRect((edge > 0).astype(np.uint8))
    both = Field(
        np.minimum(field.distance, scratch), np.asarray(edge, np.float32), (float(x), float(y), float(w), float(h))
    )
    return _inked(both, rng)


_NOTHING = Field(np.full((SIDE, SIDE), 1e3, np.float32), None, (20.0, 20.0, 100.0, 100.0))


def _make(kind: str, images: Bytes, labels: npt.NDArray[np.int64], rng: Generator) -> Thing:
    if kind in _INKED:
        return _inked(_INKED[kind](rng), rng)
    if kind in _GREY:
        return _grey(_GREY[kind](rng), rng)
    if kind == "several digits":
        return _several(images, labels, rng)
    if kind == "fragments":
        return _fragment(images, labels, rng)
    if kind == "scratched out":
        return _scratched(images, rng)
    return Thing(_empty_page(rng), np.zeros((28, 28), np.uint8))


def _empty_page(rng: Generator) -> Bytes:
    return shoot(_NOTHING, rng, rng.uniform(0.2, 1)).picture


@dataclass(frozen=True)
class _Source:
    """Kinds, each with its share, and the digits (n, 28, 28) with labels (n,) that some of them are made of."""

    images: Bytes
    labels: npt.NDArray[np.int64]
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(TRAINED_KINDS) - set(HELD_OUT_KINDS)
        if unknown or not self.kinds:
            every = sorted(TRAINED_KINDS + HELD_OUT_KINDS)
            raise ValueError(f"unknown kinds {sorted(unknown)}: expected some of {every}")

    def shown(self, segmenter: Segmenter | None, rng: Generator) -> tuple[Bytes, str]:
        """What the network may be shown of something, (28, 28), and its kind."""
        kind = _any_of(self.kinds, rng)
        for _ in range(TRIES):
            thing = _make(kind, self.images, self.labels, rng)
            image = thing.picture
            if not thing.thumbnail:
                candidates = imaging.interpret(thing.picture, segmenter).images
                image = np.asarray(candidates[rng.integers(len(candidates))], np.uint8)
            # Most of what imaging finds nothing in comes back black: a few of those are enough.
            if (image.any() or rng.random() < 0.2) and _is_none(image, thing):
                break
        return image, kind

    def read(self, segmenter: Segmenter | None, rng: Generator) -> tuple[Reading, str, bytes]:
        """What a service makes of something that it is sent, its kind, and the picture's sha256."""
        kind = _any_of(self.kinds, rng)
        for _ in range(TRIES):
            thing = _make(kind, self.images, self.labels, rng)
            if all(_is_none(image, thing) for image in _both_ways(thing.plain)):
                break
        digest = hashlib.sha256(thing.picture.tobytes()).digest()
        return imaging.interpret(thing.picture, segmenter), kind, digest


def _any_of(kinds: tuple[str, ...], rng: Generator) -> str:
    shares = np.array([_SHARES.get(kind, 1.0) for kind in kinds])
    return kinds[rng.choice(len(kinds), p=shares / shares.sum())]


def _both_ways(image: Bytes) -> tuple[Bytes, Bytes]:
    """Light on dark and dark on light: either may be the ink."""
    return image, 255 - image


def _is_none(image: Bytes, thing: Thing) -> bool:
    """Whether nobody would read a digit in it: no bar, no ring, and not one of the digits that the thing is made of, as
    one over itself, beside a 1, or picked by imaging may be read."""
    alike = (float(likeness(image[None], digit)[0]) for digit in thing.digits)
    return not reads_as_bar_or_ring(image) and all(likely < PICKED for likely in alike)


def _digitless(rng: Generator) -> list[Bytes]:
    kind = _any_of(DIGITLESS_KINDS, rng)
    if kind in _GREY:
        picture = _GREY[kind](rng)
        while any(map(reads_as_bar_or_ring, _both_ways(_small(picture)))):
            picture = _GREY[kind](rng)
        return [reduced(picture if rng.random() < 0.5 else _tinted(picture, rng))[0]]
    if kind not in _INKED:
        return [reduced(_empty_page(rng))[0]]
    field = _INKED[kind](rng)
    while reads_as_bar_or_ring(reference(_drawn(field, rng))):
        field = _INKED[kind](rng)
    # As digits are photographed, so that nothing but the digit makes the difference.
    return [look for look, _ in looks_at(field, rng)]


def make_outliers(
    images: Bytes,
    labels: npt.NDArray[np.int64],
    count: int,
    seed: int,
    *,
    kinds: tuple[str, ...] = TRAINED_KINDS,
    workers: int = 2,
    progress: Progress | None = None,
    segmenter: Segmenter | None = None,
) -> tuple[Bytes, list[str]]:
    """Make pictures that hold no single digit, to train on: uint8 (count, 28, 28) and each one's kind, in random order.

    A third comes straight as a thumbnail, the rest through a picture and imaging, of whose candidates any is taken.
    `images` (n, 28, 28) and `labels` (n,) are the digits that some kinds are made of. The same arguments give the same
    pictures, whatever `workers` is.
    """
    show = partial(_Source(images, labels, kinds).shown, segmenter)
    made = list(in_order(show, count, seed, workers, progress))
    return np.stack([image for image, _ in made]), [kind for _, kind in made]


def make_digitless(count: int, seed: int, *, workers: int = 2, progress: Progress | None = None) -> Bytes:
    """Make pictures of DIGITLESS_KINDS for a segmenter to find no digit in: uint8 (n, 3, 128, 128), as `reduced`
    gives them, count ≤ n, as what is small is often seen from closer too. The same arguments give the same pictures,
    whatever `workers` is.
    """
    return np.stack([look for looks in in_order(_digitless, count, seed, workers, progress) for look in looks])


def read_outliers(
    images: Bytes,
    labels: npt.NDArray[np.int64],
    count: int,
    seed: int,
    *,
    kinds: tuple[str, ...],
    workers: int = 2,
    progress: Progress | None = None,
    segmenter: Segmenter | None = None,
) -> tuple[list[Reading], list[str], str]:
    """Such pictures as a service is sent them, read back as it would: all candidates of each, each one's kind, and the
    sha256 of them all.

    What imaging makes of them is not looked at: that something has a part like a bar or a ring is no excuse. The
    pictures are the same ones whatever the segmenter.
    """
    read = partial(_Source(images, labels, kinds).read, segmenter)
    made = list(in_order(read, count, seed, workers, progress))
    fingerprint = hashlib.sha256(b"".join(digest for *_, digest in made)).hexdigest()
    return [reading for reading, *_ in made], [kind for _, kind, _ in made], fingerprint
