"""Chance in order: the number of processes never shows in what is made."""

from __future__ import annotations

import numpy as np
import pytest

from digits.workers import in_order


def draw(rng: np.random.Generator) -> float:
    return float(rng.random())


def fail(rng: np.random.Generator) -> float:
    raise ValueError("no paper left")


def test_two_processes_make_what_one_makes_in_the_same_order() -> None:
    told: list[tuple[int, int]] = []
    alone = list(in_order(draw, 300, 9, workers=1))
    together = list(in_order(draw, 300, 9, workers=2, progress=lambda done, total: told.append((done, total))))
    assert alone == together
    assert len(set(alone)) == 300
    assert told[-1] == (300, 300)


def test_another_seed_makes_other_things() -> None:
    assert list(in_order(draw, 5, 1)) != list(in_order(draw, 5, 2))


def test_an_error_in_making_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="no paper left"):
        list(in_order(fail, 3, 0))
