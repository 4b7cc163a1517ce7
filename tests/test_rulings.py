"""Printed lines are found and taken away, handwriting is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from digits.rulings import erase, find_rulings, trustworthy, without_rulings

HEIGHT, WIDTH = 300, 320


def ruled(slope: float = 0.0, gap: int = 40, level: float = 50, thickness: int = 2) -> np.ndarray:
    ink = np.random.default_rng(0).random((HEIGHT, WIDTH)).astype(np.float32) * 2
    for row in range(20, HEIGHT - 10, gap):
        middle = round(slope * WIDTH / 2)
        cv2.line(ink, (0, row - middle), (WIDTH - 1, row + middle), level, thickness)
    return ink


def written(ink: np.ndarray) -> np.ndarray:
    """A 2 whose foot lies on a line, strokes of 8 pixels."""
    out = ink.copy()
    cv2.ellipse(out, (150, 105), (38, 38), 0, -180, 30, 160.0, 8)
    cv2.line(out, (183, 124), (112, 180), 160.0, 8)
    cv2.line(out, (112, 180), (195, 180), 160.0, 8)
    return out


@pytest.mark.parametrize("slope", [-0.08, 0.0, 0.05])
def test_the_lines_of_a_page_are_all_found(slope: float) -> None:
    assert abs(len(find_rulings(ruled(slope))) - 7) <= 1


def test_lines_are_found_where_they_are() -> None:
    rows = sorted(float(r.rows[WIDTH // 2]) for r in find_rulings(ruled(0.05)))
    assert np.abs(np.array(rows) - np.arange(20, HEIGHT - 10, 40)[: len(rows)]).max() < 2


def test_handwriting_alone_has_no_lines() -> None:
    assert find_rulings(written(np.zeros((HEIGHT, WIDTH), np.float32))) == []


def test_the_bar_of_a_seven_as_wide_as_most_of_the_page_is_no_line() -> None:
    ink = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.line(ink, (60, 60), (260, 60), 150.0, 9)
    cv2.line(ink, (260, 60), (150, 270), 150.0, 9)
    assert find_rulings(ink) == []


def test_lines_that_repeat_are_trusted_and_a_single_one_is_not() -> None:
    lines = find_rulings(ruled())
    assert trustworthy(lines, HEIGHT)
    assert not trustworthy(lines[:1], HEIGHT)


@pytest.mark.parametrize("squared", [False, True])
def test_the_paper_is_clear_afterwards(squared: bool) -> None:
    ink = ruled()
    if squared:
        ink = np.maximum(ink, np.pad(ruled()[:, :HEIGHT].T, ((0, 0), (0, WIDTH - HEIGHT))))
    cleared, found, sure = without_rulings(np.ascontiguousarray(ink))
    assert found
    assert sure
    assert (cleared[:, : HEIGHT - 30] > 25).mean() < 0.005


def test_the_foot_of_a_two_on_a_line_stays() -> None:
    ink = written(ruled())
    cleared, found, _ = without_rulings(ink)
    foot = cleared[177:184, 120:190]
    assert found
    assert float(foot.max(0).min()) > 120


def test_a_stroke_across_a_line_is_not_cut() -> None:
    ink = ruled()
    cv2.line(ink, (150, 30), (165, 280), 160.0, 8)
    cleared, _, _ = without_rulings(ink)
    assert float(cleared[40:270].max(1).min()) > 120


def test_a_page_without_lines_is_left_as_it_is() -> None:
    ink = written(np.zeros((HEIGHT, WIDTH), np.float32))
    cleared, found, sure = without_rulings(ink)
    assert not found
    assert sure
    assert cleared is ink


def test_erasing_nothing_changes_nothing() -> None:
    ink = ruled()
    assert erase(ink, []) is ink


def test_a_map_too_small_for_lines_has_none() -> None:
    assert find_rulings(np.ones((20, 20), np.float32)) == []
