"""What a model is worth on many kinds of pictures: a classifier and test digits in; answers and a table out.

The clean digits of 28×28 go to the model as they are. All others, spoilt, photographed or in folders, take the way that
they take in the service: digits.imaging, all candidates to the model, one decided answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digits import imaging
from digits.classifier import Classifier
from digits.corruptions import CORRUPTIONS, SEVERITIES
from digits.data import Split, small_digits
from digits.imaging import ImageError, Limits, Reading
from digits.ink import scaled
from digits.metrics import accuracy_interval, auroc, brier, expected_calibration_error, negative_log_likelihood
from digits.outliers import HELD_OUT_KINDS, TRAINED_KINDS
from digits.photographer import Also, sent_photograph
from digits.segmenter import Segmenter
from digits.thumbnails import grey
from digits.workers import cores, in_order
from pipelines import inputs, own, reader
from pipelines.files import spelt
from pipelines.material import fingerprint, read_outliers_of
from pipelines.progress import Progress

PART, FEWEST = 10, 10  # one test digit in so many is corrupted and photographed, but never fewer than that
EASY, HARD, ANY = (0.0, 0.4), (0.6, 1.0), (0.0, 1.0)
SEED = 20_000_003  # the report's pictures never change
PREVIEW = 160  # pixels of an original's longer side
PHOTOGRAPHS: dict[str, tuple[tuple[float, float], Also]] = {
    "photographs, easy": (EASY, ""),
    "photographs, hard": (HARD, ""),
    "photographs, cut out": (ANY, "cut out"),
    "photographs, marked": (ANY, "marked"),
}
OTHER_WRITERS = "other writers"
NOT_DIGITS = {"no digit, kinds trained on": TRAINED_KINDS, "no digit, kinds never seen": HELD_OUT_KINDS}

Images = NDArray[np.uint8]
Original = Path | bytes | Images  # a file, its bytes, or a grey picture of few pixels


@dataclass(frozen=True)
class Answers:
    """One set of n pictures, answered: labels, accepted, scores (n,), probabilities (n, 10), originals, what was seen.

    `unreadable`: the rows of files that are no pictures, and why; the model was shown black in their place.
    """

    name: str
    group: str
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    accepted: NDArray[np.bool_]
    scores: NDArray[np.float32]
    fingerprint: str
    originals: Sequence[Original] | Images = field(repr=False)
    seen: Sequence[Images] | Images = field(repr=False)
    unreadable: dict[int, str] = field(default_factory=dict)

    @property
    def guesses(self) -> NDArray[np.int64]:
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        right = np.asarray(self.guesses == self.labels, bool)
        right[list(self.unreadable)] = False
        return right


@dataclass(frozen=True)
class Labelled:
    """A set of picture files, and the digit of each."""

    name: str
    files: list[Path]
    labels: list[int]

    @staticmethod
    def folder(path: Path) -> Labelled:
        """A labelled folder. Raises UserError where it is none."""
        files, labels = zip(*inputs.labelled(path), strict=True)
        return Labelled(path.name, list(files), list(labels))


@dataclass(frozen=True)
class Row:
    """One line of the table; what a set cannot have is None."""

    group: str
    name: str
    count: int
    accuracy: float | None
    low: float | None
    high: float | None
    calibration: float | None
    refused: float
    auroc: float | None = None


@dataclass(frozen=True)
class Corrupted:
    """`correct` (corruptions, severities, n); the table's rows."""

    names: list[str]
    correct: NDArray[np.bool_]
    rows: list[Row]
    fingerprint: str

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


@dataclass(frozen=True)
class Refusals:
    """Pictures of no digit: whether each was refused, (n,)."""

    name: str
    refused: NDArray[np.bool_]
    fingerprint: str


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    clean: Answers
    served: list[Answers]
    corrupted: Corrupted
    refusals: list[Refusals]
    rows: list[Row]
    metrics: dict[str, float]


