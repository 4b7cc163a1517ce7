"""Whether a process that a run names is still there."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from pipelines import tracking


def test_a_process_is_alive_though_the_clock_has_been_set_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    name, began = tracking.process(), psutil.Process().create_time()
    booted = psutil._pslinux.boot_time()  # from which psutil counts, by the clock of now
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted + 3_600)
    assert psutil.Process().create_time() == pytest.approx(began + 3_600, abs=2)
    assert not tracking.is_dead(name)
    assert tracking.process() == name


def test_a_process_that_has_ended_is_dead_and_so_is_one_whose_number_another_has_and_no_other_host_s_is() -> None:
    host, number, start = tracking.process().split()
    other = subprocess.Popen([sys.executable, "-c", ""])
    other.wait()
    assert tracking.is_dead(f"{host} {other.pid} {start}")
    assert tracking.is_dead(f"{host} {number} {int(start) - 1_000}")
    assert not tracking.is_dead(f"elsewhere {other.pid} {start}")
