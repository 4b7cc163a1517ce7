"""Which commit this source is of: a git checkout or a release archive in, one line out."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.provenance import git

PROJECT = Path(__file__).resolve().parents[1]


def source_revision() -> str:
    """The git commit, with `-dirty` where files differ from it.

    A release archive has no git: its file REVISION says what it was made from. Elsewhere SOURCE_REVISION or "unknown".
    """
    if (PROJECT / "REVISION").is_file():
        return (PROJECT / "REVISION").read_text().strip()
    found = git()
    if found["git_commit"] == "unknown":
        return os.environ.get("SOURCE_REVISION", "unknown")
    return found["git_commit"] + ("-dirty" if found["git_dirty"] == "true" else "")
