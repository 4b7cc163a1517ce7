"""The segmenter's network: the photographs it learns from, its training, and the file it becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from digits import pyramid
from digits.metrics import auroc
from digits.outliers import make_digitless
from digits.photographer import Strokes, make_strokes
from digits.pyramid import Pyramid
from digits.segmenter import SIDE, Segmenter
from tests.models import tiny_segmenter
from tests.test_photographer import IMAGES, LABELS

NONE = np.zeros((0, 3, SIDE, SIDE), np.uint8)


@pytest.fixture(scope="module")
def strokes() -> Strokes:
    return make_strokes(IMAGES, LABELS, 96, seed=0, workers=1)


def test_pictures_and_their_ink_come_in_pairs_and_small_digits_twice(strokes: Strokes) -> None:
    count = len(strokes.pictures)
    assert 96 < count < 2 * 96
    assert (strokes.pictures.dtype, strokes.pictures.shape) == (np.uint8, (count, 3, SIDE, SIDE))
    assert (strokes.ink.dtype, strokes.ink.shape) == (np.uint8, (count, SIDE, SIDE))
    assert (strokes.ink.max((1, 2)) > 100).all()
    # Ink differs in lightness or colour from what is around it; in most pictures it is the darker.
    light = strokes.pictures[:, 0].astype(float)
    darker = [
        picture[ink > 128].mean() < picture[ink == 0].mean() for picture, ink in zip(light, strokes.ink, strict=True)
    ]
    assert np.mean(darker) > 0.6


def test_the_same_seed_gives_the_same_pictures_and_the_same_network(strokes: Strokes) -> None:
    again = make_strokes(IMAGES, LABELS, 96, seed=0, workers=1)
    np.testing.assert_array_equal(again.pictures, strokes.pictures)
    few = Strokes(strokes.pictures[:32], strokes.ink[:32])
    first, second, other = (
        pyramid.fit(few, NONE, epochs=1, seed=seed, device="cpu").state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_training_teaches_it_what_strokes_are_and_tells_how_far_it_is(strokes: Strokes) -> None:
    told: list[tuple[int, int]] = []
    net = pyramid.fit(
        strokes, NONE, epochs=8, seed=0, device="cpu", progress=lambda done, steps: told.append((done, steps))
    )
    steps = 8 * (len(strokes.pictures) // pyramid.BATCH)
    assert told == [(step + 1, steps) for step in range(steps)]
    assert not net.training
    unseen = make_strokes(IMAGES[::-1], LABELS[::-1], 40, seed=7, workers=1)
    torch.manual_seed(0)
    trained, untrained = (Segmenter(pyramid.to_onnx(each)) for each in (net, Pyramid().eval()))
    assert pyramid.overlap(trained, unseen) > pyramid.overlap(untrained, unseen) + 0.15


def test_it_learns_to_tell_pictures_with_a_digit_from_others(strokes: Strokes) -> None:
    without = make_digitless(128, seed=1, workers=1)[:128]
    assert (without.dtype, without.shape) == (np.uint8, (128, 3, SIDE, SIDE))
    net = pyramid.fit(strokes, without[:88], epochs=12, seed=0, device="cpu")
    segmenter = Segmenter(pyramid.to_onnx(net))
    unseen = make_strokes(IMAGES[::-1], LABELS[::-1], 40, seed=7, workers=1)
    with_one, with_none = (pyramid.presence(segmenter, pictures) for pictures in (unseen.pictures, without[88:]))
    assert (len(with_one), len(with_none)) == (len(unseen.pictures), 40)
    assert auroc(with_one, with_none) > 0.65
    assert pyramid.overlap(segmenter, unseen) > 0.2


def test_what_is_found_exactly_overlaps_wholly_and_what_is_missed_not_at_all(strokes: Strokes) -> None:
    class Known(Segmenter):
        def found(self, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return answers.pop(0)[: len(squares)], np.ones(len(squares), np.float32)

    solid = Strokes(strokes.pictures[:32], (strokes.ink[:32] > 128).astype(np.uint8) * 255)
    answers = [np.zeros((1, SIDE, SIDE), np.float32), solid.ink / np.float32(255), 1 - solid.ink / np.float32(255)]
    segmenter = Known(tiny_segmenter())
    assert pyramid.overlap(segmenter, solid) == 1
    assert pyramid.overlap(segmenter, solid) < 0.1


def test_the_file_says_what_the_network_says(strokes: Strokes) -> None:
    net = pyramid.fit(strokes, NONE, epochs=1, seed=0, device="cpu")
    segmenter = Segmenter(pyramid.to_onnx(net))
    picture = strokes.pictures[0]
    with torch.inference_mode():
        expected = [torch.sigmoid(logits).numpy() for logits in net(torch.from_numpy(picture[None]))]
    for found, wanted in zip(segmenter.found(picture[None]), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_training_that_was_cut_off_ends_with_the_same_network(strokes: Strokes, tmp_path: Path) -> None:
    class CutOff(Exception):
        pass

    without = make_digitless(32, seed=1, workers=1)[:32]
    options: dict[str, Any] = {"epochs": 3, "seed": 0, "device": "cpu"}
    steps = (len(strokes.pictures) + 32) // pyramid.BATCH
    told: list[tuple[int, int]] = []

    def cut_off(done: int, _: int) -> None:
        if done == 2 * steps + 1:
            raise CutOff

    checkpoint = tmp_path / "job" / "segmenter.pt"
    with pytest.raises(CutOff):
        pyramid.fit(strokes, without, **options, progress=cut_off, checkpoint=checkpoint)
    resumed = pyramid.fit(
        strokes, without, **options, progress=lambda *at: told.append(at), checkpoint=checkpoint
    ).state_dict()
    assert told == [(step, 3 * steps) for step in range(2 * steps, 3 * steps + 1)]
    whole = pyramid.fit(strokes, without, **options).state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    another = pyramid.fit(strokes, without, **{**options, "epochs": 1}, checkpoint=checkpoint).state_dict()
    assert any(not torch.equal(another[name], whole[name]) for name in whole), "it is not of this training"
