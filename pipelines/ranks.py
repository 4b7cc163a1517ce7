"""The final training by all processes of `torchrun`: rank 0 runs its step as ever, the others train when it says so.

Rank 0 sends the pictures and the recipe along, so the others need no data, no MLflow and no folder of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from digits import distributed
from digits.data import Split
from digits.distributed import ALONE, RankError, Ranks
from digits.fit import Recipe, TrainingSet
from digits.fit import fit as fit_alone
from digits.network import DigitNet
from pipelines.errors import UserError

SMALLEST = 8  # pictures of a batch for each rank: batch normalisation needs several

_ranks: Ranks = ALONE  # those that this process leads


def count() -> int:
    """How many processes train together."""
    return _ranks.count


@contextmanager
def lead(device: str) -> Iterator[None]:
    """While the block lasts, `fit` trains with the other ranks; waits for all of them first. Raises UserError."""
    global _ranks
    with _joined(device) as _ranks:
        try:
            yield
            _ranks.same(None)  # there is nothing more to do
        finally:
            _ranks = ALONE


def follow(device: str) -> None:
    """Trains what rank 0 says, until it says no more. Raises UserError."""
    with _joined(device) as ranks:
        while task := ranks.same(None):
            fit_alone(**task, device=device, ranks=ranks)


def fit(recipe: Recipe, train: TrainingSet, validation: Split, *, epochs: int, seed: int, **own: Any) -> DigitNet:
    """`digits.fit.fit` by this process and those that it leads. Raises UserError where a batch is too small."""
    check(recipe)
    few = Split(validation.images[:1], validation.labels[:1])  # rank 0 alone measures
    _ranks.same({"recipe": recipe, "train": train, "validation": few, "epochs": epochs, "seed": seed})
    return fit_alone(recipe, train, validation, epochs=epochs, seed=seed, ranks=_ranks, **own)


def check(recipe: Recipe) -> None:
    """Whether a batch is large enough for all processes. Raises UserError."""
    if recipe.batch_size < SMALLEST * _ranks.count:
        raise UserError(
            f"a batch of {recipe.batch_size} pictures is too small for {_ranks.count} processes;"
            f" expected at most {recipe.batch_size // SMALLEST} (torchrun --nproc-per-node and --nnodes)"
        )


@contextmanager
def _joined(device: str) -> Iterator[Ranks]:
    try:
        with distributed.joined(device) as ranks:
            yield ranks
    except RankError as error:
        raise UserError(str(error)) from error
