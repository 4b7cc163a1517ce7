"""The folders in which commands keep what they have done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines import job

NAMES = ["main-0123456789ab", "main-0123456789ac", "tune-0123456789ab", "main-0123456789ad.gone"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of jobs of the code "old", and what is left of one."""
    monkeypatch.setattr(job, "WORK", tmp_path)
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text(json.dumps({"code": "old"}))
    return tmp_path


def left(work: Path) -> set[str]:
    return {path.name for path in work.iterdir() if path.is_dir()}


def test_jobs_of_other_code_are_forgotten_but_for_those_that_somebody_is_at(work: Path) -> None:
    with job._locked(NAMES[1]) as locked:
        assert locked
        job._forget_what_no_code_can_go_on_with("main", "new")
    assert left(work) == set(NAMES[1:3])


def test_jobs_of_this_code_stay(work: Path) -> None:
    job._forget_what_no_code_can_go_on_with("main", "old")
    assert left(work) == set(NAMES[:3])


def test_what_another_command_has_forgotten_meanwhile_is_no_error(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = job._locked

    @contextmanager
    def late(key: str) -> Iterator[bool]:
        shutil.rmtree(work / key, ignore_errors=True)
        with real(key) as locked:
            yield locked

    monkeypatch.setattr(job, "_locked", late)
    job._forget_what_no_code_can_go_on_with("main", "new")
    assert left(work) == {NAMES[2]}
