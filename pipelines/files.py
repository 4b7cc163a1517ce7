"""Files that are there whole or not at all, and the folder where the pipelines keep theirs."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

FOLDER = Path("mlruns")


def write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader, a crash or a full disk never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # mkstemp's are for one user alone
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    write(path, json.dumps(content, indent=1).encode())


def place(name: str) -> Path:
    """A file or folder as it was named, ~ being one's own and ~somebody somebody's."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is nobody of that name: then it is the name of a file
        return Path(name)


def spelt(name: str) -> str:
    """A file's name as text, which it need not be: bytes that are no UTF-8 are spelt out."""
    return name.encode("utf-8", "backslashreplace").decode()
