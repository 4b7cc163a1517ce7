"""What a log says while work goes on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipelines import progress
from pipelines.progress import Progress


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 1.0, 15.0, 16.0, 31.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with Progress("photographs", 3_000, done=1_000) as tell:
        for done in (1_010, 1_300, 1_400, 1_620):
            tell(done, 3_000)
    assert capsys.readouterr().out.splitlines() == [
        "  photographs: 1,300 of 3,000, 20 a second, 85 s left",
        "  photographs: 1,620 of 3,000, 20 a second, 69 s left",
    ]


def test_nothing_is_told_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 20.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with Progress("pictures", 10, done=4) as tell:
        tell(4, 10)
    assert capsys.readouterr().out == ""
