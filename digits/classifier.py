"""The trained network at work: 28×28 pictures in, probabilities and one decided answer for each picture out.

The model is one ONNX file that carries everything it needs in its graph and metadata; nothing here ever unpickles.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from digits.runtime import session_of
from digits.segmenter import Segmenter
from digits.thumbnails import SAME, SIDE

if TYPE_CHECKING:
    from digits.imaging import Reading

DEFAULT_THRESHOLD = 0.5
CLASSES = 10
ONE = 1
# What a candidate counts beside others, fitted on 3,000 hard photographs of validation digits as three models read them
# (docs/log.md): its odds of being a digit to a power, a share of it where it is read as 1, as edges, rulings and rims
# are, and a share that falls with its distance from what the segmenter saw.
ODDS = 0.27
BAR = 0.083
DISTANCE = 6.2
# Of a photograph counts how far its candidates agree, times this power of how likely a segmenter finds a digit in it.
PRESENCE = 0.1
LIKELIER = 0.5  # a digit that is less likely than all others together is not stood behind, however good its candidate
AT_ONCE = 64  # readings: a call takes up to a megabyte of memory for each
SURE = 1e-6  # odds have to be finite, where int8 has rounded to 0 or 1
PHOTOGRAPH_THRESHOLD = "photograph_threshold"  # the metadata's entry for what `threshold` is for other pictures
SEGMENTER = "segmenter"  # the metadata's entry for the network that finds strokes, as base64


def carrying(segmenter: bytes) -> dict[str, str]:
    """The entry of a model's metadata that holds a segmenter, an ONNX file; `Classifier` takes it out again."""
    return {SEGMENTER: base64.b64encode(segmenter).decode()}


class ModelError(ValueError):
    """A model file that can't be served; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said about one picture.

    `digit` is the best guess and `probability` its calibrated probability among the ten digits; `accepted` is false
    where the picture holds no digit that the model can stand behind. `chosen` is the index of the candidate used and
    `score`, 0 to 1, what the threshold is held against: how surely the chosen candidate is one digit, and this one; of
    a photograph, how far all its candidates agree on that, and what a segmenter makes of the whole. It is 0 where the
    reading alone says that there is no digit, or the candidates agree on none.
    """

    digit: int
    probability: float
    probabilities: tuple[float, ...]
    accepted: bool
    chosen: int
    score: float


