"""Rows of answers: kept in a file while they arrive, written as CSV or Parquet once all are there, and counted."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from digits.metrics import accuracy_interval
from pipelines import files
from pipelines.errors import UserError
from pipelines.reader import COLUMNS, DECIMALS, Row

PARQUET_ROWS = 2**16  # in a row group
SHOWN = 10  # unreadable pictures that are listed; all are in the answers

PATH, DIGIT, ACCEPTED, LABEL, ERROR = (COLUMNS.index(name) for name in ("path", "digit", "accepted", "label", "error"))


class Partial:
    """Finished groups of an output that is not whole yet, in OUTPUT.partial: a line of JSON each, in any order.

    The first line says what the answers depend on (`facts`); where that is something else now, all begins anew. A last
    line that was cut short is dropped. Raises UserError where another process is at the same output.
    """

    def __init__(self, output: Path, facts: str) -> None:
        self.path = output.with_name(f"{output.name}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"another process is writing {output}; wait for it or name another output") from None
        self._places: dict[int, int] = {}
        header = json.dumps({"facts": facts}).encode() + b"\n"
        self._file.seek(0)
        found = self._file.readline()
        self.discarded = found not in (b"", header)
        if found == header:
            self._load(len(header))
        else:
            self._file.truncate(0)
            self._file.write(header)
            self._file.flush()

    def _load(self, place: int) -> None:
        for line in self._file:
            try:
                number, _ = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            self._places[number] = place
            place += len(line)
        self._file.truncate(place)

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, number: int, rows: list[Row]) -> None:
        """Keeps a group; once this returns, it outlives the process. A group that is kept already stays as it is."""
        if number in self._places:
            return
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps([number, rows]).encode() + b"\n")
        self._file.flush()
        self._places[number] = place

    def groups(self) -> Iterator[list[Row]]:
        """All that is kept, by number."""
        for number in sorted(self._places):
            self._file.seek(self._places[number])
            yield json.loads(self._file.readline())[1]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def write(output: Path, groups: Iterable[list[Row]]) -> None:
    """Writes all rows to a .csv or .parquet file, which is there whole or not at all."""
    fill = parquet if output.suffix == ".parquet" else comma_separated
    files.write(output, lambda file: fill(file, groups))


def comma_separated(file: BinaryIO, groups: Iterable[list[Row]]) -> None:
    """UTF-8, a heading, true and false, empty where there is nothing."""
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rows in groups:
        writer.writerows([_cell(value) for value in row] for row in rows)
    text.flush()
    text.detach()


def _cell(value: str | int | float | bool | None) -> str | int | None:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.{DECIMALS}f}" if isinstance(value, float) else value


def parquet(file: BinaryIO, groups: Iterable[list[Row]]) -> None:
    """The same columns with their types, null where there is nothing."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    types: dict[str, Any] = dict.fromkeys(COLUMNS, pyarrow.float64())
    types |= {"path": pyarrow.string(), "error": pyarrow.string(), "accepted": pyarrow.bool_()}
    types |= {"digit": pyarrow.int8(), "label": pyarrow.int8()}
    schema = pyarrow.schema(list(types.items()))
    with ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _gathered(groups, PARQUET_ROWS):
            columns = [
                pyarrow.array(column, kind)
                for column, kind in zip(zip(*rows, strict=True), types.values(), strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _gathered(groups: Iterable[list[Row]], most: int) -> Iterator[list[Row]]:
    waiting: list[Row] = []
    for rows in groups:
        waiting += rows
        if len(waiting) >= most:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


@dataclass
class Summary:
    """What the rows come to. `confusion` (10, 10): counts by label and answer, of pictures that have both."""

    pictures: int = 0
    unreadable: int = 0
    refused: int = 0
    labelled: int = 0
    correct: int = 0
    accepted: int = 0
    accepted_correct: int = 0
    digits: NDArray[np.int64] = field(default_factory=lambda: np.zeros(10, np.int64))
    confusion: NDArray[np.int64] = field(default_factory=lambda: np.zeros((10, 10), np.int64))
    bad: list[tuple[str, str]] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Counts a row. A labelled picture that can't be read counts as answered wrong, as for whoever sent it."""
        label, digit = row[LABEL], row[DIGIT]
        self.pictures += 1
        self.labelled += label is not None
        if not isinstance(digit, int):
            self.unreadable += 1
            if len(self.bad) < SHOWN:
                self.bad.append((str(row[PATH]), str(row[ERROR])))
            return
        self.digits[digit] += 1
        self.refused += not row[ACCEPTED]
        if isinstance(label, int):
            right = label == digit
            self.confusion[label, digit] += 1
            self.correct += right
            self.accepted += bool(row[ACCEPTED])
            self.accepted_correct += right and bool(row[ACCEPTED])

    def counted(self, groups: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Counts rows on their way to somewhere else."""
        for rows in groups:
            for row in rows:
                self.add(row)
            yield rows

    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy (Wilson)."""
        return accuracy_interval(self.correct, self.labelled)

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Labels and answers (n,) of the confusion's n pictures, by label."""
        cells = np.argwhere(self.confusion)
        each = np.repeat(cells, self.confusion[tuple(cells.T)], axis=0)
        return each[:, 0], each[:, 1]

    def as_text(self) -> str:
        """The closing lines: counts, accuracy and confusion where labels are known, what could not be read."""
        readable = self.pictures - self.unreadable
        lines = [
            f"{self.pictures:,} pictures: {readable - self.refused:,} accepted, {self.refused:,} refused,"
            f" {self.unreadable:,} unreadable"
        ]
        if self.labelled:
            low, high = self.interval()
            lines.append(
                f"accuracy  {self.correct / self.labelled:.2%} ({self.correct:,} of {self.labelled:,} labelled,"
                f" 95% interval {low:.2%} to {high:.2%})"
            )
            if self.accepted:
                share = self.accepted_correct / self.accepted
                lines.append(f"          {share:.2%} of the {self.accepted:,} labelled pictures that were accepted")
            lines += ["confusion (row: label, column: answer)", *self._matrix()]
        if self.bad:
            lines.append("unreadable:")
            lines += [f"  {path}: {error}" for path, error in self.bad]
            if self.unreadable > len(self.bad):
                lines.append(f"  and {self.unreadable - len(self.bad):,} more: see the column error")
        return "\n".join(lines)

    def _matrix(self) -> list[str]:
        width = max(3, len(str(self.confusion.max())) + 1)
        head = "  " + " " * 2 + "".join(f"{digit:>{width}}" for digit in range(10))
        cells = [[str(n) if n else "·" for n in row] for row in self.confusion]
        return [head, *(f"  {digit} " + "".join(f"{cell:>{width}}" for cell in row) for digit, row in enumerate(cells))]
