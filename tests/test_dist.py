"""`make dist`: what is in the archives, and that what is in them works where nothing else is."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy.dist import archives

PROJECT = Path(__file__).resolve().parents[1]
IN_GIT = subprocess.run(["git", "-C", str(PROJECT), "rev-parse"], capture_output=True).returncode == 0
# Quick, and on both sides of the seam between what trains and what serves.
QUICK = ("test_metrics.py", "test_imaging.py", "test_classifier.py", "test_settings.py", "test_requests.py")

pytestmark = pytest.mark.skipif(not IN_GIT, reason="archives are made from a git checkout")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "deploy.dist", str(folder)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def version() -> str:
    return str(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"])


def test_the_quick_tests_pass_from_an_archive_unpacked_into_an_empty_folder(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(dist / f"digits-{version()}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / f"digits-{version()}"
    quick = [f"tests/{name}" for name in QUICK if (root / "tests" / name).is_file()]
    assert quick
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *quick]
    done = subprocess.run(command, cwd=root, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    imported = subprocess.run(
        [sys.executable, "-c", "import digits; print(digits.__file__)"], cwd=root, capture_output=True, text=True
    )
    assert Path(imported.stdout.strip()).is_relative_to(root)


def test_both_archives_hold_the_same_files_under_one_folder(dist: Path) -> None:
    with (
        tarfile.open(dist / f"digits-{version()}.tar.gz") as tar,
        zipfile.ZipFile(dist / f"digits-{version()}.zip") as z,
    ):
        names = tar.getnames()
        assert names == z.namelist()
        assert all(name.startswith(f"digits-{version()}/") for name in names)
        assert [n for n in names if tar.extractfile(n).read() != z.read(n)] == []  # type: ignore[union-attr]


def test_instructions_licence_and_commit_are_in_and_nothing_of_git_or_of_runs(dist: Path) -> None:
    with zipfile.ZipFile(dist / f"digits-{version()}.zip") as archive:
        names = {name.split("/", 1)[1] for name in archive.namelist()}
        assert {"README.md", "INSTALL.md", "LICENSE", "Makefile", "MLproject", "service.py", "REVISION"} <= names
        assert not [
            n for n in names if n.startswith((".git/", ".venv/", "data/", "dist/")) or n.endswith((".onnx", ".db"))
        ]
        revision = archive.read(f"digits-{version()}/REVISION").decode()
    head = subprocess.run(["git", "-C", str(PROJECT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert revision.strip().removesuffix("-dirty") == head.strip()


def test_the_checksums_are_those_of_the_archives(dist: Path) -> None:
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


def test_the_same_files_make_the_same_bytes_at_any_time() -> None:
    files = {"a.py": (b"print()", False), "run.sh": (b"exit 0", True)}
    first = archives("digits", files)
    assert archives("digits", files) == first
    with zipfile.ZipFile(io.BytesIO(first["digits.zip"])) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert first["digits.tar.gz"][4:8] == bytes(4)  # gzip's own time stamp
