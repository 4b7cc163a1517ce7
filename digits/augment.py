"""Batches of digits in, the same digits as other hands, pens and cameras would have made them out. Pure torch.

Geometry goes to every picture, disturbances to a share of them. Nothing here repeats a function of MNIST-C, which is
the yardstick: the disturbances are generic (smooth backgrounds, strokes that do not belong, contrast, blur, noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

SIZE = 28


def augment(images: Tensor, generator: Generator, *, strength: float = 1.0, disturbed: float | Tensor = 0.5) -> Tensor:
    """Move, bend and thicken every digit, and disturb a share of the pictures.

    Args:
        images: uint8 (n, 28, 28), on the generator's device.
        strength: scales the geometry: 0 leaves the shape alone, 1 is about what separates two writers.
        disturbed: the share of pictures, or a probability for each picture float (n,), that gets one to three
            disturbances.

    Returns:
        float32 (n, 28, 28), 0 to 255.
    """
    pictures = images.to(torch.float32).div(255)
    pictures = change_stroke(bend(pictures, generator, strength), generator, strength)
    chosen = (_uniform(generator, len(pictures)) < disturbed).nonzero().squeeze(1)
    if len(chosen):
        pictures[chosen] = disturb(pictures[chosen], generator)
    return pictures.clamp_(0, 1).mul_(255)


def bend(pictures: Tensor, generator: Generator, strength: float) -> Tensor:
    """Rotation, scale, shear, shift and an elastic wobble in one resampling of float (n, 28, 28)."""
    count = len(pictures)

    def normal(spread: float, *shape: int) -> Tensor:
        return _normal(generator, count, *shape) * (spread * strength)

    angle = normal(math.radians(9)).clamp_(-0.5, 0.5)
    zoom = normal(0.09).clamp_(-0.3, 0.3).exp()
    aspect = normal(0.07).clamp_(-0.25, 0.25).exp()
    shear = normal(0.13).clamp_(-0.45, 0.45)
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack(
        (
            torch.stack((zoom * aspect * cosine, zoom * (shear * cosine - sine), normal(0.055)), 1),
            torch.stack((zoom / aspect * sine, zoom * (shear * sine + cosine), normal(0.055)), 1),
        ),
        1,
    )
    grid = F.affine_grid(matrix, [count, 1, SIZE, SIZE], align_corners=False)
    wobble = F.interpolate(normal(0.05, 2, 5, 5), size=(SIZE, SIZE), mode="bicubic", align_corners=True)
    grid = grid + wobble.permute(0, 2, 3, 1)
    # Bilinear sampling would blur all that is learnt from, and what is read later is not blurred.
    return F.grid_sample(pictures.unsqueeze(1), grid, mode="bicubic", align_corners=False).squeeze(1).clamp_(0, 1)


def change_stroke(pictures: Tensor, generator: Generator, strength: float) -> Tensor:
    """Thicken or thin the strokes of a third of float (n, 28, 28) by up to about a pixel."""
    thicker, thinner = _split(generator, len(pictures), 1 / 6, 1 / 6)
    for rows, pool in ((thicker, dilate), (thinner, erode)):
        amount = _uniform(generator, len(rows), 1, 1) * min(1.0, strength)
        pictures[rows] = torch.lerp(pictures[rows], pool(pictures[rows]), amount)
    return pictures


def disturb(pictures: Tensor, generator: Generator) -> Tensor:
    """One to three disturbances for each of float (n, 28, 28), values 0 to 1."""
    for share in (1.0, 0.5, 0.25):
        groups = _split(generator, len(pictures), *(share * weight for _, weight in DISTURBANCES))
        for rows, (disturbance, _) in zip(groups, DISTURBANCES, strict=True):
            if len(rows):
                pictures[rows] = disturbance(pictures[rows], generator).clamp_(0, 1)
    return pictures


def dilate(pictures: Tensor) -> Tensor:
    return F.max_pool2d(pictures.unsqueeze(1), 3, 1, 1).squeeze(1)


def erode(pictures: Tensor) -> Tensor:
    return -F.max_pool2d(-pictures.unsqueeze(1), 3, 1, 1).squeeze(1)


def background(pictures: Tensor, generator: Generator) -> Tensor:
    """An uneven light, of any fineness from one blob to stains of a few pixels, in front of the ink or behind it."""
    count = len(pictures)
    light = torch.zeros_like(pictures)
    for fineness in ((2, 5), (4, 13)):
        cells = int(torch.randint(*fineness, (), generator=generator, device=generator.device))
        layer = F.interpolate(
            _uniform(generator, count, 1, cells, cells), size=(SIZE, SIZE), mode="bicubic", align_corners=True
        )
        light += layer.squeeze(1) * _uniform(generator, count, 1, 1)
    light = light / light.amax(dim=(1, 2), keepdim=True)
    # Ink keeps at least a fifth of its contrast.
    level = 0.8 * _uniform(generator, count, 1, 1).sqrt()
    behind = torch.maximum(pictures, light * level)
    return torch.where(_uniform(generator, count, 1, 1) < 0.3, behind, torch.lerp(pictures, light, level))


def contrast(pictures: Tensor, generator: Generator) -> Tensor:
    """Less contrast on a lighter or darker ground, and a gamma between 0.4 and 2.5."""
    count = len(pictures)
    gamma = (_normal(generator, count, 1, 1) * 0.45).clamp_(-0.92, 0.92).exp()
    gain = 0.12 + 0.88 * _uniform(generator, count, 1, 1)
    ground = (1 - gain) * _uniform(generator, count, 1, 1)
    return pictures.clamp(min=1e-6).pow(gamma) * gain + ground


def invert(pictures: Tensor, generator: Generator) -> Tensor:
    """Dark on light."""
    return contrast(1 - pictures, generator)


def invert_region(pictures: Tensor, generator: Generator) -> Tensor:
    """The other polarity in a half plane or a band of any direction, as where a shadow or a table edge crosses."""
    count = len(pictures)
    across = _across(generator, count)
    offset = (_uniform(generator, count, 1, 1) * 2 - 1) * 0.9
    width = 0.1 + 1.2 * _uniform(generator, count, 1, 1)
    half_plane = _uniform(generator, count, 1, 1) < 0.4
    inside = torch.where(half_plane, across > offset, (across - offset).abs() < width * 0.5)
    inside = inside ^ (_uniform(generator, count, 1, 1) < 0.5)
    return torch.where(inside, 1 - pictures, pictures)


def noise(pictures: Tensor, generator: Generator) -> Tensor:
    """Additive, multiplicative or grain of up to 0.45 standard deviations of the full range."""
    count = len(pictures)
    grain = _normal(generator, count, SIZE, SIZE)
    level = 0.45 * _uniform(generator, count, 1, 1)
    multiplicative = _uniform(generator, count, 1, 1) < 0.3
    return pictures + grain * level * torch.where(multiplicative, pictures * 2, torch.ones_like(pictures))


def specks(pictures: Tensor, generator: Generator) -> Tensor:
    """Pixels, or spots and splashes of a few pixels, set to any grey, up to a third of all."""
    count = len(pictures)
    share = 0.35 * _uniform(generator, count, 1, 1).pow(1.5) + 0.01
    fine = _uniform(generator, count, SIZE, SIZE)
    cells = int(torch.randint(8, 20, (), generator=generator, device=generator.device))
    coarse = F.interpolate(_uniform(generator, count, 1, cells, cells), size=(SIZE, SIZE), mode="bilinear").squeeze(1)
    coarse = (coarse - 0.5) * 1.6 + 0.5
    field = torch.where(_uniform(generator, count, 1, 1) < 0.5, fine, coarse)
    two_tone = _uniform(generator, count, SIZE, SIZE).round()
    one_tone = _uniform(generator, count, 1, 1).expand_as(field)
    return torch.where(field < share, torch.where(_uniform(generator, count, 1, 1) < 0.6, two_tone, one_tone), pictures)


def blur(pictures: Tensor, generator: Generator) -> Tensor:
    """Out of focus: one to four passes of a 3×3 mean, mixed with the picture as it was."""
    soft = pictures.unsqueeze(1)
    for _ in range(int(torch.randint(1, 5, (), generator=generator, device=generator.device))):
        soft = F.avg_pool2d(soft, 3, 1, 1, count_include_pad=False)
    amount = _uniform(generator, len(pictures), 1, 1).sqrt()
    return torch.lerp(pictures, soft.squeeze(1), amount)


def smear(pictures: Tensor, generator: Generator) -> Tensor:
    """The mean over a movement of up to about twelve pixels along any direction."""
    count = len(pictures)
    angle = _uniform(generator, count) * math.pi
    reach = _uniform(generator, count) * 0.42
    identity = torch.eye(2, 3, device=pictures.device).expand(count, 2, 3)
    grid = F.affine_grid(identity.contiguous(), [count, 1, SIZE, SIZE], align_corners=False)
    direction = torch.stack((angle.cos() * reach, angle.sin() * reach), 1)[:, None, None]
    total = torch.zeros_like(pictures)
    steps = 7
    for step in torch.linspace(-1, 1, steps).tolist():
        total += F.grid_sample(pictures.unsqueeze(1), grid + direction * step, align_corners=False).squeeze(1)
    return total / steps


def displace(pictures: Tensor, generator: Generator) -> Tensor:
    """Badly framed: half to one and a quarter times the size, up to six pixels off, turned by up to 40 degrees."""
    count = len(pictures)
    zoom = 1 / (0.5 + 0.75 * _uniform(generator, count))
    angle = (_uniform(generator, count) * 2 - 1) * math.radians(40) * _uniform(generator, count)
    shift = (_uniform(generator, count, 2) * 2 - 1) * (12 / SIZE)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    matrix = torch.stack((torch.stack((cosine, -sine, shift[:, 0]), 1), torch.stack((sine, cosine, shift[:, 1]), 1)), 1)
    grid = F.affine_grid(matrix, [count, 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(pictures.unsqueeze(1), grid, align_corners=False).squeeze(1)


def scatter(pictures: Tensor, generator: Generator) -> Tensor:
    """Every pixel is fetched from a random neighbour, as through rippled glass or cheap printing."""
    count = len(pictures)
    identity = torch.eye(2, 3, device=pictures.device).expand(count, 2, 3)
    grid = F.affine_grid(identity.contiguous(), [count, 1, SIZE, SIZE], align_corners=False)
    reach = _uniform(generator, count, 1, 1, 1) * 0.14
    jitter = _normal(generator, count, SIZE, SIZE, 2).clamp_(-2, 2) * reach
    scattered = F.grid_sample(pictures.unsqueeze(1), grid + jitter, align_corners=False)
    return torch.lerp(scattered, F.avg_pool2d(scattered, 3, 1, 1), _uniform(generator, count, 1, 1, 1)).squeeze(1)


def hollow(pictures: Tensor, generator: Generator) -> Tensor:
    """Only the outline of the strokes, thin or thick, sharp or soft, as of letters drawn as two lines."""
    count = len(pictures)
    inner = torch.where(_uniform(generator, count, 1, 1) < 0.5, erode(pictures), pictures)
    outer = torch.where(_uniform(generator, count, 1, 1) < 0.5, dilate(pictures), pictures)
    outline = (outer - torch.minimum(inner, outer)) * (1 + 1.5 * _uniform(generator, count, 1, 1))
    gradient = dilate(pictures) - erode(pictures)
    outline = torch.where(_uniform(generator, count, 1, 1) < 0.4, gradient, outline)
    outline = (outline / outline.amax(dim=(1, 2), keepdim=True).clamp(min=0.05)).clamp(0, 1)
    crisp = (outline > 0.25 + 0.4 * _uniform(generator, count, 1, 1)).to(outline.dtype)
    outline = torch.where(_uniform(generator, count, 1, 1) < 0.5, crisp, outline)
    return torch.lerp(outline, pictures, 0.3 * _uniform(generator, count, 1, 1).square())


def strokes(pictures: Tensor, generator: Generator) -> Tensor:
    """Up to seven straight strokes that do not belong, joined or apart, light or dark, whole or dashed."""
    count, most = len(pictures), 7
    device = pictures.device
    axis = torch.linspace(-1, 1, SIZE, device=device)
    ends = _uniform(generator, count, most + 1, 2) * 2.6 - 1.3
    joined = _uniform(generator, count, 1, 1) < 0.5
    start = ends[:, :-1]
    apart = _uniform(generator, count, most, 2) * 2.6 - 1.3
    stop = torch.where(joined, ends[:, 1:], apart)
    along = stop - start
    length = along.square().sum(-1).clamp(min=1e-4)
    x = axis.view(1, 1, 1, SIZE) - start[..., 0, None, None]
    y = axis.view(1, 1, SIZE, 1) - start[..., 1, None, None]
    place = ((x * along[..., 0, None, None] + y * along[..., 1, None, None]) / length[..., None, None]).clamp_(0, 1)
    distance = (
        (x - place * along[..., 0, None, None]).square() + (y - place * along[..., 1, None, None]).square()
    ).sqrt_()
    width = 0.02 + 0.08 * _uniform(generator, count, 1, 1, 1).square()
    ink = ((width - distance) * (SIZE / 2) + 0.5).clamp_(0, 1)
    dashed = _uniform(generator, count, 1, 1, 1) < 0.35
    period = length.sqrt()[..., None, None] * (3 + 5 * _uniform(generator, count, 1, 1, 1))
    ink = torch.where(dashed, ink * ((place * period * math.pi).sin() > 0), ink)
    number = 1 + (_uniform(generator, count, 1) * most).floor()
    ink = ink * (torch.arange(most, device=device) < number)[..., None, None]
    cover = ink.amax(1)
    light = _uniform(generator, count, 1, 1) < 0.65
    tone = torch.where(light, 0.4 + 0.6 * _uniform(generator, count, 1, 1), 0.5 * _uniform(generator, count, 1, 1))
    return torch.where(light, torch.maximum(pictures, cover * tone), pictures + (tone - pictures) * cover)


def occlude(pictures: Tensor, generator: Generator) -> Tensor:
    """A rectangle of one grey over up to a ninth of the picture."""
    count, device = len(pictures), pictures.device
    axis = torch.arange(SIZE, device=device)
    centre = _uniform(generator, count, 2) * SIZE
    half = 1 + 3.7 * _uniform(generator, count, 2)
    rows = (axis - centre[:, :1]).abs() < half[:, :1]
    columns = (axis - centre[:, 1:]).abs() < half[:, 1:]
    inside = rows[:, :, None] & columns[:, None, :]
    return torch.where(inside, _uniform(generator, count, 1, 1), pictures)


def coarsen(pictures: Tensor, generator: Generator) -> Tensor:
    """Reduced to 10 to 20 pixels and enlarged again, in blocks or smoothly."""
    size = int(torch.randint(10, 21, (), generator=generator, device=generator.device))
    small = F.interpolate(pictures.unsqueeze(1), size=(size, size), mode="area")
    smooth = F.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    blocks = F.interpolate(small, size=(SIZE, SIZE), mode="nearest")
    return torch.where(_uniform(generator, len(pictures), 1, 1, 1) < 0.5, smooth, blocks).squeeze(1)


DISTURBANCES: tuple[tuple[Callable[[Tensor, Generator], Tensor], float], ...] = (
    (background, 0.12),
    (contrast, 0.06),
    (invert, 0.04),
    (invert_region, 0.07),
    (noise, 0.07),
    (specks, 0.09),
    (blur, 0.04),
    (smear, 0.06),
    (scatter, 0.11),
    (hollow, 0.06),
    (strokes, 0.19),
    (occlude, 0.02),
    (coarsen, 0.02),
    (displace, 0.05),
)


def _across(generator: Generator, count: int) -> Tensor:
    """Signed distance from a line through the centre in a random direction: float (n, 28, 28), half-widths."""
    axis = torch.linspace(-1, 1, SIZE, device=generator.device)
    angle = _uniform(generator, count, 1, 1) * (2 * math.pi)
    # A third along the axes, where edges of paper and screens are.
    angle = torch.where(
        _uniform(generator, count, 1, 1) < 1 / 3, (angle / (math.pi / 2)).round() * (math.pi / 2), angle
    )
    return angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]


def _uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _split(generator: Generator, count: int, *shares: float) -> list[Tensor]:
    """Disjoint random sets of row numbers, of the given shares of `count`; the rest of the rows is in none."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    bounds, total = [0], 0.0
    for share in shares:
        total += share
        bounds.append(min(count, round(total * count)))
    return [order[start:stop] for start, stop in pairwise(bounds)]