class Classifier:
    """One loaded model. Thread-safe: ONNX Runtime sessions may run concurrently.

    `threads` is the number of threads used *inside* one call. One is right for serving, where the cores are better
    spent on several requests. `segmenter`, where the file has one, is for digits.imaging to see photographs with.
    Raises ModelError where the file is no model or not this kind of model.
    """

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        name = model.name if isinstance(model, Path) else "model"
        try:
            content = model.read_bytes() if isinstance(model, Path) else model
        except OSError as error:
            raise ModelError(f"{name} can't be read: {error.strerror}") from error
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self._session = session_of(content, threads)
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise ModelError(f"{name} is not a model that ONNX Runtime can load: {_line(error)}") from error
        self._check(name)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.segmenter = self._its_segmenter(name)
        self.threshold = self._number("threshold", DEFAULT_THRESHOLD)
        # A model without a threshold for photographs is held to the rule that it was measured by.
        self._has_two = PHOTOGRAPH_THRESHOLD in self.metadata
        self.photograph_threshold = self._number(PHOTOGRAPH_THRESHOLD, self.threshold)
        self._scale = log(_inside(self.threshold)) / log(_inside(self.photograph_threshold))

    def _check(self, name: str) -> None:
        inputs = {i.name: (i.type, len(i.shape), i.shape[1:]) for i in self._session.get_inputs()}
        outputs = {o.name: (o.type, len(o.shape)) for o in self._session.get_outputs()}
        if inputs != {"images": ("tensor(uint8)", 3, [SIDE, SIDE])}:
            raise ModelError(f"{name} takes {inputs}, expected one input: images, uint8, (n, {SIDE}, {SIDE})")
        expected = {"probabilities": ("tensor(float)", 2), "digitness": ("tensor(float)", 1)}
        if {key: outputs.get(key) for key in expected} != expected:
            raise ModelError(
                f"{name} gives {outputs}, expected probabilities float32 (n, 10) and digitness float32 (n)"
            )
        try:
            probabilities, digitness = self.scores(np.zeros((2, SIDE, SIDE), np.uint8))
        except Exception as error:
            raise ModelError(f"{name} fails on a batch of two: {_line(error)}") from error
        if probabilities.shape != (2, CLASSES) or digitness.shape != (2,):
            raise ModelError(
                f"{name} answers two pictures with {probabilities.shape} and {digitness.shape}, not (2, 10) and (2,)"
            )
        if not (np.isfinite(probabilities).all() and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)):
            raise ModelError(f"the probabilities of {name} do not sum to 1 in each row")
        if not ((digitness >= 0) & (digitness <= 1)).all():
            raise ModelError(f"{name} gives digitness {digitness.tolist()}, expected numbers from 0 to 1")

    def _its_segmenter(self, name: str) -> Segmenter | None:
        """The network that finds strokes in photographs, which travels in the metadata; None where there is none."""
        text = self.metadata.pop(SEGMENTER, None)
        try:
            return None if text is None else Segmenter(base64.b64decode(text, validate=True))
        except ValueError as error:
            raise ModelError(f"in the metadata of {name}, {error}") from error

    def _number(self, key: str, default: float) -> float:
        text = self.metadata.get(key)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not 0 <= number <= 1:
            raise ModelError(f"the model's metadata say {key} = {text!r}, expected a number from 0 to 1")
        return number

    def scores(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores n pictures, uint8 (n, 28, 28), white ink on black, in one call.

        Gives calibrated probabilities, float32 (n, 10), each row summing to 1, and float32 (n,): how probable it is
        that the picture is one digit at all. Raises ValueError for any other shape or type.
        """
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"expected uint8 (n, {SIDE}, {SIDE}), got {images.dtype} {images.shape}")
        if not len(images):
            return np.empty((0, CLASSES), np.float32), np.empty(0, np.float32)
        probabilities, digitness = self._session.run(["probabilities", "digitness"], {"images": images})
        return probabilities, digitness

    def decide(self, reading: Reading, probabilities: NDArray[np.float32], digitness: NDArray[np.float32]) -> Answer:
        """Answers a reading from its k candidates: probabilities (k, 10), digitness (k,), in the reading's order.

        Each candidate has a weight, by how surely it is one digit; a 1 in a photograph counts less, unless it is what
        a segmenter sees, and so does what that does not see. Their probabilities, weighted, are the answer's; chosen is
        the candidate that is most surely this digit, the earlier one where two are.
        """
        rows, singles = probabilities.tolist(), digitness.tolist()  # k is 1 to 10: plain floats beat NumPy here
        row, weights, total = rows[0], [1.0], 1.0
        if len(rows) > 1:
            weights = self._weights(reading, rows, singles)
            total = sum(weights)
            row = [sum(map(mul, weights, column)) / total for column in zip(*rows, strict=True)]
        probability = max(row)
        digit = row.index(probability)
        supports = [single * own[digit] for own, single in zip(rows, singles, strict=True)]
        chosen = supports.index(max(supports))
        # Edges of sheets, folds and shadows look like a 1; a segmenter sees no strokes in them.
        edge = reading.unseen and digit == ONE
        usable = not reading.crowded and not reading.blank and not edge and probability >= LIKELIER
        score = supports[chosen] if usable else 0.0
        accepted = usable and score >= self.threshold
        if usable and reading.photograph and self._has_two:
            # That one of many candidates looks like a digit is not enough: so do rims, folds and limbs of anything.
            agreed = sum(map(mul, weights, supports)) / total * reading.present**PRESENCE
            # As photographs are less sure than thumbnails of one candidate, on the scale of these.
            accepted, score = agreed >= self.photograph_threshold, agreed**self._scale
        return Answer(digit, probability, tuple(row), accepted, chosen, score)

    @staticmethod
    def _weights(reading: Reading, rows: list[list[float]], singles: list[float]) -> list[float]:
        sure = [min(max(single, SURE), 1 - SURE) for single in singles]
        weights = [(single / (1 - single)) ** ODDS for single in sure]
        if reading.photograph:
            far = reading.apart or (1.0,) * len(rows)
            weights = [
                w * BAR if max(row) == row[ONE] and apart > SAME else w
                for w, row, apart in zip(weights, rows, far, strict=True)
            ]
        if reading.apart:
            weights = [w * exp(-DISTANCE * apart) for w, apart in zip(weights, reading.apart, strict=True)]
        return weights

    def classify(self, readings: Sequence[Reading]) -> list[Answer]:
        """One answer for each reading, with one model call for the candidates of every AT_ONCE of them."""
        if len(readings) > AT_ONCE:
            parts = (readings[start : start + AT_ONCE] for start in range(0, len(readings), AT_ONCE))
            return [answer for part in parts for answer in self.classify(part)]
        if not readings:
            return []
        probabilities, digitness = self.scores(np.concatenate([reading.images for reading in readings]))
        answers, start = [], 0
        for reading in readings:
            end = start + len(reading.images)
            answers.append(self.decide(reading, probabilities[start:end], digitness[start:end]))
            start = end
        return answers


def model_file(folder: Path) -> Path | None:
    """The ONNX file in a folder, in whatever folders it lies there: model.onnx, or else one of another name."""
    found = sorted(folder.rglob("*.onnx"), key=lambda file: (file.name != "model.onnx", len(file.parts), file))
    return found[0] if found else None


def _inside(threshold: float) -> float:
    return min(max(threshold, SURE), 1 - SURE)


def _line(error: Exception) -> str:
    """The first line of somebody else's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
