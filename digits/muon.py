"""Muon, the optimiser of the hidden layers: a step moves a matrix in all directions alike, however small the gradient.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
https://kellerjordan.github.io/posts/muon/. `torch.optim.Muon` is the same for matrices; this one also takes the kernels
of convolutions, multiplies in the precision that it is told (bfloat16 is slow on many CPUs), and does a third of the
work where a matrix has far more columns than rows, as fc1's thin one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

ITERATIONS = 5
# Of the fifth-order Newton–Schulz iteration, chosen by its authors for speed: singular values end within 0.7 to 1.2.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
TINY = 1e-7
FLAT = 8  # columns for each row, from which iterating on the product with its transpose is cheaper


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, made orthogonal.

    Args:
        parameters: matrices (out, in), and kernels (out, in, height, width), which count as (out, in·height·width).
        lr: length of a step: about how far each direction moves; for a matrix that is taller than wide, times the root
            of their ratio.
        weight_decay: decoupled, as in AdamW.
        momentum: share of the former gradients that is kept at each step.
        dtype: of the large matrix products.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._move(weights, weights.grad, group)

    def _move(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weights]
        if not state:
            state["mean"] = torch.zeros_like(gradient)
        mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp_(mean, group["momentum"]).flatten(1)  # the gradient is not needed any more
        rows, columns = ahead.shape
        direction = orthogonalise(ahead, self.dtype).view_as(gradient)
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.add_(direction, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalise(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The same directions with singular values near 1: float (rows, columns) to the same, by Newton–Schulz."""
    tall = matrix.shape[0] > matrix.shape[1]
    near = (matrix.T if tall else matrix).to(dtype)
    rows, columns = near.shape
    if columns < FLAT * rows:
        near = near / (near.norm() + TINY)
        for _ in range(ITERATIONS):
            square = near @ near.T
            polynomial = torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC)
            near = torch.addmm(near, polynomial, near, beta=LINEAR)
    else:
        # Each iteration multiplies from the left by a polynomial of the square, whose own next value follows from it:
        # the wide matrix itself is needed at the beginning and at the end only.
        square = (near @ near.T).float()
        norm = square.trace().sqrt() + TINY
        identity = torch.eye(rows, device=near.device)
        square, product = square / norm.square(), identity / norm
        for _ in range(ITERATIONS):
            polynomial = LINEAR * identity + torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC)
            product = polynomial @ product
            square = polynomial @ square @ polynomial
        near = product.to(dtype) @ near
    return (near.T if tall else near).to(matrix.dtype)
