"""Training: a recipe and pictures in, a network out. One loop for trials and for the final training.

All pictures live on the device as uint8 and are augmented in batches; the weights are averaged over the last steps;
a checkpoint after every epoch lets an interrupted training go on to the same result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from digits import checkpoints
from digits.augment import augment
from digits.data import Split
from digits.device import choose_device, precision
from digits.distributed import ALONE, Ranks
from digits.network import DIGITS, DigitNet, eleven_way, keep_rising, thin, widen

NOT_A_DIGIT = DIGITS  # the eleventh class
AVERAGE_EVERY = 8  # steps; averaging all weights at each step would cost more than it is worth
SHOWN = 1.5  # pictures that an epoch shows, for each that there is to train on
REPEATED = 10  # times that an epoch shows a photograph or an outlier, about, at most
MEMORY = 0.97  # of the average at each update
BATCH = 1000  # pictures at once where nothing is learnt
TOGETHER = 8  # batches that are augmented together: many small operations, which take a GPU longer to begin than to do


@dataclass(frozen=True)
class Recipe:
    """The settings of a training; Optuna moves all but the size of a batch and the share of outliers.

    Args:
        learning_rate: peak of the one-cycle schedule (Smith & Topin, arXiv:1708.07120), for AdamW.
        weight_decay: AdamW's, on weights only.
        dropout: share of the units of fc1 and fc2 dropped.
        label_smoothing: share of the target spread over the ten digits.
        batch_size: pictures a step.
        strength: of the geometric augmentation; 1 is about what separates two writers.
        disturbed: share of the MNIST digits that are disturbed (backgrounds, strokes, noise …).
        photographs: share of each batch that are synthetic photographs as imaging hands them over.
        outliers: share of each batch that are no digit.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    dropout: float = 0.2
    label_smoothing: float = 0.03
    batch_size: int = 256
    strength: float = 0.85
    disturbed: float = 0.25
    photographs: float = 0.25
    outliers: float = 0.08


