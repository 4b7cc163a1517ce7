"""Files are there whole or not at all, and errors that users can mend are explained in a line."""

import errno
import json
import os
import sqlite3
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import BinaryIO

import pytest
from sqlalchemy.exc import OperationalError

from digits.data import DataError
from pipelines.errors import UserError, explain
from pipelines.files import write, write_json


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "state.json"
    write_json(path, {"epoch": 3})
    with pytest.raises(OSError, match="No space"):
        write(path, fail)
    assert json.loads(path.read_text()) == {"epoch": 3}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_is_for_those_that_the_user_lets_read_it(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "state.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left", "mlruns/x"), "the disk is full: make room (mlruns/x)"),
        (PermissionError(errno.EACCES, "Permission denied", "mlruns"), "no permission"),
        (OSError(errno.EROFS, "Read-only file system", "mlruns"), "read-only"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"), "for want of room"),
        (DataError("train-images is damaged"), "train-images is damaged"),
        (UserError("mend it"), "mend it"),
        (
            OperationalError("INSERT …", {}, sqlite3.OperationalError("database or disk is full")),
            "the run database can't be used: database or disk is full",
        ),
        (OperationalError("SELECT 1", {}, Exception("connection refused")), "the database does not answer"),
    ],
)
def test_what_a_user_can_mend_is_explained_in_one_line(error: Exception, expected: str) -> None:
    line = explain(error)
    assert line is not None
    assert expected in line
    assert "\n" not in line


def test_the_cause_of_an_error_is_found_behind_it() -> None:
    error = RuntimeError("could not log")
    error.__cause__ = OSError(errno.ENOSPC, "No space left")
    assert "the disk is full" in (explain(error) or "")


def test_what_follows_a_cause_is_not_said_of_what_the_command_was_given() -> None:
    then = "; the same command goes on from here"
    assert explain(OSError(errno.ENOSPC, "No space left"), then) == f"the disk is full: make room{then}"
    assert explain(UserError("mend it"), then) == "mend it"
    assert explain(KeyError("recipe"), then) is None


def test_a_bug_keeps_its_traceback() -> None:
    assert explain(KeyError("recipe")) is None


def test_a_process_that_was_ended_is_told_in_a_line() -> None:
    assert "perhaps for want of memory" in (explain(BrokenProcessPool("terminated abruptly")) or "")
