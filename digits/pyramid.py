"""The network of digits.segmenter: photographs whose strokes are known come in, its trained ONNX file goes out.

A feature pyramid (Lin et al., arXiv:1612.03144): five times down to half the size, four times up again, where what was
seen at that size is added; the last step gives four pixels at each place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from digits.export import exported
from digits.fit import choose_device, precision
from digits.ink import Bytes
from digits.photographer import Shot, field_and_label, shoot
from digits.segmenter import ROUND, SIDE, SURE, Segmenter, reduced
from digits.workers import Progress, in_order

WIDTHS = (16, 32, 48, 64)
BATCH, LEARNING_RATE, WEIGHT_DECAY = 32, 4e-3, 0.01
SMALL, AGAIN = 0.35, 0.7  # of the digits that take less of their picture so many are looked at from closer, too
MIRRORED, INVERTED = 0.5, 0.25  # shares of the pictures
SMOOTH = 20.0  # pixels that keep the overlap of next to nothing from jumping


class Stage(nn.Sequential):
    """Convolution, batch normalisation, ReLU: (n, in, h, w) to (n, out, h / stride, w / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Pyramid(nn.Module):
    """Pictures uint8 (n, 3, SIDE, SIDE) of Y, Cr and Cb in, logits (n, SIDE, SIDE) of "this is a stroke" out."""

    def __init__(self) -> None:
        super().__init__()
        widths = (*WIDTHS, WIDTHS[-1])
        self.down = nn.ModuleList(
            # At the first step a kernel of 4 sees each pixel as often as any other.
            nn.Sequential(Stage(before, width, 2, kernel=4 if before == 3 else 3), Stage(width, width))
            for before, width in zip((3, *widths), widths, strict=False)
        )
        self.narrow = nn.ModuleList(
            nn.Conv2d(deeper, width, kernel_size=1, bias=False)
            for width, deeper in zip(WIDTHS, widths[1:], strict=True)
        )
        self.up = nn.ModuleList(Stage(width, width) for width in WIDTHS)
        self.output = nn.Conv2d(WIDTHS[0], 4, kernel_size=1)

    def forward(self, pictures: Tensor) -> Tensor:
        light, colour = torch.tensor_split(pictures.float(), (1,), dim=1)
        about = light.mean((2, 3), keepdim=True)
        spread = torch.sqrt((light - about).square().mean((2, 3), keepdim=True)) + 4
        colour = (colour - colour.mean((2, 3), keepdim=True)) / 12
        seen = [torch.cat(((light - about) / spread, colour), dim=1)]
        for stage in self.down:
            seen.append(stage(seen[-1]))
        whole = seen.pop()
        for narrow, stage in zip(reversed(self.narrow), reversed(self.up), strict=True):
            whole = stage(F.interpolate(narrow(whole), scale_factor=2.0) + seen.pop())
        return F.pixel_shuffle(self.output(whole), 2)[:, 0]


@dataclass(frozen=True)
class Strokes:
    """Pictures uint8 (n, 3, SIDE, SIDE) as `reduced` gives them, and how much of each pixel is ink, uint8 (n, SIDE,
    SIDE)."""

    pictures: Bytes
    ink: Bytes


def _sample(images: Bytes, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> list[tuple[Bytes, Bytes]]:
    shot = shoot(field_and_label(images, labels, rng)[0], rng, rng.uniform(0, 1))
    samples = [_reduced(shot)]
    x, y, w, h = cv2.boundingRect((shot.ink > 0.2).astype(np.uint8))
    size = max(w, h)
    if 0 < size < SMALL * max(shot.ink.shape) and rng.random() < AGAIN:
        reach = size * rng.uniform(ROUND - 0.3, ROUND + 0.9) / 2
        middle = np.array([y + h / 2, x + w / 2]) + rng.uniform(-0.25, 0.25, 2) * reach
        top, left = np.maximum(middle - reach, 0).astype(int)
        bottom, right = (middle + reach).astype(int) + 1
        part = slice(top, bottom), slice(left, right)
        samples.append(_reduced(Shot(shot.picture[part], shot.ink[part])))
    return samples


def _reduced(shot: Shot) -> tuple[Bytes, Bytes]:
    square, (height, width) = reduced(shot.picture)
    method = cv2.INTER_AREA if max(shot.ink.shape) > SIDE else cv2.INTER_LINEAR
    ink = np.zeros((SIDE, SIDE), np.uint8)
    ink[:height, :width] = np.rint(cv2.resize(shot.ink, (width, height), interpolation=method) * 255)
    return square, ink


def make_strokes(
    images: Bytes,
    labels: npt.NDArray[np.int64],
    count: int,
    seed: int,
    *,
    workers: int = 2,
    progress: Progress | None = None,
) -> Strokes:
    """Photographs `count` digits drawn at random, hard and easy ones; where they are small, many from closer too.

    The same (images, labels, count, seed) give the same pictures, whatever `workers` is.
    """
    made = [
        sample
        for samples in in_order(partial(_sample, images, labels), count, seed, workers, progress)
        for sample in samples
    ]
    return Strokes(np.stack([picture for picture, _ in made]), np.stack([ink for _, ink in made]))


def fit(strokes: Strokes, *, epochs: int, seed: int, device: str = "auto", progress: Progress | None = None) -> Pyramid:
    """Trains a network; the same seed, device, thread count and library versions give the same. In eval mode, on the
    CPU. `progress` is called with (done, steps)."""
    where = choose_device(device)
    torch.manual_seed(seed)
    net = Pyramid().to(where).to(memory_format=torch.channels_last)
    pictures, ink = torch.from_numpy(strokes.pictures), torch.from_numpy(strokes.ink)
    size = min(BATCH, len(pictures))
    steps = epochs * (len(pictures) // size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if step % (steps // epochs) == 0:
            rows = iter(torch.split(torch.randperm(len(pictures), generator=generator), size))
        batch, wanted = pictures[mine := next(rows)].to(where), ink[mine].to(where).float() / 255
        mirrored, inverted = torch.rand(2, len(batch), generator=generator).to(where)
        batch = torch.where((mirrored < MIRRORED).view(-1, 1, 1, 1), batch.flip(3), batch)
        wanted = torch.where((mirrored < MIRRORED).view(-1, 1, 1), wanted.flip(2), wanted)
        negative = torch.cat((255 - batch[:, :1], batch[:, 1:]), dim=1)
        batch = torch.where((inverted < INVERTED).view(-1, 1, 1, 1), negative, batch)
        with precision(where):
            logits = net(batch.contiguous(memory_format=torch.channels_last))
        loss = 3 * F.binary_cross_entropy_with_logits(logits.float(), wanted)
        loss = loss + 1 - _overlap(logits.float().sigmoid(), wanted).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    return net.to("cpu").to(memory_format=torch.contiguous_format).eval()


def _overlap(found: Tensor, wanted: Tensor) -> Tensor:
    """Twice what both have in common, of the sum of both: (n, h, w) each, 0..1, to (n,). Sørensen and Dice's."""
    common = (found * wanted).sum((1, 2))
    return (2 * common + SMOOTH) / (found.sum((1, 2)) + wanted.sum((1, 2)) + SMOOTH)


class _Found(nn.Module):
    """Pictures in, how likely each pixel is a stroke out."""

    def __init__(self, net: Pyramid) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.sigmoid(self.net(pictures))


def to_onnx(net: Pyramid) -> bytes:
    """What digits.segmenter loads: `pictures` uint8 (n, 3, SIDE, SIDE) in, `strokes` float32 (n, SIDE, SIDE) out."""
    example = torch.zeros((2, 3, SIDE, SIDE), dtype=torch.uint8)
    return exported(_Found(net).eval(), example, "pictures", ["strokes"])


def overlap(segmenter: Segmenter, strokes: Strokes) -> float:
    """How well it finds the strokes of these pictures, 0..1: the mean over them."""
    parts = []
    for start in range(0, len(strokes.pictures), BATCH):
        some = slice(start, start + BATCH)
        found = torch.from_numpy((segmenter.found(strokes.pictures[some]) > SURE).astype(np.float32))
        parts.append(_overlap(found, torch.from_numpy(strokes.ink[some]).float() / 255))
    return float(torch.cat(parts).mean())
