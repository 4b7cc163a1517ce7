"""The one function that both engines run: a model and the names of a few pictures in, a row of answers for each out.

Pictures go through it in fixed groups, so that whatever runs it, in whatever order, on however many cores, and however
often it was interrupted, the model sees the same batches and gives the same answers to the last bit.
"""

from __future__ import annotations

import json
import lzma
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from digits import imaging
from digits.classifier import Answer, Classifier
from digits.imaging import ImageError, Limits, Reading
from digits.segmenter import Segmenter
from digits.workers import begin
from pipelines.files import spelt
from pipelines.inputs import Listing, Source

SIZE = 32  # pictures in a group
SMALL = 2  # so few groups are done faster than processes start
DECIMALS = 6

# path, digit, probability, accepted, p0 … p9, label, error: what there isn't is None.
Row = list[str | int | float | bool | None]
COLUMNS = ("path", "digit", "probability", "accepted", *(f"p{digit}" for digit in range(10)), "label", "error")


@dataclass(frozen=True)
class Group:
    """Consecutive pictures of a listing."""

    number: int
    names: tuple[str, ...]
    labels: tuple[int | None, ...]

    def to_json(self) -> str:
        return json.dumps([self.number, self.names, self.labels])

    @staticmethod
    def from_json(text: str) -> Group:
        number, names, labels = json.loads(text)
        return Group(number, tuple(names), tuple(labels))


def count(listing: Listing) -> int:
    return -(-len(listing.names) // SIZE)


def groups(listing: Listing) -> Iterator[Group]:
    """The listing in groups of SIZE, the last one shorter."""
    for number in range(count(listing)):
        part = slice(number * SIZE, (number + 1) * SIZE)
        yield Group(number, listing.names[part], listing.labels[part])


class Reader:
    """A model at work on the pictures of a source. Raises ModelError where the model can't be used."""

    def __init__(self, model: bytes, source: Source) -> None:
        self._classifier = Classifier(model)
        self._source = source

    def __call__(self, group: Group) -> list[Row]:
        """One row for each picture, in order; a picture that can't be read has the reason in its last column."""
        readings = [self._read(name) for name in group.names]
        answers = iter(self._classifier.classify([reading for reading in readings if isinstance(reading, Reading)]))
        return [
            _row(name, label, next(answers) if isinstance(reading, Reading) else reading)
            for name, label, reading in zip(group.names, group.labels, readings, strict=True)
        ]

    def _read(self, name: str) -> Reading | str:
        limits = Limits()
        try:
            content = self._source.read(name, limits.max_bytes + 1)
        except OSError as error:
            return f"the file can't be read: {error.strerror or error}"
        except (KeyError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
            return f"the zip file's member can't be read: {error.args[0] if error.args else error}"
        return read(content, limits, self._classifier.segmenter)


def read(content: bytes, limits: Limits, segmenter: Segmenter | None = None) -> Reading | str:
    """What a picture shows, or in a line why it can't be read: no picture ends a command."""
    try:
        return imaging.read(content, limits, segmenter)
    except ImageError as error:
        return " ".join(str(error).split())
    except Exception as error:
        return f"the image can't be read: {type(error).__name__}: {error}".splitlines()[0]


def _row(name: str, label: int | None, answer: Answer | str) -> Row:
    path = spelt(name)
    if isinstance(answer, str):
        return [path, *[None] * 13, label, " ".join(answer.split())]
    numbers = [round(number, DECIMALS) for number in answer.probabilities]
    return [path, answer.digit, round(answer.probability, DECIMALS), answer.accepted, *numbers, label, None]


# -- the engine of one machine ----------------------------------------------------------------------------------------

_reader: Reader | None = None


def answer(model: bytes, source: Source, work: Iterable[Group], workers: int) -> Iterator[tuple[int, list[Row]]]:
    """Yields each group's number and rows, in order, from `workers` processes.

    Processes, since reading a picture holds Python's lock for 31% of its time (632 samples on photographs): threads
    would keep three cores busy at most. Few groups are done in this process.
    """
    waiting = deque(work)
    if workers <= 1 or len(waiting) <= SMALL:
        reader = Reader(model, source)
        for group in waiting:
            yield group.number, reader(group)
        return
    started: deque[Future[tuple[int, list[Row]]]] = deque()
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (model, source)) as pool:
        try:
            while waiting or started:
                while waiting and len(started) < 4 * workers:  # no more ahead than keeps every process busy
                    started.append(pool.submit(_work, waiting.popleft()))
                yield started.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _start(model: bytes, source: Source) -> None:
    global _reader
    begin()
    _reader = Reader(model, source)


def _work(group: Group) -> tuple[int, list[Row]]:
    assert _reader is not None
    return group.number, _reader(group)
