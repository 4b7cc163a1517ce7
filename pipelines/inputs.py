"""Which pictures are meant: a folder, a zip file, a pattern or files come in; their names in a fixed order, labels
where they have any, and a way to read them go out.

Names are relative to the folder, to the zip file or to the fixed part of the pattern, so that the same pictures have
the same names however they are given.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import os
import posixpath
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from pipelines.errors import UserError
from pipelines.files import place

LABELS = "labels.csv"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
NOT_READ = frozenset({".heic", ".heif", ".avif", ".jxl", ".svg", ".pdf", ".dng", ".raw"})
ACCEPTED = "a folder, a zip file, a picture or a quoted pattern such as 'pictures/**/*.jpg'"


def first_bytes(file: Path, most: int) -> bytes:
    """As many of a file's bytes, at most. Raises OSError."""
    with file.open("rb") as opened:
        return opened.read(most)


@dataclass(frozen=True)
class Source:
    """Where names are looked up: in a folder, or in a zip file."""

    root: str
    archive: bool = False

    def read(self, name: str, most: int) -> bytes:
        """The first `most` bytes. Raises OSError, or for a member of a zip file what `zipfile` raises."""
        if self.archive:
            with _opened(self.root).open(name) as member:
                return member.read(most)
        return first_bytes(Path(self.root, name), most)

    def check(self) -> None:
        """Raises FileNotFoundError where this machine does not see the pictures' folder or zip file."""
        if not Path(self.root).exists():
            raise FileNotFoundError(f"{self.root} is not there on this machine")


@lru_cache(maxsize=4)
def _opened(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)  # kept open: its directory of members is read once in each process


@dataclass(frozen=True)
class Listing:
    """Pictures in a fixed order. `labels` are 0 to 9, None where unknown; `fingerprint` changes with any name, size,
    time of change (in a zip file: checksum) or label."""

    name: str
    source: Source
    names: tuple[str, ...] = field(repr=False)
    labels: tuple[int | None, ...] = field(repr=False)
    fingerprint: str


def find(given: str) -> Listing:
    """The pictures of a folder (with its sub-folders), a zip file or a pattern, or one picture. Raises UserError."""
    path = place(given)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _zip(path) if zipfile.is_zipfile(path) else _listing(path.name, Source(str(path.parent)), [path.name])
    if glob.has_magic(given):
        return _pattern(str(path))
    raise UserError(f"there is nothing at {given!r}; expected {ACCEPTED}")


def of_files(paths: Sequence[str]) -> Listing:
    """These very files, in the order given. One that is not there is an answer that can't be given, not an error."""
    return _listing(f"{len(paths):,} files", Source(""), list(dict.fromkeys(paths)))


def labelled(folder: Path) -> list[tuple[Path, int]]:
    """The files of a folder that have a label, and it; a word on those without. Raises UserError where none has."""
    listing = find(str(folder))
    known = [(folder / name, label) for name, label in zip(listing.names, listing.labels, strict=True)]
    found = [(path, label) for path, label in known if label is not None]
    if not found:
        raise UserError(
            f"{folder}: no picture has a label; expected sub-folders named 0 to 9, or a {LABELS} with the columns"
            " path,label"
        )
    if len(found) < len(known):
        print(f"{folder}: {len(known) - len(found):,} pictures without a label are left out")
    return found


def _folder(folder: Path) -> Listing:
    found = []
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(above).relative_to(folder)
        found += [(relative / name).as_posix() for name in files]
    source = Source(str(folder))
    names, labels = _with_labels(source, found)
    return _listing(_title(folder), source, sorted({*names, *labels}), labels)


