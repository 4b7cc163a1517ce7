"""What a model learns from: the segmenter first, and everything else as imaging with it hands it over."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits import imaging, photographer, pyramid
from digits.data import Data, Split
from digits.data import load as load_data
from digits.handwriting import Field
from digits.segmenter import Segmenter
from digits.workers import in_order
from pipelines import material as module
from pipelines import worker
from pipelines.errors import UserError
from pipelines.job import Job
from pipelines.material import TrainedSegmenter, fingerprint, photographs_of, prepare, read_outliers_of, segmenter_for
from pipelines.parameters import Tune
from tests.models import tiny_segmenter


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """scikit-learn's digits, an empty cache, and a segmenter that is trained for next to nothing."""
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(module, "ENOUGH", 40)
    monkeypatch.setattr(module, "EPOCHS", 1)
    return load_data("digits", tmp_path)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "job").mkdir()
    return Job(tmp_path / "job")


def asked(photographs: int) -> Tune:
    return Tune(dataset="digits", photographs=photographs, device="cpu")


def test_few_photographs_are_not_worth_a_segmenter(data: Data, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "fit", lambda *_, **__: pytest.fail("trained"))
    assert segmenter_for(job, data, asked(39)) is None


def test_a_segmenter_that_finds_too_little_is_left_out_and_told(
    data: Data, job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for overlap in (0.59, float("nan")):
        monkeypatch.setattr(pyramid, "overlap", lambda *_, overlap=overlap: overlap)
        monkeypatch.setattr(module, "CACHE", module.CACHE / "another")
        assert segmenter_for(Job(job.folder / str(overlap)), data, asked(40)) is None
        assert "finds too little" in capsys.readouterr().out


def test_a_segmenter_of_no_numbers_is_left_out_too(data: Data, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pyramid.fit

    def diverged(*words: Any, **more: Any) -> pyramid.Pyramid:
        net = real(*words, **more)
        net.output.weight.data.fill_(float("nan"))
        return net

    monkeypatch.setattr(pyramid, "fit", diverged)
    assert segmenter_for(job, data, asked(40)) is None


def test_a_job_keeps_its_segmenter_whatever_becomes_of_the_cache(
    data: Data, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "overlap", lambda *_: 0.75)
    first = segmenter_for(job, data, asked(40))
    assert first is not None
    assert first.overlap == 0.75
    Segmenter(first.model)
    shutil.rmtree(module.CACHE)
    monkeypatch.setattr(pyramid, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert segmenter_for(Job(job.folder), data, asked(40)) == first


def test_a_worker_takes_the_study_s_segmenter_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = {("r", "weights/segmenter.onnx"): tiny_segmenter()}
    monkeypatch.setattr(worker.tracking, "read", lambda *asked: artifacts[asked])
    known = hashlib.sha256(tiny_segmenter()).hexdigest()
    taken = worker.segmenter_of({"run": "r", "segmenter": known})
    assert taken is not None
    assert taken.model == tiny_segmenter()
    assert worker.segmenter_of({"run": "r", "segmenter": None}) is None
    with pytest.raises(UserError, match="not the one"):
        worker.segmenter_of({"run": "r", "segmenter": "0" * 64})


def test_photographs_and_outliers_are_what_imaging_with_the_segmenter_hands_over(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Segmenter | None] = []
    real = imaging.interpret

    def interpret(picture: np.ndarray, segmenter: Segmenter | None = None) -> imaging.Reading:
        used.append(segmenter)
        return real(picture, segmenter)

    monkeypatch.setattr(imaging, "interpret", interpret)
    trained = TrainedSegmenter(tiny_segmenter(), 0.75, 0.875)
    material = prepare(data, 40, 8, 0, trained=trained)
    assert material.segmenter == trained
    assert len(used) > 40 + 5 + 1
    assert {module.named_by(segmenter) for segmenter in used} == {trained.sha256}


def test_what_is_no_digit_is_read_as_it_would_be_served_and_is_the_same_for_every_model(data: Data) -> None:
    kinds = ("handwritten letters", "noise")
    plain, names, pictures = read_outliers_of(data.train, 30, 0, "", kinds, None)
    seen, same_names, same_pictures = read_outliers_of(data.train, 30, 0, "", kinds, Segmenter(tiny_segmenter()))
    again, *_ = read_outliers_of(data.train, 30, 0, "", kinds, Segmenter(tiny_segmenter()))
    assert names == same_names
    assert pictures == same_pictures
    assert read_outliers_of(data.train, 30, 1, "", kinds, None)[2] != pictures
    assert set(names) == set(kinds)
    for rules, both in zip(plain, seen, strict=True):
        np.testing.assert_array_equal(both.images[: len(rules.images)], rules.images)
        assert (both.crowded, both.blank) == (rules.crowded, rules.blank)
    assert sum(len(reading.images) for reading in seen) > sum(len(reading.images) for reading in plain)
    for first, second in zip(seen, again, strict=True):  # the second from the cache
        np.testing.assert_array_equal(first.images, second.images)
        assert (first.crowded, first.blank, first.photograph) == (second.crowded, second.blank, second.photograph)
        assert second.apart == pytest.approx(first.apart)
        assert second.present == pytest.approx(first.present)
        assert second.unseen == first.unseen
    assert any(reading.photograph and reading.apart and reading.present < 1 for reading in seen)


def test_the_photographs_that_set_the_threshold_are_validation_digits_read_with_all_candidates(data: Data) -> None:
    material = prepare(data, 40, 0, 0, trained=TrainedSegmenter(tiny_segmenter(), 0.75, 0.875))
    assert material.sent is not None
    assert len(material.sent.readings) == len(material.sent.labels) == 100
    assert any(len(reading.images) > 1 for reading in material.sent.readings)
    assert any(reading.present < 1 for reading in material.sent.readings)
    assert prepare(data, 0, 0, 0).sent is None


def test_no_digit_to_choose_or_measure_on_is_written_anew(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training has seen those hands."""
    of_training = fingerprint(data.train)
    asked: dict[str, list[bool]] = {"training": [], "validation": []}
    real = photographer.field_and_label

    def drawn(images: Any, labels: Any, rng: np.random.Generator, written: bool = True) -> tuple[Field, int]:
        which = "training" if fingerprint(Split(images, labels)) == of_training else "validation"
        asked[which].append(written)
        return real(images, labels, rng, written)

    monkeypatch.setattr(photographer, "field_and_label", drawn)
    monkeypatch.setattr(photographer, "in_order", lambda make, count, seed, *_: in_order(make, count, seed))
    prepare(data, 40, 0, 0, trained=TrainedSegmenter(tiny_segmenter(), 0.75, 0.875))
    assert set(asked["training"]) == {True}
    assert set(asked["validation"]) == {False}


def test_all_of_it_is_made_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(data, 40, 8, 0)
    for name in ("make_photographs", "make_outliers", "read_photographs"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("made again"))
    again = prepare(data, 40, 8, 0)
    assert again.train.photographs is not None
    assert first.train.photographs is not None
    assert again.train.outliers is not None
    assert first.train.outliers is not None
    assert again.sent is not None
    assert first.sent is not None
    np.testing.assert_array_equal(again.train.photographs.images, first.train.photographs.images)
    np.testing.assert_array_equal(again.train.outliers, first.train.outliers)
    for one, other in zip(again.sent.readings, first.sent.readings, strict=True):
        np.testing.assert_array_equal(one.images, other.images)


def test_another_segmenter_means_other_photographs_in_the_cache(data: Data) -> None:
    prepare(data, 40, 0, 0, trained=TrainedSegmenter(tiny_segmenter(), 0.75, 0.875))
    before = len(list(module.CACHE.iterdir()))
    photographs_of(data.train, 40, 0, "", Segmenter(tiny_segmenter()))
    assert len(list(module.CACHE.iterdir())) == before
    photographs_of(data.train, 40, 0, "")
    assert len(list(module.CACHE.iterdir())) == before + 1


def test_what_another_version_has_cached_is_made_anew(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs_of(data.train, 40, 0, "")
    other = tmp_path / "material.py"
    other.write_text(Path(module.__file__).read_text() + "# arrays by other names\n")
    monkeypatch.setattr(module, "__file__", str(other))
    photographs_of(data.train, 40, 0, "")
    assert len(list(module.CACHE.iterdir())) == 2


def test_the_cache_keeps_what_was_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE", tmp_path)
    monkeypatch.setattr(module, "KEPT", 2)
    made: list[int] = []

    def number(value: int) -> int:
        def make() -> dict[str, np.ndarray]:
            made.append(value)
            return {"value": np.array(value)}

        return int(module.cached("numbers", (), [value], make)["value"])

    for value in (1, 2):
        before = set(tmp_path.glob("*.npz"))
        assert number(value) == value
        (file,) = set(tmp_path.glob("*.npz")) - before
        os.utime(file, (value, value))  # as if made long ago, one after the other
    assert number(1) == 1
    assert number(3) == 3
    assert made == [1, 2, 3]
    assert len(list(tmp_path.glob("*.npz"))) == 2
    assert number(1) == 1
    assert made == [1, 2, 3], "the one that was used before the last is still there"
    left, writing = tmp_path / ".numbers-0.npz-1-ab", tmp_path / ".numbers-0.npz-2-ab"  # by one that was killed
    left.touch()
    os.utime(left, (1, 1))
    writing.touch()
    assert number(4) == 4
    assert (left.exists(), writing.exists()) == (False, True)