@dataclass(frozen=True)
class TrainingSet:
    """MNIST digits, and besides, if given, synthetic photographs (labelled) and pictures that are no digit."""

    digits: Split
    photographs: Split | None = None
    outliers: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return sum(len(part) for part in (self.digits, self.photographs, self.outliers) if part is not None)

    def steps(self, batch_size: int) -> int:
        """How many batches of that size an epoch has."""
        return max(1, int(SHOWN * len(self)) // batch_size)


@dataclass(frozen=True)
class EpochReport:
    """What an epoch was like. Losses in nats, accuracies 0 to 1 (nan without photographs), learning rate at its end."""

    epoch: int
    epochs: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    photographs_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float


def fit(
    recipe: Recipe,
    train: TrainingSet,
    validation: Split,
    *,
    epochs: int,
    seed: int,
    device: str = "auto",
    validation_photographs: Split | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    checkpoint: Path | None = None,
    ranks: Ranks = ALONE,
) -> DigitNet:
    """Train a network.

    An epoch shows one and a half times as many pictures as there are to train on, in the recipe's mix.

    Args:
        recipe: settings.
        train: what to learn from.
        validation: is measured after each epoch.
        epochs: length of the one-cycle schedule.
        seed: the same seed, CPU, thread count and library versions give the same network; CUDA's sums have no order.
        device: "auto", "cpu" or "cuda".
        validation_photographs: gives each report its `photographs_accuracy`.
        on_epoch: is told after each epoch; what it raises ends the training. One that goes on begins with the report
            of its last epoch, which whoever was killed then may not have heard.
        checkpoint: file written after each epoch, whole or not at all, and gone on from where it fits the arguments.
        ranks: the processes that train together. Each is given the same recipe, pictures to train on, epochs and seed;
            only rank 0 measures, reports and writes.

    Returns:
        The network with averaged weights, in eval mode, on the CPU.
    """
    where = choose_device(device)
    torch.manual_seed(seed)
    net = DigitNet(recipe.dropout)
    thin(net)
    net = net.to(where).to(memory_format=torch.channels_last)
    average = AveragedModel(net, multi_avg_fn=_average, use_buffers=True)
    batches = _Batches(recipe, train, where, seed, ranks)
    steps = max(4, epochs * len(batches))  # of fewer OneCycleLR can't take a quarter
    optimizer = torch.optim.AdamW(_parameter_groups(net, recipe.weight_decay), lr=recipe.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=steps + 1, pct_start=0.25, final_div_factor=1e3
    )
    identity = {"recipe": asdict(recipe), "epochs": epochs, "seed": seed, "steps": len(batches)}
    state: dict[str, Any] = {"net": net, "average": average, "optimizer": optimizer, "schedule": schedule}
    last = _resume(checkpoint, identity, state, ranks)
    together = ranks.wrap(net)
    if last and on_epoch and not ranks.rank:
        on_epoch(last)

    for epoch in range(last.epoch + 1 if last else 1, epochs + 1):
        started = time.perf_counter()
        # Reseeded for each epoch, so that a resumed training draws what an unbroken one would have drawn.
        torch.manual_seed(ranks.seed(seed * 100_003 + epoch))
        together.train()
        loss_sum = torch.zeros((), device=where)
        correct = torch.zeros((), device=where)
        for step, (pictures, labels) in enumerate(batches.epoch(epoch)):
            with precision(where):
                logits = together(pictures)
            scores = eleven_way(logits.float())
            loss = ranks.weigh(
                F.cross_entropy(scores, _targets(labels, recipe.label_smoothing)), len(labels), batches.size
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            keep_rising(net)
            schedule.step()
            if step % AVERAGE_EVERY == 0:
                average.update_parameters(net)
            loss_sum += loss.detach()
            correct += (scores.detach().argmax(1) == labels).sum()
        if epoch == epochs:
            average.update_parameters(net)
        average.eval()
        # Told as numbers, so that a GPU has done what it was asked to before the clock is read.
        total_loss, total_right = ranks.sum(torch.stack([loss_sum / ranks.count, correct])).tolist()
        if ranks.rank:
            continue  # rank 0 alone measures and tells
        shown = len(batches) * batches.size
        training_seconds = time.perf_counter() - started
        validation_loss, validation_accuracy = _evaluate(average.module, validation, where)
        hard = _evaluate(average.module, validation_photographs, where)[1] if validation_photographs else math.nan
        report = EpochReport(
            epoch=epoch,
            epochs=epochs,
            train_loss=total_loss / len(batches),
            train_accuracy=total_right / shown,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            photographs_accuracy=hard,
            learning_rate=float(schedule.get_last_lr()[0]),
            seconds=time.perf_counter() - started,
            images_per_second=shown / training_seconds,
        )
        if checkpoint:
            checkpoints.save(checkpoint, identity, state, report=asdict(report))
        if on_epoch:
            on_epoch(report)

    trained = average.module.to("cpu").to(memory_format=torch.contiguous_format)
    assert isinstance(trained, DigitNet)
    widen(trained)
    return trained.eval()


def predict_logits(net: DigitNet, images: NDArray[np.uint8], device: str = "cpu") -> NDArray[np.float32]:
    """Logits, uint8 (n, 28, 28) to float32 (n, 10), in the precision of the caller. The network is left on `device`."""
    where = torch.device(device)
    was_training = net.training
    net.eval().to(where)
    with torch.inference_mode():
        parts = [
            net(torch.from_numpy(images[start : start + BATCH]).to(where)).float().cpu().numpy()
            for start in range(0, len(images), BATCH)
        ]
    net.train(was_training)
    return np.concatenate(parts) if parts else np.zeros((0, DIGITS), np.float32)


def _parameter_groups(net: DigitNet, weight_decay: float) -> list[dict[str, object]]:
    """Matrices and kernels decay; biases and the scales of batch normalisation do not."""
    decay = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    keep = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


@torch.no_grad()
def _average(averaged: Any, current: Any, updates: Any) -> None:
    """Exponential average that forgets its beginning: short trainings would else be judged by their first weights."""
    memory = min(MEMORY, (1 + int(updates)) / (10 + int(updates)))
    for old, new in zip(averaged, current, strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - memory)
        else:
            old.copy_(new)  # batch normalisation's counters


def _targets(labels: Tensor, smoothing: float) -> Tensor:
    """int64 (n,) 0 to 10 to soft targets float (n, 11); the smoothed share goes to the ten digits."""
    hot = F.one_hot(labels, DIGITS + 1).float() * (1 - smoothing)
    hot[:, :DIGITS] += smoothing / DIGITS
    return hot


class _Batches:
    """Mixed, augmented batches: float (n, 28, 28) on the device and labels 0 to 10."""

    def __init__(
        self, recipe: Recipe, train: TrainingSet, device: torch.device, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self.recipe, self.seed, self.ranks = recipe, seed, ranks
        self.size = size = min(recipe.batch_size, len(train.digits))
        photographs = train.photographs if train.photographs is not None and len(train.photographs) else None
        outliers = train.outliers if train.outliers is not None and len(train.outliers) else None
        self.steps = train.steps(size)

        def most(wanted: float, count: int) -> int:
            """Of a batch; of few pictures less, or they would be learnt by heart."""
            return min(round(size * wanted), math.ceil(REPEATED * count / self.steps))

        of_photographs = most(recipe.photographs, len(photographs)) if photographs else 0
        of_outliers = most(recipe.outliers, len(outliers)) if outliers is not None else 0
        # (pictures, labels, how many of them in a batch, chance to be disturbed)
        self.sources: list[tuple[Tensor, Tensor, int, float]] = []
        plain = [(train.digits.images, train.digits.labels, size - of_photographs - of_outliers, recipe.disturbed)]
        if photographs and of_photographs:
            plain.append((photographs.images, photographs.labels, of_photographs, recipe.disturbed * 0.3))
        if outliers is not None and of_outliers:
            labels = np.full(len(outliers), NOT_A_DIGIT)
            plain.append((outliers, labels, of_outliers, recipe.disturbed * 0.6))
        for images, labels, share, disturbed in plain:
            on_device = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
            self.sources.append((*on_device, share, disturbed))
        self.generator = Generator(device)

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.generator.manual_seed(self.seed * 100_003 + epoch)
        orders = [self._order(len(labels), share * self.steps) for _, labels, share, _ in self.sources]
        # This rank's rows of each source for all batches: (steps, its part of the source's share).
        rows = [
            self.ranks.share(order[: self.steps * share].view(self.steps, share).T).T
            for order, (*_, share, _) in zip(orders, self.sources, strict=True)
        ]
        chances = torch.cat(
            [torch.full((mine.shape[1],), source[3]) for mine, source in zip(rows, self.sources, strict=True)]
        )
        chances = chances.to(self.generator.device)
        if self.ranks.rank:  # the order is that of all, what is drawn from here on is this rank's own
            self.generator.manual_seed(self.ranks.seed(self.seed * 100_003 + epoch))
        for start in range(0, self.steps, TOGETHER):
            some = [mine[start : start + TOGETHER] for mine in rows]
            images = torch.cat([source[0][mine] for source, mine in zip(self.sources, some, strict=True)], dim=1)
            labels = torch.cat([source[1][mine] for source, mine in zip(self.sources, some, strict=True)], dim=1)
            disturbed = chances.repeat(len(images))
            pictures = augment(images.flatten(0, 1), self.generator, strength=self.recipe.strength, disturbed=disturbed)
            yield from zip(pictures.view(images.shape), labels, strict=True)

    def _order(self, count: int, wanted: int) -> Tensor:
        """Row numbers without repetition as far as they reach."""
        rounds = math.ceil(wanted / count)
        device = self.generator.device
        return torch.cat([torch.randperm(count, generator=self.generator, device=device) for _ in range(rounds)])


def _evaluate(net: torch.nn.Module, split: Split, device: torch.device) -> tuple[float, float]:
    """Mean negative log-likelihood of the ten-way softmax, and accuracy."""
    loss = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    with torch.inference_mode(), precision(device):
        for start in range(0, len(split), BATCH):
            labels = torch.from_numpy(split.labels[start : start + BATCH]).to(device)
            logits = net(torch.from_numpy(split.images[start : start + BATCH]).to(device)).float()
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
    return float(loss) / len(split), float(correct) / len(split)


def _resume(
    checkpoint: Path | None, identity: dict[str, object], state: dict[str, Any], ranks: Ranks
) -> EpochReport | None:
    """Load rank 0's checkpoint of this very training, if there is one; the report of the last epoch that is done."""
    saved = ranks.same(checkpoints.load(checkpoint, identity))
    if saved is None:
        return None
    checkpoints.restore(state, saved)
    return EpochReport(**saved["report"])
