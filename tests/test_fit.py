"""Training learns, repeats itself, mixes what it is told to mix, and survives being interrupted."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from digits.data import Split
from digits.fit import NOT_A_DIGIT, Recipe, TrainingSet, _Batches, fit, predict_logits
from digits.network import CHANNELS, MIXTURES, SHARED, THIN, TWINS, DigitNet, thin

QUICK = Recipe(batch_size=64, strength=0.3, disturbed=0.1, label_smoothing=0.0, dropout=0.0)


@pytest.fixture(scope="module")
def small(bundled) -> TrainingSet:
    rng = np.random.default_rng(0)
    digits = bundled.train.take(np.arange(256))
    noise = rng.integers(0, 256, (100, 28, 28), dtype=np.uint8)
    return TrainingSet(digits, Split(digits.images[:50], digits.labels[:50]), noise)


def weights(net: DigitNet) -> dict[str, torch.Tensor]:
    return net.state_dict()


def test_three_epochs_on_half_of_the_bundled_digits_beat_guessing_by_far(bundled):
    reports = []
    train = TrainingSet(bundled.train.take(np.arange(640)))
    net = fit(QUICK, train, bundled.validation, epochs=3, seed=0, device="cpu", on_epoch=reports.append)
    accuracy = (predict_logits(net, bundled.validation.images).argmax(1) == bundled.validation.labels).mean()
    assert accuracy > 0.8
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert reports[-1].train_loss < reports[0].train_loss
    assert not net.training


def test_the_same_seed_gives_the_same_network_and_another_seed_another(small, bundled):
    first, again, other = (
        weights(fit(QUICK, small, bundled.validation, epochs=1, seed=seed, device="cpu")) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc2.0.weight"], other["fc2.0.weight"])


def test_a_training_that_was_cut_off_ends_with_the_same_network(small, bundled, tmp_path):
    class CutOffError(Exception):
        pass

    def cut_off(report):
        if report.epoch == 1:
            raise CutOffError

    arguments = {"epochs": 2, "seed": 3, "device": "cpu"}
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(CutOffError):
        fit(QUICK, small, bundled.validation, **arguments, on_epoch=cut_off, checkpoint=checkpoint)
    seen = []
    resumed = fit(QUICK, small, bundled.validation, **arguments, on_epoch=seen.append, checkpoint=checkpoint)
    unbroken = fit(QUICK, small, bundled.validation, **arguments)
    assert [report.epoch for report in seen] == [1, 2], "whoever was killed may not have heard of the first"
    assert all(torch.equal(weights(resumed)[name], weights(unbroken)[name]) for name in weights(unbroken))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_training_is_not_used(small, bundled, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    fit(QUICK, small, bundled.validation, epochs=1, seed=3, device="cpu", checkpoint=checkpoint)
    seen = []
    fit(
        dataclasses.replace(QUICK, learning_rate=1e-4),
        small,
        bundled.validation,
        epochs=1,
        seed=3,
        device="cpu",
        on_epoch=seen.append,
        checkpoint=checkpoint,
    )
    assert len(seen) == 1


def test_batches_hold_the_shares_that_the_recipe_asks_for(small):
    recipe = dataclasses.replace(QUICK, photographs=0.25, outliers=0.125)
    batches = list(_Batches(recipe, small, torch.device("cpu"), 0).epoch(1))
    assert len(batches) == 9  # of 64: one and a half times 256 digits, 50 photographs and 100 pictures of no digit
    for pictures, labels in batches:
        assert pictures.shape == (64, 28, 28)
        assert int((labels == NOT_A_DIGIT).sum()) == 8


def test_a_step_multiplies_no_more_than_its_layers_need(bundled):
    """Counted work, not time: forwards, and backwards to the inputs and to the weights."""
    pictures, few = bundled.train.take(np.arange(64)), bundled.validation.take(np.arange(10))
    with FlopCounterMode(display=False) as counter:
        fit(QUICK, TrainingSet(pictures), few, epochs=1, seed=0, device="cpu")
    places = {"conv1": 28 * 28, "conv2_1": 14 * 14, "conv2_2": 14 * 14, "conv3_1": 7 * 7, "conv3_2": 7 * 7}
    places |= {"shared": 14 * 14, "fc1.0.0": 7 * 7}
    net = DigitNet()
    whole = {name: weights.numel() for name, weights in net.named_parameters()}
    multiplied_out = sum(SHARED * whole[f"{box}.0.weight"] for box in TWINS)
    multiplied_out += sum(THIN[box] * whole[f"{box}.0.weight"] for box in ("conv3_1", "conv3_2"))
    multiplied_out += (THIN["fc1"] * MIXTURES // CHANNELS + MIXTURES) * whole["fc1.0.weight"]
    thin(net)
    matrices = {name.removesuffix(".weight"): part for name, part in net.named_parameters() if part.ndim > 1}
    layers = sum(
        weights.numel() * places.get(name, places.get(name.split(".")[0], 1)) for name, weights in matrices.items()
    )
    needed = 2 * (64 * 3 * layers + len(few) * layers + multiplied_out)
    assert 0.95 * needed < counter.get_total_flops() < 1.05 * needed


def test_logits_do_not_depend_on_the_batch_size_and_leave_the_mode_alone(bundled, monkeypatch):
    net = DigitNet().train()
    images = bundled.validation.images[:7]
    at_once = predict_logits(net, images)
    monkeypatch.setattr("digits.fit.BATCH", 3)
    assert np.allclose(predict_logits(net, images), at_once, atol=1e-4)
    assert net.training
    assert predict_logits(net, images[:0]).shape == (0, 10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_trains_to_the_same_quality(bundled):
    net = fit(QUICK, TrainingSet(bundled.train), bundled.validation, epochs=3, seed=0, device="cuda")
    assert (predict_logits(net, bundled.validation.images).argmax(1) == bundled.validation.labels).mean() > 0.8


def test_a_training_may_be_as_short_as_a_step(bundled):
    for digits, batch in ((8, 8), (8, 4), (9, 3), (8, 2)):  # one to four steps
        recipe = dataclasses.replace(QUICK, batch_size=batch)
        fit(recipe, TrainingSet(bundled.train.take(np.arange(digits))), bundled.validation, epochs=1, seed=0)


def test_few_pictures_are_not_shown_again_and_again(bundled):
    """However large their share is to be; many are shown as often as it says."""
    photographs = Split(bundled.train.images[:6], np.full(6, 7))
    digits = Split(bundled.train.images[:1_000], np.zeros(1_000, np.int64))
    noise = np.random.default_rng(0).integers(0, 256, (400, 28, 28), dtype=np.uint8)
    recipe = dataclasses.replace(QUICK, batch_size=20, photographs=0.5, outliers=0.1)
    batches = _Batches(recipe, TrainingSet(digits, photographs, noise), torch.device("cpu"), 0)
    shown = torch.cat([labels for _, labels in batches.epoch(1)]).bincount(minlength=11)
    assert 0 < shown[7] / len(photographs) <= 20
    assert shown[NOT_A_DIGIT] == 2 * len(batches)
    assert shown.sum() == 20 * len(batches)
