"""A signal ends a step wherever it comes, also where Python throws away what is raised, and spares transactions."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

FINALISER = """
import gc, signal, time, weakref
from pipelines import signals

class Cycle:
    def __init__(self):
        self.itself = self

def told(_):
    signal.raise_signal({number})

signal.signal({number}, signal.SIG_DFL)  # whoever runs the tests may have been told to ignore it
signals.listen()
kept = []
for _ in range({lost}):
    cycle = Cycle()
    kept.append(weakref.ref(cycle, told))
    del cycle
    gc.collect()
try:
    time.sleep(60)
except signals.Interrupted as interrupted:
    signals.deafen()
    print(interrupted)
"""
STATEMENT = """
import signal, time
import sqlalchemy
from pipelines import signals

engine = sqlalchemy.create_engine("sqlite:///{file}")
for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
    sqlalchemy.event.listen(engine, moment, lambda *_: signal.raise_signal(signal.SIGTERM))
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signals.listen()
try:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE told (what TEXT)")
    time.sleep(60)
except signals.Interrupted as interrupted:
    signals.deafen()
    print(interrupted)
"""
OTHER = """
from pipelines import signals

class Broken:
    def __del__(self):
        raise ValueError("of its own")

signals.listen()
Broken()
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_in_a_finaliser_is_not_lost(number: signal.Signals, lost: int) -> None:
    done = python(FINALISER.format(number=int(number), lost=lost))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{number.name}\n", "")


def test_a_signal_that_comes_in_a_transaction_waits_until_it_is_committed(tmp_path: Path) -> None:
    file = tmp_path / "told.db"
    done = python(STATEMENT.format(file=file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "SIGTERM\n", "")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("told",)]


def test_what_else_a_finaliser_raises_is_told_as_ever() -> None:
    done = python(OTHER)
    assert done.returncode == 0
    assert "Broken.__del__" in done.stderr
    assert "ValueError: of its own" in done.stderr