def _zip(path: Path) -> Listing:
    source = Source(str(path), archive=True)
    try:
        found = [info.filename for info in _opened(str(path)).infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:  # a name or a version of another kind
        raise UserError(f"{path} can't be read: {error}; expected a whole zip file") from None
    names, labels = _with_labels(source, found)
    return _listing(path.name, source, sorted({*names, *labels}), labels)


def _pattern(pattern: str) -> Listing:
    parts = Path(pattern).parts
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    root, rest = Path(*parts[:fixed]), str(Path(*parts[fixed:]))
    source = Source(str(root))
    found = [
        PurePosixPath(name).as_posix()
        for name in glob.glob(rest, root_dir=root, recursive=True)  # noqa: PTH207  (Path.glob differs by Python version)
        if (root / name).is_file()
    ]
    beside = [LABELS] if (root / LABELS).is_file() else []
    names, labels = _with_labels(source, [*found, *beside])
    return _listing(pattern, source, sorted(names), labels)


def _with_labels(source: Source, found: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    """The pictures among the files found, by their names' endings, and what their folders or a labels.csv say."""
    files = {name for name in found if not name.startswith("__MACOSX/")}
    endings = {
        name: PurePosixPath(name).suffix.lower() for name in files if not posixpath.basename(name).startswith(".")
    }
    names = [name for name, ending in endings.items() if ending in SUFFIXES]
    others = [ending for ending in endings.values() if ending in NOT_READ]
    if others:
        kinds = " ".join(sorted(set(others)))
        print(
            f"left out in {source.root}: not read: {len(others):,} {kinds}: save them as JPEG or PNG",
            file=sys.stderr,
        )
    base = _common_folder(names) if names else PurePosixPath()
    for folder in (base, *base.parents):
        listing = str(folder / LABELS)
        if listing in files:
            return names, _listed(source, listing)
    return names, _by_folder(names, base)


def _common_folder(names: Sequence[str]) -> PurePosixPath:
    """The folder above the folders 0 to 9, or above all pictures where there are none such."""
    folder = PurePosixPath(posixpath.commonpath([posixpath.dirname(name) for name in names]))
    return folder.parent if folder.name in set("0123456789") else folder


def _by_folder(names: Iterable[str], base: PurePosixPath) -> dict[str, int]:
    labels = {}
    for name in names:
        parts = PurePosixPath(name).relative_to(base).parts
        if len(parts) == 2 and parts[0] in set("0123456789"):
            labels[name] = int(parts[0])
    return labels


def _listed(source: Source, listing: str) -> dict[str, int]:
    """What a labels.csv with the columns path and label says. Raises UserError."""
    lines = io.StringIO(source.read(listing, -1).decode("utf-8-sig", "surrogateescape"), newline="")
    labels = {}
    for number, row in enumerate(_rows(lines, f"{source.root}: {listing}"), start=2):
        path, label = row.get("path"), (row.get("label") or "").strip()
        if not path or label not in set("0123456789"):
            raise UserError(
                f"{source.root}: {listing}:{number}: expected the columns path,label with a label 0 to 9, got {row}"
            )
        labels[posixpath.normpath(posixpath.join(posixpath.dirname(listing), path.strip()))] = int(label)
    return labels


def _rows(lines: io.StringIO, name: str) -> Iterator[dict[str, str | None]]:
    try:
        yield from csv.DictReader(lines)
    except csv.Error as error:
        raise UserError(f"{name} can't be read: {error}; expected the columns path,label") from None


def _title(folder: Path) -> str:
    return folder.name or folder.resolve().name


def _listing(name: str, source: Source, names: list[str], labels: dict[str, int] | None = None) -> Listing:
    if not names:
        endings = " ".join(sorted(SUFFIXES))
        raise UserError(f"there are no pictures in {source.root or name}; expected files that end in one of {endings}")
    known = labels or {}
    digest = hashlib.sha256()
    for each in names:
        facts = f"{each}\0{_version(source, each)}\0{known.get(each)}\n"
        digest.update(facts.encode("utf-8", "surrogatepass"))
    return Listing(name, source, tuple(names), tuple(known.get(each) for each in names), digest.hexdigest())


def _version(source: Source, name: str) -> str:
    """What changes when the file does."""
    try:
        if source.archive:
            info = _opened(source.root).getinfo(name)
            return f"{info.file_size} {info.CRC}"
        status = Path(source.root, name).stat()
    except (OSError, KeyError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
