"""A step begins again when a tracking server breaks off an answer, ends when it is told to, and keeps to its cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from digits import workers
from pipelines import launch
from pipelines.signals import Interrupted


class Work:
    """Fails with each of these errors, one after the other, and then succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


def broken_off() -> MlflowException:
    return MlflowException("API request failed with exception ('Connection broken: IncompleteRead(0 bytes read)')")


def test_a_step_begins_again_as_often_as_patience_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(*(broken_off() for _ in range(launch.AGAIN)))
    launch.persist(work)
    assert work.calls == launch.AGAIN + 1
    assert capsys.readouterr().err.count("broke off an answer; going on from there") == launch.AGAIN
    with pytest.raises(MlflowException):
        launch.persist(Work(*(broken_off() for _ in range(launch.AGAIN + 1))))


@pytest.mark.parametrize(
    "error", [KeyError("recipe"), MlflowException("Max retries exceeded with url"), KeyboardInterrupt()]
)
def test_whatever_else_ends_a_step_ends_it_at_once(error: BaseException) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        launch.persist(work)
    assert work.calls == 1


def test_a_step_that_is_told_to_end_ends_though_the_server_goes_as_well() -> None:
    error = broken_off()
    error.__context__ = Interrupted(15)  # whose end could not be told
    work = Work(error)
    with pytest.raises(KeyboardInterrupt):
        launch.persist(work)
    assert work.calls == 1


def test_one_of_several_processes_of_torchrun_does_not_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    work = Work(broken_off())
    with pytest.raises(MlflowException):
        launch.persist(work)
    assert work.calls == 1


@pytest.mark.parametrize(("quota", "expected"), [("200000 100000", "2"), ("max 100000", None)])
def test_torch_starts_no_more_threads_than_a_container_s_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workers, "SHARE", tmp_path / "cpu.max")
    monkeypatch.setattr(workers, "bound", lambda: 64)
    workers.SHARE.write_text(quota)
    launch.keep_to_share()
    assert os.environ.pop("OMP_NUM_THREADS", None) == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch.keep_to_share()
    assert os.environ["OMP_NUM_THREADS"] == "5"
