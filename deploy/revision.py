"""Which commit this source is of: a git checkout or a release archive in, one line out.

By itself, without pipelines/: it is imported inside the image too, as part of what describes the image.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def source_revision() -> str:
    """The git commit, with `-dirty` where files differ from it.

    A release archive has no git: its file REVISION says what it was made from. Elsewhere SOURCE_REVISION or "unknown".
    """
    if (PROJECT / "REVISION").is_file():
        return (PROJECT / "REVISION").read_text().strip()
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain") else commit
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("SOURCE_REVISION", "unknown")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
