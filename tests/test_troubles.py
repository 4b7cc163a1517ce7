"""The troubles that are put over real photographs to see what they cost."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import troubles
from benchmarks.troubles import TROUBLES
from tests.models import tiny_model


def sheet() -> np.ndarray:
    """A 7 on a pale sheet, uint8 (150, 120, 3)."""
    picture = np.full((150, 120, 3), (205, 200, 190), np.uint8)
    return cv2.polylines(picture, [np.array([[35, 40], [85, 40], [50, 115]])], False, (50, 50, 70), 5, cv2.LINE_AA)


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_spoils_a_picture_and_always_alike(name: str) -> None:
    before = sheet()
    first, again, *others = (TROUBLES[name](before, np.random.default_rng(seed)) for seed in (3, 3, 4, 5, 6))
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    np.testing.assert_array_equal(before, sheet())
    np.testing.assert_array_equal(first, again)
    if name != "none":
        assert first.shape != before.shape or (first != before).any()
        assert any(first.shape != other.shape or (first != other).any() for other in others)


def test_every_trouble_has_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photographs" / "7").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "photographs" / "7" / "one.png"), sheet()[..., ::-1])
    (tmp_path / "model.onnx").write_bytes(tiny_model())
    troubles.main(tmp_path / "photographs", [tmp_path / "model.onnx"])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row[:28].strip() for row in rows] == list(TROUBLES)
    assert all(0 <= float(row[28:].split()[1]) <= 100 for row in rows)
