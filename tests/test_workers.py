"""Chance in order: the number of processes never shows in what is made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from digits import workers
from digits.workers import cores, in_order


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


@pytest.mark.parametrize(
    ("written", "expected"),
    [("150000 100000", 2), ("20000 100000", 1), ("9900000 100000", 8), ("max 100000", 8), ("", 8), (None, 8)],
)
def test_a_container_has_no_more_cores_than_its_share(
    written: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if written is not None:
        (tmp_path / "cpu.max").write_text(written)
    monkeypatch.setattr(workers, "SHARE", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores() == expected
