"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_EVERY = 15.0  # seconds


class Progress:
    """Told (done, total) as often as one likes. `label` is what is counted; `done` what was there before, None for as
    much as is told first."""

    def __init__(self, label: str, total: int, done: int | None = 0) -> None:
        self._label, self._first = label, done
        self._begun = self._told = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done or 0, desc=label, unit="", leave=False, disable=not self._terminal)

    def __call__(self, done: int, total: int) -> None:
        if self._first is None:
            self._first = self._bar.initial = self._bar.n = done
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if not self._terminal and now - self._told >= LINE_EVERY and done > self._first:
            self._told = now
            rate = (done - self._first) / (now - self._begun)
            print(f"  {self._label}: {done:,} of {total:,}, {rate:,.0f} a second, {(total - done) / rate:,.0f} s left")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
