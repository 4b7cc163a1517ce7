"""Errors that a user can mend, and the one line that says how."""

from __future__ import annotations

import errno
import sqlite3
from concurrent.futures.process import BrokenProcessPool


class UserError(Exception):
    """The message is one line: what is wrong, what was expected, what to do. `status` is the exit status."""

    status = 1


def explain(error: BaseException, then: str = "") -> str | None:
    """One line for an error that is not a bug of ours; None for any other, which deserves its traceback.

    Args:
        error: what a command ended with.
        then: follows a cause that lies outside the command and its input, such as that the command goes on later.
    """
    from digits.data import DataError

    if isinstance(error, UserError | DataError):
        return str(error)
    found = next((line for line in map(_outside, causes(error)) if line), None)
    return found and found + then


def _outside(cause: BaseException) -> str | None:
    """What has failed where it is neither our code nor what the command was given."""
    if isinstance(cause, BrokenProcessPool):
        return "a process of this command was ended, perhaps for want of memory"
    if isinstance(cause, OSError) and cause.errno in REASONS:
        return REASONS[cause.errno] + (f" ({cause.filename})" if cause.filename else "")
    original = getattr(cause, "orig", cause)  # SQLAlchemy keeps the driver's error there
    if isinstance(original, sqlite3.OperationalError):
        return f"the run database can't be used: {original}"
    if type(cause).__name__ == "OperationalError":  # psycopg's and SQLAlchemy's
        return f"the database does not answer ({str(cause).splitlines()[0]})"
    if isinstance(cause, RuntimeError) and "PytorchStreamWriter" in str(cause):
        return "the checkpoint can't be written, perhaps for want of room on the disk"
    if type(cause).__name__ == "ConnectionError" or "Max retries exceeded" in str(cause):
        return "the tracking server does not answer"
    if "Connection broken" in str(cause):
        return BROKEN_OFF
    return None


GOES_ON = "the same command goes on from here"
BROKEN_OFF = "the tracking server broke off an answer"
REASONS = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room",
    errno.EFBIG: "the file would be larger than is allowed (ulimit -f)",
    errno.EROFS: "the folder is read-only: make it writable",
    errno.EACCES: "no permission to write or read: make it accessible",
}


def causes(error: BaseException) -> list[BaseException]:
    """An error and what is behind it, the latest first."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found
