"""Random samples made in parallel, the same ones whatever the number of processes: a function of a random generator
goes in, its results come out in order.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

T = TypeVar("T")
Progress = Callable[[int, int], None]

SHARE = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time, and in how many
_CHUNK = 64
_SMALL = 256  # below this, starting processes takes longer than the work
_make: Callable[[np.random.Generator], Any] | None = None


def cores() -> int:
    """Cores that this process may use: those that it is bound to, or its container's share where that is less."""
    try:
        quota, period = map(int, SHARE.read_text().split())
    except (OSError, ValueError):  # no control groups of version 2, or "max": as much as there is
        return bound()
    return max(1, min(bound(), round(quota / period)))


def bound() -> int:
    """Cores that this process is bound to."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(make: Callable[[np.random.Generator], Any]) -> None:
    global _make
    _make = make
    begin()
    cv2.setNumThreads(1)  # one process for each core: OpenCV's own threads would only get in each other's way


def begin() -> None:
    """What each process of a pool does first. Without it they wait for ever for one that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; whoever started this decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _chunk(seed: int, start: int, stop: int) -> list[Any]:
    assert _make is not None
    return [_make(_generator(seed, index)) for index in range(start, stop)]


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))


def in_order(
    make: Callable[[np.random.Generator], T], count: int, seed: int, workers: int = 1, progress: Progress | None = None
) -> Iterator[T]:
    """Yield `count` results of `make`, each from a random generator of its own.

    With more than one worker, and 256 results or more, `make` runs in fresh processes (spawned, since torch's threads
    do not survive a fork): it must be picklable, and a script that calls this needs its `if __name__ == "__main__"`.
    `progress` is called with (done, count) as results arrive.
    """
    if workers <= 1 or count < _SMALL:
        for index in range(count):
            yield make(_generator(seed, index))
            if progress is not None:
                progress(index + 1, count)
        return
    starts = range(0, count, _CHUNK)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (make,)) as pool:
        futures = deque(pool.submit(_chunk, seed, start, min(start + _CHUNK, count)) for start in starts)
        done = 0
        try:
            while futures:
                for made in futures.popleft().result():  # and forgotten: results may be large
                    done += 1
                    yield made
                if progress is not None:
                    progress(done, count)
        finally:
            pool.shutdown(cancel_futures=True)  # interrupted, the rest need not be made
