"""SIGINT, SIGTERM and SIGHUP end a step where it stands.

Three moments have to pass first: while a step tells how it ended, while it speaks to a database, and while Python
finalises objects, where it throws away what is raised.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 0.05  # seconds
# How MLflow asks a server from then on: by itself it would try again for minutes, with whoever wants the end waiting.
HURRIED = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}

_heard: list[int] = []
_held = 0  # how many blocks of `hold` are open
_waiting: int | None = None  # a signal that came meanwhile
_others = sys.unraisablehook


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end. A KeyboardInterrupt, so that libraries clean up as they do for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def listen() -> None:
    """From now on, the first of these signals raises Interrupted at the next line of Python that may be interrupted;
    more change nothing.
    """
    _heard[:] = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays nohup
    for number in _heard:
        signal.signal(number, _interrupt)
    sys.unraisablehook = _raise_elsewhere


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


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _waiting
    os.environ |= HURRIED
    if _held:
        _waiting = number
        return
    if _speaks_to_a_database(frame):
        _send_again(number)
        return
    deafen()
    raise Interrupted(number)


def _speaks_to_a_database(frame: FrameType | None) -> bool:
    """Whether SQLAlchemy is at work: a statement that is interrupted keeps its lock for as long as its traceback lives,
    and the end of the run, told meanwhile, would wait for that.
    """
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("sqlalchemy."):
            return True
        frame = frame.f_back
    return False


def _raise_elsewhere(unraisable: sys.UnraisableHookArgs) -> None:
    """The next line of Python may be one of a finaliser, most likely after a long garbage collection: Python prints
    what a finaliser raises and goes on. The signal is sent once more then.
    """
    if not isinstance(unraisable.exc_value, Interrupted):
        _others(unraisable)
        return
    for number in _heard:
        signal.signal(number, _interrupt)
    _send_again(unraisable.exc_value.number)


def _send_again(number: int) -> None:
    main = threading.main_thread().ident
    assert main is not None
    again = threading.Timer(AGAIN, signal.pthread_kill, (main, number))
    again.daemon = True
    again.start()
