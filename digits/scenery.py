"""What a digit is written on and lies among: paper, boards, rulings, form fields, marks, clutter and table edges.

Each is a function on float32 pictures (3, h, w) in 0..1, RGB.

Planes come first because NumPy is three times as fast so than with three interleaved channels.

Everything takes a random generator and gives the same picture for the same generator. Noise comes from banks made
once, because drawing it anew costs more than all the rest of a photograph.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from digits.ink import Floats

_BANK = 1200


@cache
def _white_bank() -> Floats:
    return np.random.default_rng(1).standard_normal((_BANK, _BANK), np.float32)


@cache
def _fractal_bank(slope: float) -> Floats:
    """1/f^slope noise, mean 0, standard deviation 1, seamless."""
    spectrum = np.fft.rfft2(_white_bank())
    y, x = np.fft.fftfreq(_BANK)[:, None], np.fft.rfftfreq(_BANK)[None]
    frequency = np.maximum(np.hypot(x, y), 1 / _BANK)
    noise = np.fft.irfft2(spectrum / frequency**slope, (_BANK, _BANK))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def _crop(bank: Floats, height: int, width: int, rng: np.random.Generator) -> Floats:
    y, x = rng.integers(_BANK - height + 1), rng.integers(_BANK - width + 1)
    part = bank[y : y + height, x : x + width]
    flips = rng.integers(4)
    return part[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1]


def white_noise(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Standard normal noise (h, w), h and w at most 1200; independent only between far crops of one bank."""
    return _crop(_white_bank(), height, width, rng)


def fractal_noise(height: int, width: int, rng: np.random.Generator, slope: float = 1.0) -> Floats:
    """1/f^slope noise (h, w), about mean 0 and standard deviation 1; slope 0.5, 1 or 1.5 keeps the number of banks
    small.
    """
    return _crop(_fractal_bank(slope), height, width, rng)


