"""Augmentation changes pictures, never their meaning or their number."""

import pytest
import torch

from digits import augment
from digits.augment import DISTURBANCES


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def bars() -> torch.Tensor:
    """64 pictures of a thick upright bar."""
    images = torch.zeros(64, 28, 28, dtype=torch.uint8)
    images[:, 6:22, 12:16] = 255
    return images


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others(bars):
    first = augment.augment(bars, generator(1))
    assert torch.equal(first, augment.augment(bars, generator(1)))
    assert not torch.equal(first, augment.augment(bars, generator(2)))


def test_no_strength_and_no_disturbance_leave_the_picture_alone(bars):
    assert torch.allclose(augment.augment(bars, generator(), strength=0, disturbed=0), bars.float(), atol=0.1)


def test_the_input_is_not_changed(bars):
    before = bars.clone()
    augment.augment(bars, generator())
    assert torch.equal(bars, before)


def test_geometry_moves_every_digit_but_keeps_its_ink(bars):
    moved = augment.augment(bars, generator(), disturbed=0)
    assert ((moved - bars.float()).abs().mean(dim=(1, 2)) > 1).all()
    ink = moved.sum(dim=(1, 2)) / bars.float().sum(dim=(1, 2))
    assert ink.min() > 0.15
    assert 0.8 < ink.median() < 1.25
    assert ink.max() < 3


def test_more_strength_moves_further(bars):
    distance = [
        (augment.augment(bars, generator(), strength=strength, disturbed=0) - bars.float()).abs().mean()
        for strength in (0.25, 0.5, 1.0, 2.0)
    ]
    assert distance == sorted(distance)


def test_only_the_chosen_pictures_are_disturbed(bars):
    chances = torch.zeros(64)
    chances[10:20] = 1
    undisturbed = augment.augment(bars, generator(), strength=0, disturbed=torch.zeros(64))
    disturbed = augment.augment(bars, generator(), strength=0, disturbed=chances)
    changed = (undisturbed - disturbed).abs().amax(dim=(1, 2)) > 1
    assert changed[10:20].sum() >= 8
    assert not changed[:10].any()
    assert not changed[20:].any()


@pytest.mark.parametrize("disturbance", [function for function, _ in DISTURBANCES], ids=lambda f: f.__name__)
def test_a_disturbance_changes_pictures_and_leaves_no_nan(disturbance, bars):
    pictures = bars.float() / 255
    result = disturbance(pictures.clone(), generator(3)).clamp(0, 1)
    assert result.shape == pictures.shape
    assert torch.isfinite(result).all()
    assert ((result - pictures).abs().amax(dim=(1, 2)) > 0.02).float().mean() > 0.4


def test_the_shares_of_the_disturbances_sum_to_one():
    assert sum(share for _, share in DISTURBANCES) == pytest.approx(1)
