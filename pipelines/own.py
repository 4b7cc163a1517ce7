"""Pictures of one's own to learn from: labelled folders come in; what joins the training and what is held out go out.

A fifth of each digit's pictures is held out: never learnt from nor chosen by, and reported on by itself. Which ones is
settled by their content, so that neither the order nor the place of the folders, nor a copy of a picture, changes it.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digits.data import Split
from digits.imaging import Limits
from digits.segmenter import Segmenter
from digits.workers import Progress
from pipelines import inputs, reader
from pipelines.errors import UserError

NAME = "own pictures"  # of the data set that MLflow shows
HELD_OUT = "own pictures, held out"  # the name of the set in the report
SHARE = 5  # one in so many is held out
FEWEST = 20  # pictures that can be used
COPY = "a copy of another picture"
# Of the labelled pictures that are no plain digits, and how often one may be shown to come near that. A handful that
# fills a third of these would be learnt by heart.
PART, REPEATED = 3, 10
NAMED = 5  # bad files in the terminal; all of them are in the table of the run


@dataclass(frozen=True)
class Picture:
    """One file. `sha256` is empty where it could not be opened; `problem` says why it is left out, or is empty."""

    path: Path
    label: int
    sha256: str
    problem: str = ""
    held_out: bool = False

    @property
    def part(self) -> str:
        return "left out" if self.problem else "held out" if self.held_out else "training"


@dataclass(frozen=True)
class Own:
    """What the folders hold. `train`: its pictures as imaging hands them over (first candidate, until a segmenter has
    `seen` them), in the order of their sha256; `fingerprint`: the sha256 of the contents and labels of both parts,
    wherever they lie."""

    pictures: tuple[Picture, ...] = field(repr=False)
    train: Split
    fingerprint: str

    def of(self, part: str) -> list[Picture]:
        return [picture for picture in self.pictures if picture.part == part]

    def as_text(self) -> str:
        held_out, left_out = len(self.of("held out")), len(self.of("left out"))
        left = f", {left_out:,} left out" if left_out else ""
        return (
            f"own pictures: {len(self.train):,} to train, {held_out:,} held out{left}, fingerprint "
            + (self.fingerprint[:12])
        )


def load(folders: Sequence[Path], workers: int) -> Own | None:
    """The pictures of labelled folders, told to the user; None where there is no folder.

    Raises:
        UserError: a folder has no labels, no picture can be read, or there are too few.
    """
    if not folders:
        return None
    found = [file for folder in folders for file in inputs.labelled(folder)]
    with ThreadPoolExecutor(workers) as pool:
        read = list(pool.map(_read, found))
    pictures = _without_copies(read)
    _tell(pictures)
    usable = [picture for picture in pictures if not picture.problem]
    if len(usable) < FEWEST:
        first = next((f"; {p.path}: {p.problem}" for p in pictures if p.problem), "")
        raise UserError(
            f"extra={','.join(map(str, folders))}: {len(usable)} of {len(pictures)} pictures can be used, expected at"
            f" least {FEWEST} to learn from{first}"
        )
    held_out = _held_out(usable)
    pictures = [replace(p, held_out=not p.problem and p.sha256 in held_out) for p in pictures]
    shown = {picture.sha256: image for picture, image in read if image is not None}
    ordered = _to_train(pictures)
    train = Split(
        np.stack([shown[picture.sha256] for picture in ordered]), np.array([p.label for p in ordered], np.int64)
    )
    return Own(tuple(pictures), train, _fingerprint(usable, held_out))


def seen(own: Own, segmenter: Segmenter, workers: int, progress: Progress) -> NDArray[np.uint8]:
    """The pictures to train on, uint8 (n, 28, 28), in their order, as a segmenter sees them.

    In hard photographs the first candidate of imaging is not the digit twice as often (docs/log.md). Raises UserError
    where a picture has changed since it was loaded.
    """
    pictures = _to_train(own.pictures)
    images = []
    with ThreadPoolExecutor(workers) as pool:
        read = pool.map(partial(_read, segmenter=segmenter), ((picture.path, picture.label) for picture in pictures))
        for picture, (now, image) in zip(pictures, read, strict=True):
            if image is None or now.sha256 != picture.sha256:
                reason = f" ({now.problem})" if now.problem else ""
                raise UserError(
                    f"{picture.path} has changed since this command began{reason}; the same command takes it anew"
                )
            images.append(image)
            progress(len(images), len(pictures))
    return np.stack(images)


def _to_train(pictures: Sequence[Picture]) -> list[Picture]:
    """In an order that does not depend on paths, which differ between machines that work on one study."""
    return sorted((picture for picture in pictures if picture.part == "training"), key=lambda picture: picture.sha256)


def joined(photographs: Split | None, own: Own | None) -> Split | None:
    """Synthetic photographs and one's own pictures, these repeated until they are a third, ten times at most."""
    if own is None:
        return photographs
    if photographs is None:
        return own.train
    times = max(1, min(REPEATED, len(photographs) // ((PART - 1) * len(own.train))))
    parts = [photographs, *[own.train] * times]
    return Split(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def fingerprint_of_all(data: str, own: Own | None) -> str:
    """One fingerprint of the data set and, where there are any, one's own pictures."""
    return hashlib.sha256(f"{data} {own.fingerprint}".encode()).hexdigest() if own else data


def _read(file: tuple[Path, int], segmenter: Segmenter | None = None) -> tuple[Picture, NDArray[np.uint8] | None]:
    """A file and its label; with them the candidate that the segmenter sees, the first without one."""
    path, label = file
    limits = Limits()
    try:
        content = inputs.first_bytes(path, limits.max_bytes + 1)
    except OSError as error:
        return Picture(path, label, "", f"the file can't be read: {error.strerror or error}"), None
    sha256 = hashlib.sha256(content).hexdigest()
    reading = reader.read(content, limits, segmenter)
    if isinstance(reading, str):
        return Picture(path, label, sha256, reading), None
    if reading.blank:
        return Picture(path, label, sha256, "there is nothing drawn in it"), None
    return Picture(path, label, sha256), reading.images[reading.seen]


def _without_copies(read: Sequence[tuple[Picture, NDArray[np.uint8] | None]]) -> list[Picture]:
    """What looks the same to the model would be in both parts, or count twice; with two labels it is right with
    neither."""
    alike: dict[bytes, list[Picture]] = {}
    for picture, image in read:
        if image is not None:
            alike.setdefault(image.tobytes(), []).append(picture)
    kept = []
    for picture, image in read:
        same = [] if image is None else alike[image.tobytes()]
        labels = sorted({each.label for each in same})
        if len(labels) > 1:
            picture = replace(picture, problem=f"the same picture is labelled {' and '.join(map(str, labels))}")
        elif same and picture is not min(same, key=lambda each: (each.sha256, each.path)):
            picture = replace(picture, problem=COPY)
        kept.append(picture)
    return kept


def _held_out(usable: Sequence[Picture]) -> set[str]:
    """A fifth of each digit's pictures, at least one of two; of a digit with one picture none."""
    chosen: set[str] = set()
    for digit in range(10):
        of_digit = sorted(picture.sha256 for picture in usable if picture.label == digit)
        count = max(round(len(of_digit) / SHARE), min(1, len(of_digit) - 1), 0)
        chosen.update(of_digit[:count])
    return chosen


def _fingerprint(usable: Sequence[Picture], held_out: set[str]) -> str:
    lines = sorted(f"{p.sha256} {p.label} {p.sha256 in held_out}" for p in usable)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _tell(pictures: Sequence[Picture]) -> None:
    bad = [picture for picture in pictures if picture.problem]
    for picture in bad[:NAMED]:
        print(f"left out: {picture.path}: {picture.problem}", file=sys.stderr)
    if len(bad) > NAMED:
        print(f"left out: {len(bad) - NAMED:,} more", file=sys.stderr)
    missing = sorted(set(range(10)) - set(Counter(p.label for p in pictures if not p.problem)))
    if missing:
        print(f"own pictures: none of {', '.join(map(str, missing))}; these are learnt from the other pictures only")


# -- the held-out part, later ------------------------------------------------------------------------------------------

COLUMNS = ("path", "label", "part", "sha256", "problem")
TABLE = "own pictures.json"
Rows = Sequence[Sequence[str | int]]  # of COLUMNS


def as_rows(own: Own) -> Rows:
    """The table that is logged with a training."""
    return [[str(p.path.absolute()), p.label, p.part, p.sha256, p.problem] for p in own.pictures]


def still_there(rows: Rows) -> tuple[list[tuple[Path, int]], int]:
    """Of a table's held-out pictures those that lie where they lay, unchanged, with their labels, in the order of
    their sha256, since a gate compares the same pictures in the same order; and how many do not."""
    wanted = [(str(sha256), Path(str(path)), int(label)) for path, label, part, sha256, _ in rows if part == "held out"]
    found = [(path, label) for sha256, path, label in sorted(wanted) if sha256_of(path) == sha256]
    return found, len(wanted) - len(found)


def learnt_from(rows: Rows) -> set[str]:
    """The sha256 of all pictures that were learnt from, and of those that look just like another of them."""
    return {str(sha256) for _, _, part, sha256, problem in rows if part == "training" or problem == COPY}


def sha256_of(path: Path) -> str:
    """Of a file's content; empty where it can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