def measure(classifier: Classifier, test: Split, sets: Sequence[Labelled], others: bool = True) -> Report:
    """The whole report; each of `sets` is a line of its own. Without `others` for a model that learnt from them."""
    clean = plain(classifier, test, "test digits")
    most = max(FEWEST, len(test) // PART)
    some = test.take(np.sort(np.random.default_rng(SEED).permutation(len(test))[:most]))
    corrupted = corruptions(classifier, some)
    served = [photographs(classifier, some, *how, name) for name, how in PHOTOGRAPHS.items()]
    served += [other_writers(classifier)] if others else []
    served += [pictures(classifier, labelled) for labelled in sets]
    refusals, of_refusals = not_digits(classifier, some, clean)
    rows = [row_of(clean), *map(row_of, served), *corrupted.rows, *of_refusals]
    return Report(clean, served, corrupted, refusals, rows, metrics_of(clean, corrupted, rows))


def plain(classifier: Classifier, digits: Split, name: str) -> Answers:
    """28×28 digits, straight to the model."""
    readings = [Reading(image[np.newaxis]) for image in digits.images]
    return _decided(classifier, name, "digits", readings, digits.labels, fingerprint(digits), digits.images)


# -- corruptions ------------------------------------------------------------------------------------------------------


def corruptions(classifier: Classifier, digits: Split) -> Corrupted:
    """Every corruption at every severity, on the same digits, read as the service would read them.

    Without intervals: five pictures of one digit are not five digits.
    """
    rows, correct = [], np.zeros((len(CORRUPTIONS), len(SEVERITIES), len(digits)), bool)
    digest = hashlib.sha256()
    for place, (name, corrupt) in enumerate(CORRUPTIONS.items()):
        answers = []
        for level, severity in enumerate(SEVERITIES):
            rng = np.random.default_rng([SEED, place, level])
            spoilt = corrupt(digits.images, severity, rng)
            readings = [imaging.interpret(image) for image in spoilt]
            facts = fingerprint(Split(spoilt, digits.labels))
            digest.update(facts.encode())
            answers.append(_decided(classifier, name, "corruption", readings, digits.labels, facts, spoilt))
            correct[place, level] = answers[-1].correct
        rows.append(replace(_row("corruption", name, answers), low=None, high=None))
    return Corrupted(list(CORRUPTIONS), correct, rows, digest.hexdigest())


# -- photographs and folders ------------------------------------------------------------------------------------------


def photographs(classifier: Classifier, digits: Split, hardness: tuple[float, float], also: Also, name: str) -> Answers:
    """As many synthetic photographs as digits, sent as JPEG."""
    make = partial(sent_photograph, digits.images, digits.labels, hardness, also, classifier.segmenter)
    with Progress(name, len(digits)) as progress:
        made = list(in_order(make, len(digits), SEED, cores(), progress))
    facts = hashlib.sha256(b"".join(encoded for encoded, _, _ in made)).hexdigest()
    return _decided(
        classifier, name, "photographs", [m[1] for m in made], [m[2] for m in made], facts, [m[0] for m in made]
    )


def other_writers(classifier: Classifier) -> Answers:
    """scikit-learn's digits of 8×8, which fill their pictures."""
    sixteenths, labels = small_digits()
    images = np.rint(sixteenths * (255 / 16)).astype(np.uint8)
    readings = [imaging.interpret(image, classifier.segmenter) for image in images]
    facts = fingerprint(Split(images, labels))
    return _decided(classifier, OTHER_WRITERS, "pictures", readings, labels, facts, images)


def pictures(classifier: Classifier, labelled: Labelled) -> Answers:
    """Pictures as they are sent. What can't be read counts as wrong and refused."""
    files, labels = labelled.files, labelled.labels
    digest = hashlib.sha256()
    readings: list[Reading] = []
    unreadable: dict[int, str] = {}
    with ThreadPoolExecutor(cores()) as pool, Progress(labelled.name, len(files)) as progress:
        for row, (file, label, (content, reading)) in enumerate(
            zip(files, labels, pool.map(partial(_read, segmenter=classifier.segmenter), files), strict=True)
        ):
            digest.update(content + bytes([label]))
            if not isinstance(reading, Reading):
                unreadable[row] = spelt(f"{file}: {reading}")
                reading = Reading(np.zeros((1, 28, 28), np.uint8), blank=True)
            readings.append(reading)
            progress(row + 1, len(files))
    answers = _decided(classifier, labelled.name, "pictures", readings, labels, digest.hexdigest(), files)
    return replace(answers, unreadable=unreadable)


def _read(file: Path, segmenter: Segmenter | None) -> tuple[bytes, Reading | str]:
    limits = Limits()
    try:
        content = inputs.first_bytes(file, limits.max_bytes + 1)
    except OSError as error:
        return hashlib.sha256(b"").digest(), str(error)
    return hashlib.sha256(content).digest(), reader.read(content, limits, segmenter)


def _decided(
    classifier: Classifier,
    name: str,
    group: str,
    readings: Sequence[Reading],
    labels: Sequence[int] | NDArray[np.int64],
    facts: str,
    originals: Sequence[Original] | Images,
) -> Answers:
    answers = classifier.classify(readings)
    return Answers(
        name,
        group,
        np.array(labels, np.int64),
        np.array([answer.probabilities for answer in answers], np.float32),
        np.array([answer.accepted for answer in answers], bool),
        np.array([answer.score for answer in answers], np.float32),
        facts,
        originals,
        [reading.images[answer.chosen] for reading, answer in zip(readings, answers, strict=True)],
    )


# -- what is no digit -------------------------------------------------------------------------------------------------


def not_digits(classifier: Classifier, digits: Split, clean: Answers) -> tuple[list[Refusals], list[Row]]:
    """Refused share of each kind, and AUROC against the clean test digits; kinds trained on and kinds never seen."""
    refusals, rows = [], []
    for label, kinds in NOT_DIGITS.items():
        readings, names, facts = read_outliers_of(digits, len(digits), SEED, label, kinds, classifier.segmenter)
        answers = classifier.classify(readings)
        refused = np.array([not answer.accepted for answer in answers])
        refusals.append(Refusals(label, refused, facts))
        area = auroc(clean.scores, np.array([answer.score for answer in answers], np.float32))
        rows.append(Row("no digit", label, len(readings), None, None, None, None, float(refused.mean()), area))
        for kind in sorted(set(names)):
            of_kind = np.array([name == kind for name in names])
            rows.append(
                Row("no digit", kind, int(of_kind.sum()), None, None, None, None, float(refused[of_kind].mean()))
            )
    return refusals, rows


# -- numbers ----------------------------------------------------------------------------------------------------------


def row_of(answers: Answers) -> Row:
    return _row(answers.group, answers.name, [answers])


def _row(group: str, name: str, parts: Sequence[Answers]) -> Row:
    correct = np.concatenate([part.correct for part in parts])
    probabilities, labels = (
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    low, high = accuracy_interval(int(correct.sum()), len(correct))
    refused = 1 - float(np.concatenate([part.accepted for part in parts]).mean())
    return Row(
        group,
        name,
        len(correct),
        float(correct.mean()),
        low,
        high,
        expected_calibration_error(probabilities, labels),
        refused,
    )


def metrics_of(clean: Answers, corrupted: Corrupted, rows: Sequence[Row]) -> dict[str, float]:
    """The columns by which models are compared."""
    low, high = accuracy_interval(int(clean.correct.sum()), len(clean.labels))
    numbers = {
        "test_accuracy": float(clean.correct.mean()),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "test_refused": 1 - float(clean.accepted.mean()),
        "test_calibration_error": expected_calibration_error(clean.probabilities, clean.labels),
        "test_log_loss": negative_log_likelihood(clean.probabilities, clean.labels),
        "test_brier": brier(clean.probabilities, clean.labels),
        "corruptions_accuracy": corrupted.accuracy,
    }
    for row in rows:
        if row.group in ("photographs", "pictures") and row.accuracy is not None:
            numbers[f"{slug(row.name)}_accuracy"] = row.accuracy
            numbers[f"{slug(row.name)}_refused"] = row.refused
        if row.auroc is not None:
            numbers[f"{slug(row.name)}_auroc"] = row.auroc
            numbers[f"{slug(row.name)}_refused"] = row.refused
    return numbers


def slug(name: str) -> str:
    """A name that MLflow takes: letters, digits and underscores."""
    words = "".join(letter if letter.isalnum() and letter.isascii() else " " for letter in name).split()
    return "_".join(words).lower() or "pictures"


# What a folder of one's own can't be called: its numbers would take the place of these, or of an epoch's.
BY_EPOCH = ("train", "validation", "photographs")
RESERVED = frozenset(
    map(slug, ("test", "test digits", "corruptions", own.HELD_OUT, OTHER_WRITERS, *PHOTOGRAPHS, *NOT_DIGITS, *BY_EPOCH))
)


def worst(answers: Answers, most: int = 24) -> list[tuple[Images, Images, str]]:
    """The most confident mistakes: original (grey, reduced), what the model saw, and words."""
    wrong = np.flatnonzero(~answers.correct)
    order = wrong[np.argsort(-answers.probabilities[wrong].max(axis=1))][:most]
    shown = []
    for row in order:
        verdict = "" if answers.accepted[row] else ", refused"
        words = (
            f"{answers.labels[row]} read as {answers.guesses[row]} ({answers.probabilities[row].max():.0%}{verdict})"
        )
        shown.append((preview(answers.originals[row]), answers.seen[row], words))
    return shown


def preview(original: Original) -> Images:
    """A small grey picture (h, w) of an original; black where it can't be read."""
    if isinstance(original, np.ndarray):
        return original
    try:
        picture = imaging.decode(original if isinstance(original, bytes) else original.read_bytes())
    except (ImageError, OSError):
        return np.zeros((28, 28), np.uint8)
    return scaled(grey(picture), PREVIEW)
