"""What is logged, and what logging costs the database."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
import sqlalchemy

from digits.fit import EpochReport
from pipelines import logbook, signals, tracking

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
MEASURED = 12  # statements an epoch, of 8 metrics


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.connect()
    return tmp_path


@contextmanager
def statements() -> Iterator[list[str]]:
    """All that is asked of any database while the block lasts."""
    heard: list[str] = []

    def hear(*words: object) -> None:
        heard.append(str(words[2]))

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", hear)


def report(epoch: int) -> EpochReport:
    return EpochReport(epoch, 20, 0.5, 0.9, 0.1, 0.98, 0.95, 1e-3, 40.0, 1_400.0)


def test_an_epoch_costs_the_database_a_bounded_number_of_statements(project: Path) -> None:
    with tracking.run("Training", "training") as run:
        logbook.log_epoch(report(1))
        with statements() as heard:
            for epoch in range(2, 12):
                logbook.log_epoch(report(epoch))
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation_accuracy")
    assert [metric.step for metric in history] == list(range(1, 12))
    assert MEASURED / 1.5 < len(heard) / 10 < MEASURED * 1.5


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "HURRIED", {})  # this process goes on
    before, hook = {number: signal.getsignal(number) for number in signals.ENDING}, sys.unraisablehook
    signals.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("moment", ["set_tag", "flush_async_logging", "end_run"])
def test_a_signal_that_comes_while_an_end_is_told_waits_until_it_is(
    project: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    teller = mlflow.MlflowClient if moment == "set_tag" else mlflow
    tell = getattr(teller, moment)

    def interrupted(*words: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        tell(*words)

    def training() -> None:
        with tracking.run("Training", "training"):
            monkeypatch.setattr(teller, moment, interrupted)
            raise ValueError("another process has ended")

    with pytest.raises(signals.Interrupted, match="SIGTERM"):
        training()
    (run,) = tracking.find_runs("tags.kind = 'training'")
    assert (run.info.status, run.data.tags["outcome"]) == ("FAILED", "failed")
    assert "another process has ended" in run.data.tags["error"]
