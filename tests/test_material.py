"""What a model learns from: the segmenter first, and everything else as imaging with it hands it over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from digits import pyramid
from digits.data import Data
from digits.data import load as load_data
from digits.segmenter import Segmenter
from pipelines import material as module
from pipelines.material import photographs_of, prepare


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """scikit-learn's digits, an empty cache, and a segmenter that is trained for next to nothing."""
    monkeypatch.setattr(module, "CACHE", tmp_path)
    monkeypatch.setattr(module, "ENOUGH", 40)
    monkeypatch.setattr(module, "EPOCHS", 1)
    return load_data("digits", tmp_path)


def test_few_photographs_are_not_worth_a_segmenter(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "fit", lambda *_, **__: pytest.fail("trained"))
    material = prepare(data, 39, 0, 0)
    assert material.segmenter is None
    assert prepare(data, 0, 5, 0).segmenter is None


def test_photographs_and_outliers_are_what_imaging_with_the_segmenter_hands_over(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = prepare(data, 40, 8, 0)
    assert material.segmenter is not None
    assert 0 <= material.segmenter.overlap <= 1
    asked: list[str] = []

    def interpret(picture: np.ndarray, segmenter: Segmenter | None) -> module.Photographs:
        asked.append(module.named_by(segmenter))
        return real(picture, segmenter)

    real = module.make_photographs.__globals__["imaging"].interpret
    monkeypatch.setattr("digits.imaging.interpret", interpret)
    segmenter = Segmenter(material.segmenter.model)
    monkeypatch.setattr(module, "CACHE", module.CACHE / "another")
    again = photographs_of(data.train, 40, 0, "", segmenter)
    assert set(asked) == {segmenter.sha256}
    assert material.train.photographs is not None
    np.testing.assert_array_equal(again.digits.images, material.train.photographs.images)


def test_all_of_it_is_made_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(data, 40, 8, 0)
    for name in ("make_photographs", "make_outliers"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(pyramid, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = prepare(data, 40, 8, 0)
    assert again.segmenter == first.segmenter
    assert again.train.photographs is not None
    assert first.train.photographs is not None
    np.testing.assert_array_equal(again.train.photographs.images, first.train.photographs.images)


def test_another_segmenter_means_other_photographs_in_the_cache(data: Data) -> None:
    with_one = prepare(data, 40, 0, 0)
    assert with_one.segmenter is not None
    before = len(list(module.CACHE.iterdir()))
    photographs_of(data.train, 40, 0, "", Segmenter(with_one.segmenter.model))
    assert len(list(module.CACHE.iterdir())) == before
    photographs_of(data.train, 40, 0, "")
    assert len(list(module.CACHE.iterdir())) == before + 1
