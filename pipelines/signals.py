"""SIGINT, SIGTERM and SIGHUP end a step where it stands, except where it is just about to tell how it ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_held = 0  # how many blocks of `hold` are open
_waiting: int | None = None  # a signal that came meanwhile


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end. A KeyboardInterrupt, so that libraries clean up as they do for Ctrl-C."""


def listen() -> None:
    """From now on, the first of these signals raises Interrupted at the next line of Python; more change nothing."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, _interrupt)


def deafen() -> None:
    """From now on, none of these signals changes anything."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def hold() -> Iterator[None]:
    """While the block lasts, a signal waits. What ends is then told as it ended, whatever comes at that moment."""
    global _held, _waiting
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if not _held and _waiting is not None:
            number, _waiting = _waiting, None
            _interrupt(number, None)


def _interrupt(number: int, _: FrameType | None) -> None:
    global _waiting
    if _held:
        _waiting = number
        return
    deafen()
    raise Interrupted(signal.Signals(number).name)
