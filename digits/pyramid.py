"""The network of digits.segmenter: photographs whose strokes are known come in, its trained ONNX file goes out.

A feature pyramid (Lin et al., arXiv:1612.03144): five times down to half the size, four times up again, where what was
seen at that size is added; the last step gives four pixels at each place. What is seen at the smallest size, of the
picture as a whole, also says whether there is a digit at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from digits import checkpoints
from digits.device import choose_device, precision
from digits.export import exported
from digits.ink import Bytes
from digits.photographer import Strokes
from digits.segmenter import SIDE, SURE, Segmenter
from digits.workers import Progress

WIDTHS = (16, 32, 64, 128)
BATCH, LEARNING_RATE, WEIGHT_DECAY = 32, 4e-3, 0.01
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
    """Pictures uint8 (n, 3, SIDE, SIDE) of Y, Cr and Cb in; logits (n, SIDE, SIDE) of "this is a stroke" and (n,) of
    "there is a digit" out."""

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
        self.present = nn.Sequential(
            nn.Linear(2 * widths[-1], widths[-1]), nn.ReLU(inplace=True), nn.Linear(widths[-1], 1)
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        light, colour = torch.tensor_split(pictures.float(), (1,), dim=1)
        about = light.mean((2, 3), keepdim=True)
        spread = torch.sqrt((light - about).square().mean((2, 3), keepdim=True)) + 4
        colour = (colour - colour.mean((2, 3), keepdim=True)) / 12
        seen = [torch.cat(((light - about) / spread, colour), dim=1)]
        for stage in self.down:
            seen.append(stage(seen[-1]))
        whole = seen.pop()
        present = self.present(torch.cat((whole.mean((2, 3)), whole.amax((2, 3))), dim=1))[:, 0]
        for narrow, stage in zip(reversed(self.narrow), reversed(self.up), strict=True):
            whole = stage(F.interpolate(narrow(whole), scale_factor=2.0) + seen.pop())
        return F.pixel_shuffle(self.output(whole), 2)[:, 0], present


def fit(
    strokes: Strokes,
    without: Bytes,
    *,
    epochs: int,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> Pyramid:
    """Trains a network on pictures with strokes and on some without a digit, uint8 (m, 3, SIDE, SIDE), m ≥ 0; the same
    seed, CPU, thread count and library versions give the same. In eval mode, on the CPU. `progress` is called with
    (done, steps). `checkpoint` is a file that is written after each epoch and gone on from, to the same network; it is
    the caller's to keep it for the same pictures."""
    where = choose_device(device)
    torch.manual_seed(seed)
    net = Pyramid().to(where).to(memory_format=torch.channels_last)
    pictures, ink, none = (torch.from_numpy(part) for part in (strokes.pictures, strokes.ink, without))
    count = len(pictures) + len(none)
    size = min(BATCH, count)
    batches = count // size  # of an epoch
    steps = epochs * batches
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Any] = {"net": net, "optimizer": optimizer, "schedule": schedule}
    identity: dict[str, object] = {"pictures": count, "epochs": epochs, "seed": seed}
    saved = checkpoints.load(checkpoint, identity)
    if saved:
        checkpoints.restore(state, saved)
        generator.set_state(saved["generator"])
        if progress is not None:
            progress(saved["epoch"] * batches, steps)
    for epoch in range(saved["epoch"] + 1 if saved else 1, epochs + 1):
        rows = torch.split(torch.randperm(count, generator=generator), size)[:batches]
        for step, mine in enumerate(rows, (epoch - 1) * batches + 1):
            some, others = mine[mine < len(pictures)], mine[mine >= len(pictures)] - len(pictures)
            batch = torch.cat((pictures[some], none[others])).to(where)
            wanted = ink[some].to(where).float() / 255
            chance, inverted = torch.rand(2, len(batch), generator=generator).to(where)
            mirrored = chance < MIRRORED
            batch = torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(3), batch)
            wanted = torch.where(mirrored[: len(some)].view(-1, 1, 1), wanted.flip(2), wanted)
            negative = torch.cat((255 - batch[:, :1], batch[:, 1:]), dim=1)
            batch = torch.where((inverted < INVERTED).view(-1, 1, 1, 1), negative, batch)
            with precision(where):
                logits, present = net(batch.contiguous(memory_format=torch.channels_last))
            loss = _loss_of_strokes(logits.float()[: len(some)], wanted) * len(some) / len(batch)
            # A mirrored E may be a 3, a mirrored 3 none: of these only the strokes are learnt.
            right, is_one = ~mirrored, (torch.arange(len(batch), device=where) < len(some)).float()
            loss = loss + F.binary_cross_entropy_with_logits(present.float(), is_one, right.float())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step, steps)
        if checkpoint:
            checkpoints.save(checkpoint, identity, state, epoch=epoch, generator=generator.get_state())
    return net.to("cpu").to(memory_format=torch.contiguous_format).eval()


def _loss_of_strokes(logits: Tensor, wanted: Tensor) -> Tensor:
    if not len(wanted):
        return logits.sum()  # 0, which has a gradient as any other
    return 3 * F.binary_cross_entropy_with_logits(logits, wanted) + 1 - _overlap(logits.sigmoid(), wanted).mean()


def _overlap(found: Tensor, wanted: Tensor) -> Tensor:
    """Twice what both have in common, of the sum of both: (n, h, w) each, 0..1, to (n,). Sørensen and Dice's."""
    common = (found * wanted).sum((1, 2))
    return (2 * common + SMOOTH) / (found.sum((1, 2)) + wanted.sum((1, 2)) + SMOOTH)


class _Found(nn.Module):
    """Pictures in, how likely each pixel is a stroke, and how likely there is a digit, out."""

    def __init__(self, net: Pyramid) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        strokes, present = self.net(pictures)
        return torch.sigmoid(strokes), torch.sigmoid(present)


def to_onnx(net: Pyramid) -> bytes:
    """What digits.segmenter loads: `pictures` uint8 (n, 3, SIDE, SIDE) in; `strokes` float32 (n, SIDE, SIDE) and
    `present` float32 (n,) out."""
    example = torch.zeros((2, 3, SIDE, SIDE), dtype=torch.uint8)
    return exported(_Found(net).eval(), example, "pictures", ["strokes", "present"])


def presence(segmenter: Segmenter, pictures: Bytes) -> NDArray[np.float32]:
    """How likely it finds a digit in each of these (n, 3, SIDE, SIDE): (n,)."""
    starts = range(0, len(pictures), BATCH)
    return np.concatenate([segmenter.found(pictures[start : start + BATCH])[1] for start in starts])


def overlap(segmenter: Segmenter, strokes: Strokes) -> float:
    """How well it finds the strokes of these pictures, 0..1: the mean over them."""
    parts = []
    for start in range(0, len(strokes.pictures), BATCH):
        some = slice(start, start + BATCH)
        found = torch.from_numpy((segmenter.found(strokes.pictures[some])[0] > SURE).astype(np.float32))
        parts.append(_overlap(found, torch.from_numpy(strokes.ink[some]).float() / 255))
    return float(torch.cat(parts).mean())
