"""What a model learns from and is chosen on: digits, synthetic photographs, pictures of no digit; and the network that
finds the strokes in photographs, through which all of these go. Cached."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from digits import pyramid
from digits.data import Data, Split, is_there, load, raw_folder
from digits.device import choose_device, cuda_works, number_format
from digits.fit import TrainingSet
from digits.imaging import Reading
from digits.metrics import auroc
from digits.outliers import make_digitless, make_outliers, read_outliers
from digits.photographer import Photographs, make_photographs, make_strokes, read_photographs
from digits.segmenter import Segmenter
from digits.workers import cores
from pipelines import own, provenance
from pipelines.errors import UserError
from pipelines.files import FOLDER, write
from pipelines.job import Job
from pipelines.own import Own
from pipelines.parameters import DataParameters
from pipelines.progress import Progress

CACHE = FOLDER / "cache"
KEPT = 24  # files in the cache
DAY = 86_400.0  # seconds
ENOUGH = 1_000  # photographs from which on a segmenter is worth its training
MOST = 12_000  # photographs that it learns from, by 64 KiB each
DIGITLESS = 3  # for so many of them there is one of no digit
EPOCHS = 12  # of it
FLOOR = 0.6  # an overlap below this is no help
SEGMENTER_FILE = "segmenter.onnx"
Arrays = dict[str, NDArray[np.generic]]
T = TypeVar("T")


@dataclass(frozen=True)
class TrainedSegmenter:
    """A trained segmenter, an ONNX file; `overlap`: how well it finds the strokes of validation photographs, 0..1;
    `auroc`: how well it tells these from pictures of no digit."""

    model: bytes
    overlap: float
    auroc: float

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model).hexdigest()


@dataclass(frozen=True)
class Sent:
    """Validation photographs as a service reads them, and the digit in each, (n,)."""

    readings: list[Reading]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Material:
    """`validation_photographs` and `sent` are None where no photographs were asked for, `segmenter` where few were;
    `sent` too where no model is to be built."""

    train: TrainingSet
    validation: Split
    validation_photographs: Split | None
    segmenter: TrainedSegmenter | None = None
    sent: Sent | None = None


def load_data(parameters: DataParameters) -> Data:
    """The digits that were asked for, told to the user. Raises DataError."""
    if parameters.device != "cpu" and not cuda_works():
        broken = torch.cuda.is_available()
        if parameters.device == "cuda":
            what = "the CUDA device can't be used" if broken else "there is no CUDA device here"
            raise UserError(f"device=cuda: {what}; expected auto or cpu")
        if broken:
            why = "too old for this PyTorch, or out of memory"
            print(f"WARNING: the GPU can't be used ({why}); training on the CPU instead")
    if parameters.dataset != "digits" and not is_there(parameters.root):
        print(f"data: MNIST is not in {raw_folder(parameters.root)}, and is downloaded")
    data = load(parameters.dataset, parameters.root, limit=parameters.limit or None)
    counts = f"{len(data.train):,} to train, {len(data.validation):,} to choose on"
    print(f"data: {named(data)}, {counts}, fingerprint {data.fingerprint[:12]}")
    if data.bundled and parameters.dataset == "auto":
        warn_of_fallback(data)
    return data


def load_own(parameters: DataParameters) -> Own | None:
    """The pictures of the user's own folders, told to the user; None where none were named. Raises UserError."""
    loaded = own.load(parameters.extra_folders, cores())
    if loaded:
        print(loaded.as_text())
    return loaded


def warn_of_fallback(data: Data) -> None:
    print(
        f"WARNING: {data.missing}\nThis model learns from the 1,797 small digits that ship with scikit-learn. It is for"
        " trying things out and never replaces a model of MNIST.",
        file=sys.stderr,
    )


def named(data: Data) -> str:
    return "MNIST" if data.name == "mnist" else "scikit-learn's digits"


def material_for(
    job: Job, data: Data, parameters: DataParameters, extra: Own | None = None, *, to_build: bool = True
) -> Material:
    """What a job trains and chooses on, with a segmenter of its own; `to_build` as for `prepare`."""
    trained = segmenter_for(job, data, parameters)
    return prepare(
        data, parameters.photographs, parameters.outliers, parameters.seed, extra, trained, to_build=to_build
    )


