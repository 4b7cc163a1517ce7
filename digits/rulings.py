"""An ink map with the printed lines of a page comes in; the same map without them goes out, the handwriting whole.

A ruling crosses the page, is straight or slightly bent, and is thinner or paler than the pen. As in the removal of
staff lines from music (Dalitz et al., 2008) it is taken away only where nothing thicker or darker crosses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from digits.ink import Floats, quantile

STRIPS = 16  # the page is cut into this many strips across the lines
SLOPES = np.linspace(-0.24, 0.24, 31)  # about 13 degrees to either side
PRESENT = 0.72  # the share of strips in which a ruling must be seen


@dataclass(frozen=True, slots=True)
class Ruling:
    """One line: its row for each column (float32 (w,)), its thickness in pixels, how dark it is on the ink
    map, and whether it reaches both ends of the page."""

    rows: Floats
    thickness: float
    level: float
    across: bool = True


def find_rulings(ink: Floats) -> list[Ruling]:
    """The roughly horizontal printed lines of an ink map (h, w). For the vertical ones give the map transposed."""
    found: list[Ruling] = []
    for rows in _courses(ink):
        ruling = _measured(ink, rows)
        if ruling is not None and all(abs(float(np.mean(ruling.rows - r.rows))) > r.thickness + 3 for r in found):
            found.append(ruling)
    return found


def _measured(ink: Floats, rows: Floats) -> Ruling | None:
    """Thickness and darkness from the median across the line, which no stroke that crosses it can move."""
    height, width = ink.shape
    reach = max(9, height // 24)
    offsets = np.arange(-reach, reach + 1)
    places = np.clip(np.rint(rows).astype(np.int64) + offsets[:, None], 0, height - 1)
    band = ink[places, np.arange(width)]
    profile = np.median(band, axis=1)
    base = float(np.minimum(profile[:3].mean(), profile[-3:].mean()))
    centre = int(profile[reach - 4 : reach + 5].argmax()) + reach - 4
    level = float(profile[centre]) - base
    if level < 2:
        return None
    pale = np.flatnonzero(profile - base <= 0.5 * level)  # the line ends there, the next one may begin
    above, below = pale[pale < centre].max(initial=-1), pale[pale > centre].min(initial=len(profile))
    thickness = float(below - above - 1)
    seen = band[max(0, centre - 1) : centre + 2].max(0) > base + 0.4 * level
    if thickness > reach or seen.mean() < PRESENT - 0.05:
        return None
    end = max(3, width // 20)
    across = bool(seen[:end].mean() > 0.5 and seen[-end:].mean() > 0.5)
    return Ruling(np.asarray(rows + np.float32(centre - reach), np.float32), thickness, level + base, across)


def _courses(ink: Floats) -> list[Floats]:
    """The rows, for each column, along which lines seem to run."""
    height, width = ink.shape
    if height < 48 or width < 48:
        return []
    reach = max(9, height // 18) | 1
    profile = cv2.resize(ink, (STRIPS, height), interpolation=cv2.INTER_AREA)
    slab = np.ones((reach, 1), np.uint8)
    ridge = profile - cv2.morphologyEx(profile, cv2.MORPH_OPEN, slab)  # what is thinner than `reach`
    noise = quantile(ridge, 0.35) + 1.5
    strong = max(quantile(ridge, 0.9), noise)
    capped = np.minimum(ridge, strong)  # a heavy stroke in one strip must not outweigh a pale line in all
    middle = (np.arange(STRIPS) + 0.5) / STRIPS * width
    # The slope that gathers most ridges in few rows, on every other row.
    half = capped[: height // 2 * 2].reshape(-1, 2, STRIPS).max(1)
    offsets = np.rint(np.multiply.outer(SLOPES, middle - width / 2) / 2).astype(np.int64)  # (slopes, strips)
    furthest = int(np.abs(offsets).max())
    padded = cv2.copyMakeBorder(half, furthest, furthest, 0, 0, cv2.BORDER_REPLICATE)
    windows = sliding_window_view(np.ascontiguousarray(padded.T), len(half), axis=1)  # (strips, shifts, rows)
    total = windows[np.arange(STRIPS)[:, None], offsets.T + furthest].sum(0)  # (slopes, rows)
    total = total - cv2.blur(total, (reach, 1))
    shift = 2 * offsets[int((np.maximum(total, 0) ** 2).sum(1).argmax())]
    rows = np.arange(height)[:, None]
    straight = ridge[np.clip(rows + shift, 0, height - 1), np.arange(STRIPS)]
    slack = max(1, height // 150)
    wide = cv2.dilate(straight, np.ones((2 * slack + 1, 1), np.uint8))
    present = np.flatnonzero((wide > 2 * noise).sum(1) >= PRESENT * STRIPS)
    found: list[Floats] = []
    if not len(present):
        return found
    order = present[np.argsort(-np.median(wide[present], axis=1))]
    free = np.ones(height, bool)
    for row in order[: height // 4]:
        if not free[row]:
            continue
        free[max(0, row - 3 - slack) : row + 4 + slack] = False  # squares may be as small as ten pixels
        course = _trace(ridge, straight, shift, int(row), slack, 2 * noise, middle, width)
        if course is not None:
            found.append(course)
    return found


def _trace(
    ridge: Floats,
    straight: Floats,
    shift: NDArray[np.int64],
    row: int,
    slack: int,
    floor: float,
    middle: NDArray[np.float64],
    width: int,
) -> Floats | None:
    """Follows one line through the strips, from its row in the sheared map."""
    height = len(ridge)
    low, high = max(0, row - slack - 1), min(height, row + slack + 2)
    window = straight[low:high]
    peak = window.max(0)
    level = float(np.median(peak))
    # A line is as dark everywhere; a stroke that happens to lie along it is darker, a gap paler.
    alike = (peak > max(floor, 0.4 * level)) & (peak < 2.5 * level + floor)
    if alike.mean() < 0.6 or (peak > floor).mean() < PRESENT:
        return None
    where = low + (window * np.arange(high - low)[:, None]).sum(0) / np.maximum(window.sum(0), 1e-6)
    rows = where + shift
    curve = np.polynomial.Polynomial.fit(middle[alike], rows[alike], 2)
    residual = np.abs(curve(middle[alike]) - rows[alike])
    if float(np.median(residual)) > slack:
        return None
    return np.asarray(curve(np.arange(width)), np.float32)


def trustworthy(rulings: list[Ruling], height: int) -> bool:
    """Whether lines repeat as printed ones do; one or two alone may be strokes or the page's edge."""
    if len(rulings) < 3:
        return False
    middle = np.sort([float(r.rows[len(r.rows) // 2]) for r in rulings])
    gaps = np.diff(middle)
    unit = float(np.median(gaps))
    multiple = gaps / max(unit, 1)
    return bool(np.mean(np.abs(multiple - np.rint(multiple)) < 0.2) >= 0.6) and unit < height / 2


def _believed(rulings: list[Ruling], height: int) -> list[Ruling]:
    """Lines that repeat, or that cross the whole page: a long 1 does neither."""
    return rulings if trustworthy(rulings, height) else [ruling for ruling in rulings if ruling.across]


def erase(ink: Floats, rulings: list[Ruling]) -> Floats:
    """The ink map without these horizontal lines; where a stroke crosses or covers a line it stays as it was."""
    if not rulings:
        return ink
    height, width = ink.shape
    columns = np.arange(width)
    band = np.zeros((height, width), np.uint8)
    level = np.zeros((height, width), np.float32)
    thickness = float(np.median([r.thickness for r in rulings]))
    for ruling in rulings:
        half = max(1, round(ruling.thickness / 2 + 0.75))
        centre = np.rint(ruling.rows).astype(np.int64)
        for offset in range(-half, half + 1):
            rows = np.clip(centre + offset, 0, height - 1)
            band[rows, columns] = 1
            level[rows, columns] = np.maximum(level[rows, columns], ruling.level)
    usual = float(np.median([r.level for r in rulings]))
    solid = (ink > 0.5 * usual).astype(np.uint8)
    run = int(np.ceil(1.3 * thickness)) + 3
    crossing = cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((run, 1), np.uint8))
    darker = (ink > 1.4 * level + 5).astype(np.uint8)
    darker = cv2.morphologyEx(darker, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    gone = (band > 0) & (crossing == 0) & (darker == 0)
    cleared = np.where(gone, np.float32(0), ink)
    mended = cv2.morphologyEx(cleared, cv2.MORPH_CLOSE, np.ones((run, 1), np.uint8))
    return np.asarray(np.where(gone, np.minimum(ink, mended), cleared), np.float32)


def without_rulings(ink: Floats) -> tuple[Floats, bool, bool]:
    """Lined or squared paper cleared: the map, whether anything was taken, and whether that is beyond doubt."""
    height, width = ink.shape
    lying = _believed(find_rulings(ink), height)
    turned = np.ascontiguousarray(ink.T)
    standing = _believed(find_rulings(turned), width)
    if not lying and not standing:
        return ink, False, True
    sure = (trustworthy(lying, height) or not lying) and (trustworthy(standing, width) or not standing)
    cleared = np.ascontiguousarray(erase(turned, standing).T)
    return erase(cleared, lying), True, sure
