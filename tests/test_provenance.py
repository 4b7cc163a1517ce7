"""Which commit a model is of, in a checkout and in a release archive."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import provenance

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that takes the place of the source."""
    monkeypatch.setattr(provenance, "HERE", tmp_path)
    provenance.git.cache_clear()
    yield tmp_path
    provenance.git.cache_clear()


@pytest.mark.parametrize(("text", "dirty"), [(COMMIT, "false"), (f"{COMMIT}-dirty", "true")])
def test_a_release_archive_has_the_commit_in_a_file_whatever_repository_it_lies_in(
    source: Path, text: str, dirty: str
) -> None:
    subprocess.run(["git", "init", "--quiet", str(source)], check=True)
    (source / "REVISION").write_text(f"{text}\n")
    assert provenance.git() == {"git_commit": COMMIT, "git_dirty": dirty}


def test_what_git_cannot_say_is_unknown(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_git", lambda *words: COMMIT if words[0] == "rev-parse" else None)
    assert provenance.git() == {"git_commit": COMMIT, "git_dirty": "unknown"}


def test_without_git_and_without_that_file_it_is_unknown(source: Path) -> None:
    (source / ".git").write_text("gitdir: nowhere\n")
    assert provenance.git() == {"git_commit": "unknown", "git_dirty": "unknown"}