def prepare(
    data: Data,
    photographs: int,
    outliers: int,
    seed: int,
    extra: Own | None = None,
    trained: TrainedSegmenter | None = None,
    *,
    to_build: bool = True,
) -> Material:
    """All there is to train and choose on; photographs of validation digits, fewer, are to choose on.

    `extra`, one's own pictures, joins the photographs to train on. What imaging offers beside the digits of these joins
    the pictures of no digit, so that the network learns to tell the right candidate from the others. `to_build`: a
    model will be made of it, which needs a threshold, and so `sent`.
    """
    segmenter = Segmenter(trained.model) if trained else None
    taken = photographs_of(data.train, photographs, seed, "photographs to train on", segmenter) if photographs else None
    held_out = min(max(photographs // 8, 50), 2_000)
    chosen_on = (
        photographs_of(data.validation, held_out, seed + 1, "photographs to choose on", segmenter, written=False)
        if photographs
        else None
    )
    none: NDArray[np.uint8] | None = None
    if outliers:
        none = outliers_of(data.train, outliers, seed, "pictures of no digit", segmenter)
        if taken:
            none = np.concatenate([none, taken.beside])
    if extra and segmenter:
        extra = seen_by(segmenter, extra)
    photographed = own.joined(taken.digits if taken else None, extra)
    # Twice as many for the threshold: by 1,000 of them it refuses 3 to 7% where 4.5 are meant (docs/log.md).
    sent = sent_of(data.validation, 2 * held_out, seed + 5, segmenter) if photographs and to_build else None
    validation_photographs = chosen_on.digits if chosen_on else None
    return Material(TrainingSet(data.train, photographed, none), data.validation, validation_photographs, trained, sent)


def segmenter_for(job: Job, data: Data, parameters: DataParameters) -> TrainedSegmenter | None:
    """The segmenter of a job: trained once, and kept in its folder for whatever else the job does."""
    file = job.folder / SEGMENTER_FILE

    def make() -> list[float] | None:
        if parameters.photographs < ENOUGH:
            return None
        count = min(parameters.photographs // 2, MOST)
        unfinished = job.folder / "segmenter.pt"
        trained = segmenter_of(data, count, parameters.seed, choose_device(parameters.device).type, unfinished)
        if not trained.overlap >= FLOOR:
            print(f"  WARNING: the segmenter finds too little (overlap {trained.overlap:.2f}) and is left out")
            return None
        told = f"overlap {trained.overlap:.2f}, and tells whether there is a digit, AUROC {trained.auroc:.3f}"
        print(f"  the segmenter finds the strokes of validation photographs, {told}")
        write(file, trained.model)
        unfinished.unlink(missing_ok=True)
        return [trained.overlap, trained.auroc]

    worth = job.step("segmenter", make)
    return None if worth is None else TrainedSegmenter(file.read_bytes(), *worth)


def segmenter_of(data: Data, count: int, seed: int, device: str, unfinished: Path) -> TrainedSegmenter:
    """A segmenter that has learnt from so many photographs of its own; a tenth as many of validation digits test it.
    `unfinished` is its checkpoint.
    """

    def make() -> Arrays:
        label = "photographs with known strokes"
        tested = max(50, count // 10)
        unseen = _made(make_strokes, data.validation, tested, seed + 3, label, written=False)
        learnt = _made(make_strokes, data.train, count, seed + 2, label)
        none, unseen_none = (
            _counted(make_digitless, number // DIGITLESS, seed + more, "pictures to find no digit in")
            for number, more in ((count, 4), (tested, 6))
        )
        with Progress("steps of the segmenter", 0, done=None) as progress:
            net = pyramid.fit(
                learnt, none, epochs=EPOCHS, seed=seed, device=device, progress=progress, checkpoint=unfinished
            )
        model = pyramid.to_onnx(net)
        try:
            segmenter = Segmenter(model)
        except ValueError:  # no finite numbers
            overlap = area = 0.0
        else:
            overlap = pyramid.overlap(segmenter, unseen)
            area = auroc(*(pyramid.presence(segmenter, pictures) for pictures in (unseen.pictures, unseen_none)))
        return {"model": np.frombuffer(model, np.uint8), "overlap": np.array(overlap), "auroc": np.array(area)}

    works_in = [torch.get_num_threads(), str(number_format(choose_device(device)))]  # other sums, another network
    facts = [fingerprint(data.train), fingerprint(data.validation), count, EPOCHS, seed, device, *works_in]
    arrays = cached("segmenter", ("digits.pyramid", "digits.outliers"), facts, make)
    return TrainedSegmenter(arrays["model"].tobytes(), float(arrays["overlap"]), float(arrays["auroc"]))


def photographs_of(
    digits: Split, count: int, seed: int, label: str, segmenter: Segmenter | None = None, *, written: bool = True
) -> Photographs:
    """Synthetic photographs of these digits, and of some that are written anew if they may be, as imaging hands them
    over."""

    def make() -> Arrays:
        made = _made(make_photographs, digits, count, seed, label, segmenter=segmenter, written=written)
        return {"images": made.digits.images, "labels": made.digits.labels, "beside": made.beside}

    facts = [fingerprint(digits), count, seed, named_by(segmenter), written]
    arrays = cached("photographs", ("digits.photographer",), facts, make)
    images, labels, beside = (arrays[name] for name in ("images", "labels", "beside"))
    split = Split(np.asarray(images, np.uint8), np.asarray(labels, np.int64))
    return Photographs(split, np.asarray(beside, np.uint8))


def sent_of(digits: Split, count: int, seed: int, segmenter: Segmenter | None) -> Sent:
    """Photographs of these digits as a service reads them, to set a threshold on."""

    def make() -> Arrays:
        label = "photographs to set the threshold on"
        readings, labels = _made(read_photographs, digits, count, seed, label, segmenter=segmenter)
        return {**_packed(readings), "labels": labels}

    facts = [fingerprint(digits), count, seed, named_by(segmenter)]
    arrays = cached("read photographs", ("digits.photographer",), facts, make)
    return Sent(_unpacked(arrays), np.asarray(arrays["labels"], np.int64))


def seen_by(segmenter: Segmenter, extra: Own) -> Own:
    """One's own pictures as the segmenter sees them."""

    def make() -> Arrays:
        with Progress(own.NAME, len(extra.train)) as progress:
            return {"images": own.seen(extra, segmenter, cores(), progress)}

    arrays = cached("own pictures", ("digits.imaging", "pipelines.own"), [extra.fingerprint, named_by(segmenter)], make)
    images = np.asarray(arrays["images"], np.uint8)
    return replace(extra, train=Split(images, extra.train.labels))


def outliers_of(
    digits: Split, count: int, seed: int, label: str, segmenter: Segmenter | None = None
) -> NDArray[np.uint8]:
    """Pictures uint8 (count, 28, 28) to train on that are no single digit."""

    def make() -> Arrays:
        return {"images": _made(make_outliers, digits, count, seed, label, segmenter=segmenter)[0]}

    facts = [fingerprint(digits), count, seed, named_by(segmenter)]
    return np.asarray(cached("outliers", ("digits.outliers",), facts, make)["images"], np.uint8)


def read_outliers_of(
    digits: Split, count: int, seed: int, label: str, kinds: tuple[str, ...], segmenter: Segmenter | None
) -> tuple[list[Reading], list[str], str]:
    """Pictures of these kinds that are no single digit, as imaging reads them, the kind of each, their sha256."""

    def make() -> Arrays:
        readings, names, fingerprint = _made(
            read_outliers, digits, count, seed, label, kinds=kinds, segmenter=segmenter
        )
        return {**_packed(readings), "kinds": np.array(names), "fingerprint": np.array(fingerprint)}

    facts = [fingerprint(digits), count, seed, named_by(segmenter), *kinds]
    arrays = cached("read outliers", ("digits.outliers",), facts, make)
    return _unpacked(arrays), [str(kind) for kind in arrays["kinds"]], str(arrays["fingerprint"])


def _packed(readings: list[Reading]) -> Arrays:
    return {
        "images": np.concatenate([reading.images for reading in readings]),
        "ends": np.cumsum([len(reading.images) for reading in readings]),
        "apart": np.concatenate([reading.apart or [np.nan] * len(reading.images) for reading in readings]),
        "flags": np.array([(each.crowded, each.blank, each.photograph, each.unseen) for each in readings]),
        "present": np.array([reading.present for reading in readings]),
    }


def _unpacked(arrays: Arrays) -> list[Reading]:
    images = np.split(np.asarray(arrays["images"], np.uint8), arrays["ends"][:-1])
    apart = np.split(np.asarray(arrays["apart"], np.float64), arrays["ends"][:-1])
    flags, presence = arrays["flags"].tolist(), arrays["present"].tolist()
    far = [() if np.isnan(each).any() else tuple(each.tolist()) for each in apart]
    return [
        Reading(candidates, crowded, blank, photograph, distances, present, unseen)
        for candidates, (crowded, blank, photograph, unseen), distances, present in zip(
            images, flags, far, presence, strict=True
        )
    ]


def _made(make: Callable[..., T], digits: Split, count: int, seed: int, label: str, **more: Any) -> T:
    """What `make` makes of these digits, on all cores, with progress."""
    return _counted(partial(make, digits.images, digits.labels), count, seed, label, **more)


def _counted(make: Callable[..., T], count: int, seed: int, label: str, **more: Any) -> T:
    """So many of what `make` makes, on all cores, with progress."""
    with Progress(label, count) as progress:
        return make(count, seed, workers=cores(), progress=progress, **more)


def cached(name: str, modules: tuple[str, ...], facts: list[object], make: Callable[[], Arrays]) -> Arrays:
    """Arrays from the cache, or made and put there. The key holds the code and the libraries that make them, and this
    file, which knows what they are called.
    """
    layout = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    known = [provenance.code(*modules), layout, provenance.libraries(), *facts]
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
    path = CACHE / f"{name}-{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {entry: file[entry] for entry in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        arrays = make()
    else:
        with suppress(OSError):  # another process has removed it, or it is another user's
            os.utime(path)
        return arrays
    write(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    for old in sorted(CACHE.glob("*.npz"), key=_used, reverse=True)[KEPT:]:
        old.unlink(missing_ok=True)
    for part in CACHE.glob(".*.npz-*"):  # of a process that was killed while it wrote
        if _used(part) < time.time() - DAY:
            part.unlink(missing_ok=True)
    return arrays


def _used(file: Path) -> float:
    """When it was used; another process may have removed it."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def named_by(segmenter: Segmenter | None) -> str:
    return segmenter.sha256 if segmenter else "no segmenter"


def fingerprint(split: Split) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(split.images).tobytes())
    digest.update(np.ascontiguousarray(split.labels).tobytes())
    return digest.hexdigest()