def smooth_field(height: int, width: int, rng: np.random.Generator, cells: int = 3) -> Floats:
    """A soft random surface (h, w) with values around 0..1, `cells` hills along a side."""
    coarse = rng.random((cells, cells), np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def page_coordinates(page: npt.NDArray[np.float64], height: int, width: int) -> tuple[Floats, Floats]:
    """Where each pixel lies on the page: two (h, w) arrays, `page` being the homography (3, 3) from the picture to
    the page.
    """
    x = np.arange(width, dtype=np.float32)[None]
    y = np.arange(height, dtype=np.float32)[:, None]
    m = page.astype(np.float32)
    u, v = m[0, 0] * x + (m[0, 1] * y + m[0, 2]), m[1, 0] * x + (m[1, 1] * y + m[1, 2])
    if abs(m[2, 0]) + abs(m[2, 1]) > 1e-9:
        w = 1 / (m[2, 0] * x + (m[2, 1] * y + m[2, 2]))
        u, v = u * w, v * w
    return u, v


def blend(picture: Floats, colour: npt.ArrayLike, alpha: Floats) -> None:
    """Lay a colour over the picture in place, alpha (h, w) in 0..1."""
    for plane, level in zip(picture, np.asarray(colour, np.float32), strict=True):
        plane += alpha * (level - plane)


def line_of(off: Floats, half: float) -> Floats:
    """How much of each pixel a line covers that is `off` (h, w) pixels away and `half` a width to either side: 0..1."""
    return np.asarray(np.clip(np.float32(half + 0.5) - off, 0, min(1.0, 2 * half)), np.float32)


def _by_hand(off: Floats, size: float, rng: np.random.Generator) -> Floats:
    """How far each pixel is from a line, (h, w), if a hand draws it around something of that size."""
    height, width = off.shape
    wobble = smooth_field(height, width, rng, 6) - np.float32(0.5)
    return np.asarray(np.abs(off + wobble * np.float32(size * rng.uniform(0.01, 0.08))), np.float32)


def sheet_of(height: int, width: int, colour: npt.ArrayLike) -> Floats:
    """A plain ground of one colour (RGB in 0..1): (3, h, w)."""
    sheet = np.empty((3, height, width), np.float32)
    sheet[:] = np.asarray(colour, np.float32)[:, None, None]
    return sheet


def paper(height: int, width: int, rng: np.random.Generator, hardness: float) -> Floats:
    """A sheet: white, cream, grey, recycled or coloured, with grain, fibres and, at times, the shading of a crumple."""
    kind = rng.choice(5, p=[0.45, 0.2, 0.15, 0.1, 0.1])
    base = {
        0: np.array([0.93, 0.93, 0.92]) + rng.normal(0, 0.015, 3),
        1: np.array([0.94, 0.9, 0.8]) + rng.normal(0, 0.02, 3),
        2: np.full(3, rng.uniform(0.6, 0.88)) + rng.normal(0, 0.015, 3),
        3: np.array([0.76, 0.7, 0.6]) + rng.normal(0, 0.04, 3),
        4: rng.uniform(0.45, 0.98, 3),
    }[int(kind)]
    sheet = sheet_of(height, width, np.clip(base, 0.3, 1))
    grain = rng.uniform(0.002, 0.012) * (3 if kind == 3 else 1) * (1 + hardness)
    texture = 1 + grain * fractal_noise(height, width, rng, 0.5)
    if rng.random() < 0.05 + 0.2 * hardness:  # crumples: folded slopes, as light across facets
        slopes = np.abs(fractal_noise(height, width, rng, 1.5))
        texture = texture + np.float32(rng.uniform(0.02, 0.08) * (0.5 + hardness)) * (slopes - 0.8)
    sheet *= texture
    return sheet


def board(height: int, width: int, rng: np.random.Generator) -> Floats:
    """A dark ground for light strokes: blackboard, dark paper or a screen in dark mode."""
    base = [[0.12, 0.13, 0.13], [0.1, 0.25, 0.17], [0.05, 0.05, 0.06], [0.1, 0.15, 0.35], [0.35, 0.12, 0.12]][
        rng.integers(5)
    ]
    sheet = sheet_of(height, width, np.asarray(base) * rng.uniform(0.6, 1.5))
    sheet += np.float32(rng.uniform(0, 0.04)) * fractal_noise(height, width, rng, 1.0)
    return sheet


def rule(
    picture: Floats, u: Floats, v: Floats, size: float, ink: float, rng: np.random.Generator, hardness: float
) -> None:
    """Print rulings in place: lines, squares, millimetres or dots, spaced about the digit's `size` (page pixels);
    `ink` is the pen's strength 0..1.
    """
    kind = rng.choice(["lines", "squares", "fine", "dots"], p=[0.45, 0.35, 0.1, 0.1])
    spacing = size * (rng.uniform(0.55, 1.8) if kind == "lines" else rng.uniform(0.25, 1.1))
    spacing = max(spacing * (0.35 if kind == "fine" else 1), 5.0)
    half = max(spacing * rng.uniform(0.006, 0.03), 0.35)
    colour = [
        [0.35, 0.5, 0.8],
        [0.45, 0.45, 0.45],
        [0.75, 0.45, 0.45],
        [0.55, 0.4, 0.7],
        [0.35, 0.6, 0.5],
        [0.2, 0.2, 0.25],
    ]
    strength = rng.uniform(0.12, 0.3 + 0.4 * hardness)
    if rng.random() < 0.15 * hardness:
        strength = max(strength, ink)  # printed as dark as the pencil writes
    tint = colour[rng.choice(6, p=[0.4, 0.25, 0.08, 0.07, 0.1, 0.1])]

    def lines(coordinate: Floats, phase: float) -> Floats:
        t = coordinate * np.float32(1 / spacing) + np.float32(phase)
        off = np.abs(t - np.rint(t)) * np.float32(spacing)
        return line_of(off, half)

    across = lines(v, rng.random())
    if kind == "lines":
        pattern = across
        if rng.random() < 0.2:
            margin = line_of(np.abs(u - np.float32(rng.uniform(-2, 2) * size)), half)
            blend(picture, [0.85, 0.4, 0.45], margin * np.float32(strength))
    elif kind == "dots":
        half *= 2
        pattern = lines(v, 0.3) * lines(u, rng.random())
    else:
        pattern = np.maximum(across, lines(u, rng.random()))
    if rng.random() < 0.3:  # worn print
        pattern = pattern * np.clip(1 + 0.5 * fractal_noise(pattern.shape[0], pattern.shape[1], rng, 0.5), 0, 1)
    blend(picture, tint, pattern * np.float32(strength))


def clutter(picture: Floats, box: tuple[float, float, float, float], rng: np.random.Generator, hardness: float) -> None:
    """Leave things around the digit in place, away from its `box` (left, top, right, bottom, pixels): strokes at the
    rim, a finger, stains, print.
    """
    height, width = picture.shape[1:]
    left, top, right, bottom = box
    mask = np.zeros((height, width), np.uint8)
    if rng.random() < 0.25 * hardness:  # a bit of a neighbour's stroke, cut by the frame
        side = int(rng.integers(4))
        depth = min(float(np.array([left, top, width - right, height - bottom])[side]), bottom - top) * 0.5
        if depth > 3:
            along = rng.uniform(0, height if side % 2 == 0 else width) + np.cumsum(rng.uniform(-0.2, 0.5, 4)) * (
                bottom - top
            )
            inward = np.array([-0.5, 0, 0, -0.5]) * depth + rng.uniform(0, 0.95, 4) * depth
            points = np.stack([inward, along] if side % 2 == 0 else [along, inward], 1)
            if side >= 2:
                points[:, side - 2] = (width if side == 2 else height) - points[:, side - 2]
            thickness = max(1, round((bottom - top) * rng.uniform(0.03, 0.12)))
            cv2.polylines(mask, [np.round(points * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)
            blend(picture, picture[:, ::4, ::4].mean((1, 2)) * rng.uniform(0.1, 0.7), mask * np.float32(1 / 255))
    if rng.random() < 0.1 * hardness:  # a finger or the pen at the rim, out of focus
        corner = np.array([rng.integers(2) * width, rng.integers(2) * height])
        reach = max(
            4.0,
            0.8
            * min(
                abs(corner[0] - (left if corner[0] == 0 else right)),
                abs(corner[1] - (top if corner[1] == 0 else bottom)),
            ),
        )
        mask[:] = 0
        axes = (max(2, int(reach * rng.uniform(0.5, 1.0))), max(2, int(reach * rng.uniform(0.5, 1.0))))
        cv2.ellipse(mask, tuple(int(c) for c in corner), axes, float(rng.uniform(0, 90)), 0, 360, 255, -1)
        soft = cv2.GaussianBlur(mask, (0, 0), max(0.6, reach * rng.uniform(0.02, 0.15)))
        blend(picture, np.array([0.75, 0.5, 0.4]) * rng.uniform(0.15, 1.1), soft * np.float32(1 / 255))
    if rng.random() < 0.2 * hardness:  # smudges and stains
        stain = np.clip(fractal_noise(height, width, rng, 1.5) - np.float32(rng.uniform(0.5, 1.5)), 0, 1)
        blend(picture, rng.uniform(0.2, 0.6, 3), stain * np.float32(rng.uniform(0.08, 0.35)))
    if rng.random() < 0.08 * hardness and max(top, height - bottom) > 14:  # a line or two of small print
        mask[:] = 0
        low, high = (2.0, top - 4) if top > height - bottom else (bottom + 4, height - 2.0)
        letter = max(3, int((high - low) * rng.uniform(0.1, 0.3)))
        for y in np.arange(low + letter, high, letter * 2.2)[:3]:
            for x in np.arange(rng.uniform(0, width / 3), width, letter * 0.8):
                if rng.random() < 0.8:
                    ends = rng.uniform(0, 1, (3, 2)) * letter * [0.6, -1] + [x, y]
                    cv2.polylines(
                        mask, [np.round(ends * 16).astype(np.int32)], False, 255, max(1, letter // 7), cv2.LINE_AA, 4
                    )
        blend(picture, [0.15, 0.15, 0.17], mask * np.float32(0.8 / 255))


def table(
    picture: Floats, u: Floats, v: Floats, box: tuple[float, float, float, float], rng: np.random.Generator
) -> None:
    """Let the page end in place, on one to four sides, beyond the digit's `box` in page pixels (left, top, right,
    bottom): the table shows, plain or of wood, and the page casts a thin shadow.
    """
    height, width = picture.shape[1:]
    beyond = np.full((height, width), -np.inf, np.float32)
    for side in rng.permutation(4)[: rng.choice([1, 2, 3, 4], p=[0.4, 0.2, 0.1, 0.3])]:
        coordinate = u if side % 2 == 0 else v
        away = -coordinate if side < 2 else coordinate
        near = -box[side] if side < 2 else box[side]
        room = float(away.max()) - near
        if room >= 6:
            edge = near + room * rng.uniform(0.15, 0.95)
            np.maximum(beyond, away - np.float32(edge), out=beyond)
    tone = rng.uniform(0.06, 0.75) * np.clip(np.array([1, 0.85, 0.7]) + rng.normal(0, 0.12, 3), 0.2, 1.2)
    shadow = np.clip(1 - beyond / np.float32(rng.uniform(2, 0.05 * height + 3)), 0, 1)
    grain = fractal_noise(height, width, rng, 1.0)
    if rng.random() < 0.4:  # of wood
        streaks = max(2, width // 24)
        grain = np.asarray(cv2.resize(fractal_noise(height, streaks, rng, 0.5), (width, height)), np.float32)
    surface = np.maximum(1 + np.float32(rng.uniform(0.02, 0.2)) * grain - np.float32(0.5) * shadow, 0.05)
    alpha = np.clip(beyond + np.float32(0.5), 0, 1)
    for plane, level in zip(picture, tone.astype(np.float32), strict=True):
        plane += alpha * (surface * level - plane)


def frame(
    picture: Floats,
    u: Floats,
    v: Floats,
    box: tuple[float, float, float, float],
    pen: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    """Put the digit's `box` in page pixels (left, top, right, bottom) into a field of a form, in place: one rectangle,
    printed or drawn by hand, at times with the `pen` (its RGB), or one of a row of them.
    """
    left, top, right, bottom = box
    size = max(right - left, bottom - top)
    margins = size * np.exp(rng.uniform(np.log(0.05), np.log(0.8), 4))
    left, top, right, bottom = left - margins[0], top - margins[1], right + margins[2], bottom + margins[3]
    across, down = (right - left) / 2, (bottom - top) / 2
    x, y = np.abs(u - np.float32((left + right) / 2)), np.abs(v - np.float32((top + bottom) / 2))
    by_hand = rng.random() < 0.4
    if rng.random() < 0.3:  # a row of fields
        side = np.abs(x - np.float32(2 * across) * np.rint(x / np.float32(2 * across)))  # from the nearest one's middle
        off = np.minimum(np.where(y < down, np.abs(side - np.float32(across)), np.inf), np.abs(y - np.float32(down)))
    else:
        round_off = np.float32(min(across, down) * (rng.uniform(0, 0.4) if rng.random() < 0.3 else 0))
        dx, dy = x - np.float32(across) + round_off, y - np.float32(down) + round_off
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        off = np.abs(outside + np.minimum(np.maximum(dx, dy), 0) - round_off)
    half = max(size * np.exp(rng.uniform(np.log(0.004), np.log(0.04))), 0.4)
    if by_hand:
        off = _by_hand(off, size, rng)
    tints = [[0.1, 0.1, 0.12], [0.5, 0.5, 0.5], [0.2, 0.3, 0.7], [0.8, 0.3, 0.25], [0.2, 0.5, 0.35], [0.85, 0.55, 0.2]]
    tint = pen if by_hand and rng.random() < 0.6 else tints[rng.integers(6)]
    blend(picture, tint, line_of(off, half) * np.float32(rng.uniform(0.3, 0.95)))


def mark(
    picture: Floats,
    u: Floats,
    v: Floats,
    box: tuple[float, float, float, float],
    pen: npt.NDArray[np.float32],
    stroke: float,
    rng: np.random.Generator,
) -> None:
    """Ring the digit's `box` in page pixels (left, top, right, bottom) by hand, underline it once or twice, or put one
    bracket beside it or two, in place: with the `pen` (its RGB), `stroke` pixels wide, or with one like it.
    """
    height, width = picture.shape[1:]
    left, top, right, bottom = box
    size = max(right - left, bottom - top)
    middle = np.float32((left + right) / 2), np.float32((top + bottom) / 2)
    kind = rng.choice(["ring", "line", "bracket"], p=[0.55, 0.3, 0.15])
    if kind == "line":
        off = np.full((height, width), np.inf, np.float32)
        reach = (right - left) / 2 * rng.uniform(0.7, 1.3) + size * rng.uniform(0.05, 0.3)
        slope, level = np.float32(rng.normal(0, 0.05)), bottom + size * rng.uniform(0.05, 0.25)
        for _ in range(rng.choice([1, 2], p=[0.7, 0.3])):
            along, down = u - middle[0], v - np.float32(level)
            np.minimum(off, np.hypot(np.maximum(np.abs(along) - np.float32(reach), 0), down - slope * along), out=off)
            level += size * rng.uniform(0.08, 0.2)
    else:
        reach = np.hypot(right - left, bottom - top) / 2 * rng.uniform(1.0, 1.5) + size * rng.uniform(0, 0.15)
        across, down = np.float32(reach) * np.exp(rng.normal(0, 0.1, 2)).astype(np.float32)
        x, y = (u - middle[0]) / across, (v - middle[1] - np.float32(size * rng.normal(0, 0.04))) / down
        off = np.abs(np.hypot(x, y) - 1) * min(across, down)
        angle = np.arctan2(y, x)  # -π to π, 0 on the right
        if kind == "ring":
            if rng.random() < 0.5:  # the ends do not meet
                gap = np.abs((angle - np.float32(rng.uniform(-np.pi, np.pi)) + 3 * np.pi) % (2 * np.pi) - np.pi)
                off = np.where(gap > np.pi - rng.uniform(0.03, 0.45), np.inf, off)
        else:
            half = np.float32(rng.uniform(0.5, 0.95))
            sides = np.minimum(np.abs(angle), np.pi - np.abs(angle)) if rng.random() < 0.5 else np.abs(angle)
            off = np.where(sides < half, off, np.inf)
    off = _by_hand(off, size, rng)
    colours = [[0.8, 0.15, 0.15], [0.15, 0.25, 0.7], [0.1, 0.1, 0.12], [0.1, 0.5, 0.25]]
    colour = pen if rng.random() < 0.65 else colours[rng.integers(4)]
    half_width = max(stroke / 2 * np.exp(rng.normal(0, 0.25)), 0.6)
    blend(picture, colour, line_of(off, half_width) * np.float32(rng.uniform(0.6, 1)))
