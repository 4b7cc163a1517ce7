"""`make bench-train`: images a second of our training loop beside the loop that most tutorials have, on this machine.

Both train the network of the figure, ours in thin form and in the number format that is faster here, on the same digits
and with the same kind of geometry. They take turns, round by round, so that a machine that is slower for a while is
slower for both; the ratio is taken within each round.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks import save, takes_out
from digits.data import Split, load
from digits.fit import Recipe, TrainingSet, fit
from digits.network import DigitNet


@dataclass(frozen=True)
class Measured:
    images_per_second: float
    cpu_milliseconds_per_image: float


class _Pictures(Dataset[tuple[torch.Tensor, int]]):
    """One picture at a time through torchvision's transforms, as in torchvision's own MNIST class."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomAffine(degrees=10, translate=(0.06, 0.06), scale=(0.9, 1.1), shear=7),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.1307], [0.3081]),
            ]
        )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.split.images[index]), int(self.split.labels[index])


def plain(split: Split, batch_size: int) -> int:
    """float32, one picture at a time, Adam: an epoch over the split. Gives how many pictures it showed."""
    net = DigitNet().train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    loader = DataLoader(_Pictures(split), batch_size=batch_size, shuffle=True, num_workers=2, drop_last=True)
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return len(loader) * batch_size


def ours(split: Split, batch_size: int) -> int:
    """The product's loop: an epoch, augmentation, outliers, averaging and validation included. Gives the same."""
    few = len(split) // 8
    outliers = np.random.default_rng(0).integers(0, 256, (few, 28, 28), dtype=np.uint8)
    digits, photographs = split.take(np.arange(2 * few, len(split))), split.take(np.arange(few))
    train = TrainingSet(digits, photographs, outliers)
    validation = Split(split.images[:200], split.labels[:200])
    fit(Recipe(batch_size=batch_size), train, validation, epochs=1, seed=0, device="cpu")
    return train.steps(batch_size) * batch_size


def measure(loop: Callable[[Split, int], int], split: Split, batch_size: int) -> Measured:
    used, started = _cpu_seconds(), time.perf_counter()
    shown = loop(split, batch_size)
    seconds = time.perf_counter() - started
    return Measured(shown / seconds, 1000 * (_cpu_seconds() - used) / shown)


def _cpu_seconds() -> float:
    """User and system time of this process and of its ended children, the loader's workers."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=8_192, help="digits in an epoch; 55000: the whole, ten minutes")
    parser.add_argument("--batch-size", type=int, default=Recipe().batch_size)
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("MNIST_ROOT", "data")))
    takes_out(parser)
    arguments = parser.parse_args()
    split = load("mnist", arguments.data_dir, limit=arguments.images).train

    loops = {"ours": ours, "plain": plain}
    results: dict[str, list[Measured]] = {name: [] for name in loops}
    for round_number in range(arguments.rounds + 1):
        for name, loop in loops.items():
            measured = measure(loop, split, arguments.batch_size)
            if round_number:  # the first round warms up
                results[name].append(measured)
                print(f"round {round_number}  {name:6} {measured.images_per_second:7.0f} images/s", flush=True)
    ratios = [a.images_per_second / b.images_per_second for a, b in zip(results["ours"], results["plain"], strict=True)]
    cpu = [
        b.cpu_milliseconds_per_image / a.cpu_milliseconds_per_image
        for a, b in zip(results["ours"], results["plain"], strict=True)
    ]
    print(
        f"ours is {statistics.median(ratios):.2f} times as fast"
        f" ({min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)})"
    )
    print(f"and takes 1/{statistics.median(cpu):.2f} of the CPU time ({min(cpu):.2f} to {max(cpu):.2f})")
    save(
        arguments.out,
        "train",
        {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "torch": torch.__version__,
            "batch_size": arguments.batch_size,
            "images": arguments.images,
            "results": {name: [asdict(one) for one in many] for name, many in results.items()},
            "ratio": ratios,
            "cpu_ratio": cpu,
        },
    )


if __name__ == "__main__":
    main()
