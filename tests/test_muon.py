"""The optimiser of the hidden layers, beside PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from digits import muon
from digits.muon import Muon, orthogonalise

SHAPES = [(64, 288), (100, 40), (24, 30), (16, 400)]  # the last is flat enough for the other way


def drawn(*shape: int) -> Tensor:
    """A matrix whose singular values lie two orders of magnitude apart."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator) * torch.logspace(0, -2, shape[0])[:, None]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_moves_as_with_pytorchs_own(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(drawn(*shape)) for _ in range(2))
    optimizers = [
        Muon([ours], lr=0.1, weight_decay=0.2, dtype=torch.bfloat16),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2, adjust_lr_fn="original"),
    ]
    for step in range(3):
        before = ours.detach().clone()
        for weights, optimizer in zip((ours, theirs), optimizers, strict=True):
            weights.grad = drawn(*shape) * (step + 1) + torch.eye(*shape)
            optimizer.step()
        assert (ours - theirs).norm() < 0.1 * (ours - before).norm()  # they round to bfloat16 in other places


def test_a_kernel_moves_as_the_matrix_of_its_outputs() -> None:
    matrix = nn.Parameter(drawn(8, 4 * 9))
    kernel = nn.Parameter(matrix.detach().clone().view(8, 4, 3, 3).to(memory_format=torch.channels_last))
    gradient = drawn(36, 8).T.contiguous()
    for weights in (matrix, kernel):
        optimizer = Muon([weights], lr=0.1, weight_decay=0.0)
        for _ in range(2):
            weights.grad = gradient.view_as(weights)
            optimizer.step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_directions_are_alike_afterwards(shape: tuple[int, int], dtype: torch.dtype) -> None:
    values = torch.linalg.svdvals(orthogonalise(drawn(*shape), dtype))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_both_ways_lead_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = drawn(16, 400)
    by_the_square = orthogonalise(flat, torch.float32)
    monkeypatch.setattr(muon, "FLAT", 1_000)
    assert torch.allclose(orthogonalise(flat, torch.float32), by_the_square, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_gradient_of_zeros_moves_nothing(shape: tuple[int, int]) -> None:
    weights = nn.Parameter(drawn(*shape))
    before = weights.detach().clone()
    weights.grad = torch.zeros_like(weights)
    Muon([weights], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weights, before)
