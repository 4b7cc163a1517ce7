"""Things a pen draws that are no digit: letters, signs, words, scribbles, curves, shapes and drawings.

A random generator goes in, a field to ink comes out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from digits import glyphs
from digits.handwriting import LETTERS, SIGNS, Field, curve, field_of, field_of_strokes, strokes_of

Stroke = npt.NDArray[np.float64]


def letter(rng: np.random.Generator) -> Field:
    """A letter written by hand, upper or lower case."""
    return field_of_strokes(_written(LETTERS, rng), rng, slant=0.2)


def sign(rng: np.random.Generator) -> Field:
    """A question mark, a percent sign, a tick or another sign, written by hand."""
    return field_of_strokes(_written(SIGNS, rng), rng, slant=0.2)


def _written(characters: dict[str, tuple[str, ...]], rng: np.random.Generator) -> list[Stroke]:
    """Any of the characters in any of its forms."""
    forms = list(characters.values())[rng.integers(len(characters))]
    return strokes_of(forms[rng.integers(len(forms))], rng, 0.35)


def word(rng: np.random.Generator) -> Field:
    """Two to seven letters, printed, or two to five, written."""
    if rng.random() < 0.5:
        return field_of(glyphs.word(rng))
    strokes, x = [], 0.0
    for _ in range(rng.integers(2, 6)):
        strokes += [stroke + np.array([x, 0]) for stroke in _written(LETTERS, rng)]
        x += rng.uniform(9, 13)
    return field_of_strokes(strokes, rng)


def scribble(rng: np.random.Generator) -> Field:
    """One long stroke that goes nowhere."""
    wandering = np.cumsum(rng.normal(0, 1, (rng.integers(15, 50), 2)), 0)
    jumping = rng.uniform(0, 10, (rng.integers(9, 25), 2))
    return field_of_strokes([curve(wandering if rng.random() < 0.5 else jumping)], rng)


def curves(rng: np.random.Generator) -> Field:
    """Five to nine short strokes across each other."""
    return field_of_strokes(
        [curve(rng.uniform(0, 10, (rng.integers(2, 5), 2))) for _ in range(rng.integers(5, 10))], rng
    )


def _lines(points: str) -> Stroke:
    """A straight-edged stroke through points "xy" on a grid of eleven, in hexadecimal."""
    return np.array([[int(point[0], 16), int(point[1], 16)] for point in points.split()], np.float64)


def _oval(x: float, y: float, across: float, down: float) -> Stroke:
    t = np.linspace(0, 2 * np.pi, 40)
    return np.stack([x + across * np.cos(t), y + down * np.sin(t)], 1)


def _rays(x: float, y: float, inner: float, outer: float, number: int) -> list[Stroke]:
    angles = np.arange(number) * 2 * np.pi / number
    return [np.array([[x + r * np.cos(a), y + r * np.sin(a)] for r in (inner, outer)]) for a in angles]


def _shapes() -> list[list[Stroke]]:
    t = np.linspace(0, 2 * np.pi, 60)
    tips = np.arange(11) * np.pi / 5
    reach = np.where(np.arange(11) % 2 == 0, 5, 2.2)
    heart_y = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    return [
        [_lines("09 a9 50 09")],  # a triangle
        [_lines("00 a0 aa 0a 00"), _lines("00 aa"), _lines("a0 0a")],  # a crossed box
        [np.stack([np.sin(tips) * reach, -np.cos(tips) * reach], 1)],  # a star
        [_lines("0a aa a4 50 04 0a"), _lines("4a 46 66 6a")],  # a house
        [np.stack([16 * np.sin(t) ** 3, heart_y], 1)],  # a heart
        [
            _oval(5, 5, 5, 5),
            _oval(3.2, 3.5, 0.5, 0.6),
            _oval(6.8, 3.5, 0.5, 0.6),
            curve(_lines("26 58 86")),
        ],  # a smiley
        [_lines("05 a5"), _lines("61 a5 69")],  # an arrow
        [_lines("50 5a"), _lines("05 a5")],  # a cross
        [np.stack([t * np.cos(2.5 * t), t * np.sin(2.5 * t)], 1)],  # a spiral
        [_oval(5, 5, 2.2, 2.2), *_rays(5, 5, 3, 5, 8)],  # a sun
        [_lines("50 94 14 50"), _lines("53 a8 08 53"), _lines("58 5a")],  # a tree
        [curve(_lines("a2 57 05 52 a8")), _lines("a2 a8"), _oval(2.5, 4.6, 0.3, 0.3)],  # a fish
        [_oval(5, 1.5, 1.5, 1.5), _lines("53 57"), _lines("3a 57 7a"), _lines("24 84")],  # a stick figure
        [*_rays(5, 5, 0, 5, 7)],  # an asterisk
    ]


def shape(rng: np.random.Generator) -> Field:
    """A triangle, star, house, heart, smiley, arrow, spiral, sun, tree, fish or stick figure, turned a bit."""
    shapes = _shapes()
    strokes = [s + rng.normal(0, 0.02, s.shape) * np.ptp(s, axis=0).max() for s in shapes[rng.integers(len(shapes))]]
    turn = rng.uniform(-0.5, 0.5)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return field_of_strokes([s @ spin for s in strokes], rng)


def drawing(rng: np.random.Generator) -> Field:
    """Three to seven outlines, arcs and lines in and beside each other, half of them again on the other side: faces,
    signs, tools."""
    strokes: list[Stroke] = []
    for part in range(rng.integers(3, 8)):
        whole = part == 0
        middle = rng.normal(5, 0.4, 2) if whole else rng.uniform(1, 9, 2)
        size = rng.uniform(2, 5) if whole else rng.uniform(0.4, 3)
        stroke = _outline(rng, size) + middle
        strokes.append(stroke)
        if not whole and rng.random() < 0.5:
            strokes.append(stroke * [-1, 1] + [10, 0])
    return field_of_strokes(strokes, rng)


def _outline(rng: np.random.Generator, size: float) -> Stroke:
    """An oval, a box, something with corners or bends, closed or open, of about that size, around 0."""
    kind = rng.choice(["oval", "box", "corners", "bends", "line", "arc"])
    if kind in ("oval", "box"):
        across, down = size * np.exp(rng.normal(0, 0.25, 2))
        return _oval(0, 0, across, down) if kind == "oval" else (_lines("00 20 22 02 00") - 1) * [across, down]
    points = rng.normal(0, 0.7 * size, (2 if kind == "line" else rng.integers(3, 6), 2))
    if kind in ("corners", "bends"):
        points = np.concatenate([points, points[:1]])
    return curve(points) if kind in ("bends", "arc") else points


def glyph(characters: str, fonts: tuple[str, ...], rng: np.random.Generator) -> Field:
    """One printed character of a set, in one of the fonts."""
    return field_of(glyphs.any_of(characters, fonts, rng))
