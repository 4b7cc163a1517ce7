"""One training by several processes, on one machine or many: each has a part of every batch, gradients are averaged.

`torchrun` starts the processes. The first, rank 0, says what to train on, and alone looks at what comes out; the others
need no data and no files. Without `torchrun` there is one process, `ALONE`, for which nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from digits.device import cuda_works

PATIENCE = timedelta(minutes=30)  # for the other ranks within a training: rank 0 validates and writes meanwhile
LONG_PATIENCE = timedelta(days=2)  # for rank 0 to begin: it makes pictures, or tunes, first
SEED_APART = 1_000_000_007  # between the ranks' random numbers


class RankError(RuntimeError):
    """The processes can't train together, or one of them has ended."""


def launched() -> bool:
    """Whether `torchrun` has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together: `rank` of `count`."""

    rank: int = 0
    count: int = 1
    training: Any = None  # the process group in which gradients are averaged

    def seed(self, seed: int) -> int:
        """A seed of this rank's own; rank 0 has the one that a single process has."""
        return seed + self.rank * SEED_APART

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of a batch's rows (n,); the parts of all ranks together are the batch."""
        return rows[self.rank :: self.count]

    def weigh(self, loss: Tensor, mine: int, whole: int) -> Tensor:
        """A mean over `mine` pictures so that the ranks' average is the mean over all `whole` pictures of the batch."""
        return loss if self.count == 1 else loss * (self.count * mine / whole)

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network to train through: the same weights on all ranks, which average their gradients.

        On CUDA, batch normalisation takes its statistics over the whole batch. On CPUs, for which PyTorch has nothing
        of the kind, each rank normalises by its own part, and the running statistics are those of rank 0.
        """
        if self.count == 1:
            return net
        if next(net.parameters()).is_cuda:
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net, self.training)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(net, process_group=self.training)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, float (n,)."""
        if self.count > 1:
            dist.all_reduce(values, group=self.training)
        return values

    def same(self, value: Any) -> Any:
        """What rank 0 has, on every rank."""
        if self.count == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]


ALONE = Ranks()


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """The ranks that `torchrun` has started, or ALONE. Waits for all of them.

    Raises:
        RankError: there are fewer GPUs here than ranks, some ranks have one and others none, or one of them has ended.
    """
    if not launched():
        yield ALONE
        return
    local, cuda = int(os.environ["LOCAL_RANK"]), device != "cpu" and torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise RankError(
            f"rank {local} of this machine has no GPU: there are {torch.cuda.device_count()};"
            " expected at most as many processes (torchrun --nproc-per-node), or device=cpu"
        )
    if cuda:
        try:
            torch.cuda.set_device(local)
        except RuntimeError:  # others have it to themselves
            cuda = False
        else:
            cuda = cuda_works()
    try:
        dist.init_process_group("gloo", timeout=LONG_PATIENCE)
        have: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(have, cuda)
        if len(set(have)) > 1:
            without = ", ".join(str(rank) for rank, one in enumerate(have) if not one)
            raise RankError(f"ranks {without} can use no GPU and the others can: expected device=cpu, or GPUs for all")
        training = dist.new_group(timeout=PATIENCE, backend="nccl" if cuda else "gloo")
        yield Ranks(dist.get_rank(), dist.get_world_size(), training)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise RankError(
            "another process of this training has ended, and says why itself; the same command goes on from here"
            f" ({str(error).splitlines()[0]})"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
