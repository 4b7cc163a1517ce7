"""The network of the figure: pictures of 28×28 in, ten logits out.

`conv1` feeds `conv2_1` and `conv2_2`; these feed `conv3_1` and `conv3_2`, which are concatenated to `conv3` and read by
`fc1`, `fc2` and `output`. 2×2 max-pooling stands between the boxes, so that each box is the output of its convolution.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 28
DIGITS = 10
# Nearly all the work is in five boxes, and what they give hardly leaves a few directions: a network that is trained
# with matrices no wider than that is as good, and served in a fraction of the time (docs/log.md).
THIN = {"conv3_1": 32, "conv3_2": 32, "fc1": 128}  # how wide
TWINS = ("conv2_1", "conv2_2")  # both look at conv1 and share
SHARED = 32  # kernels of 3×3
CHANNELS = 512  # of conv3, of which a thin fc1 reads
MIXTURES = 64  # the same ones at all 49 places
POOLED = {"pool1": ("conv1",), "pool2": ("conv2_1", "conv2_2")}  # each pooling, and the boxes before it


def standardise(images: Tensor) -> Tensor:
    """Give each picture zero mean and unit variance, so that brightness, fog and contrast do not reach the network.

    Args:
        images: uint8 or float (n, 28, 28) or (n, 1, 28, 28), of 0 to 255.

    Returns:
        float32 (n, 1, 28, 28); a picture of one flat colour becomes zeros.
    """
    pixels = images.to(torch.float32).reshape(-1, IMAGE_SIZE * IMAGE_SIZE)
    # One grey level of 255 squared: below that there is no picture, only rounding.
    return F.layer_norm(pixels, pixels.shape[1:], eps=1.0).view(-1, 1, IMAGE_SIZE, IMAGE_SIZE)


class Convolution(nn.Sequential):
    """3×3 convolution that keeps the size, batch normalisation, ReLU: (n, in, h, w) to (n, out, h, w)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            _convolution(inputs, outputs),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Dense(nn.Sequential):
    """Fully connected layer, batch normalisation, ReLU: (n, in) to (n, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True))


class Mixture(nn.Linear):
    """One linear layer for each of several places: (n, places · inputs) to (n, places · outputs)."""

    def forward(self, rows: Tensor) -> Tensor:
        places = rows.shape[1] // self.in_features
        return super().forward(rows.reshape(-1, self.in_features)).reshape(-1, places * self.out_features)


class Thin(nn.Sequential):
    """A layer whose matrix is the product of thin ones: by way of `width` numbers to its outputs.

    A dense one, fc1's, gets to these by way of a few mixtures of the channels at each place.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, width: int, bias: bool = False) -> None:
        if isinstance(layer, nn.Conv2d):
            super().__init__(
                _convolution(layer.in_channels, width, bias), nn.Conv2d(width, layer.out_channels, 1, bias=bias)
            )
        else:
            mixed = layer.in_features // CHANNELS * MIXTURES
            super().__init__(
                Mixture(CHANNELS, MIXTURES, bias=False),
                nn.Linear(mixed, width, bias=bias),
                nn.Linear(width, layer.out_features, bias=bias),
            )


def _convolution(inputs: int, outputs: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=bias)


class Concatenation(nn.Module):
    """Joins the two branches along the channels: two (n, 256, 7, 7) to (n, 512, 7, 7)."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat((first, second), dim=1)


class DigitNet(nn.Module):
    """25.9 million parameters, of which 25.1 million are fc1's.

    Args:
        dropout: share of fc1's and fc2's units that is dropped while training, 0 ≤ dropout < 1.
    """

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv1 = Convolution(1, 32)
        self.pool1: nn.Module = nn.MaxPool2d(2)
        self.shared: nn.Module = nn.Identity()  # where they are thin, what conv2_1 and conv2_2 have in common
        self.conv2_1 = Convolution(32, 64)
        self.conv2_2 = Convolution(32, 64)
        self.pool2: nn.Module = nn.MaxPool2d(2)
        self.conv3_1 = Convolution(64, 256)
        self.conv3_2 = Convolution(64, 256)
        self.conv3 = Concatenation()
        self.fc1 = Dense(7 * 7 * CHANNELS, 1000)
        self.fc2 = Dense(1000, 500)
        self.output = nn.Linear(500, DIGITS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten digits.

        Args:
            images: uint8 or float (n, 28, 28) or (n, 1, 28, 28), white ink on black as in MNIST.

        Returns:
            float (n, 10). An eleventh class, "not a digit", has the implicit logit 0: see `eleven_way`.
        """
        pooled = self.shared(self.pool1(self.conv1(standardise(images))))
        branch_1 = self.conv3_1(self.pool2(self.conv2_1(pooled)))
        branch_2 = self.conv3_2(self.pool2(self.conv2_2(pooled)))
        features = self.conv3(branch_1, branch_2).permute(0, 2, 3, 1).flatten(1)
        hidden = self.dropout(self.fc1(features))
        logits: Tensor = self.output(self.dropout(self.fc2(hidden)))
        return logits


def thin(net: DigitNet) -> None:
    """Gives a network the form in which it is trained, with new layers in it and a part of the work.

    The boxes of TWINS and THIN get matrices that are products of thin ones. The boxes of POOLED are pooled before their
    batch normalisation, which has a quarter of the numbers to do then. `keep_rising` is to be called after each step.
    """
    net.shared = _convolution(32, SHARED)
    for box in TWINS:
        layers = _layers(net, box)
        layers[0] = nn.Conv2d(SHARED, len(layers[0].get_parameter("weight")), 1, bias=False)
    for box, width in THIN.items():
        layers = _layers(net, box)
        layer = layers[0]
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        layers[0] = Thin(layer, width)
    for pool, boxes in POOLED.items():
        for box in boxes:
            _layers(net, box).insert(1, net.get_submodule(pool))
        setattr(net, pool, nn.Identity())


@torch.no_grad()
def keep_rising(net: DigitNet) -> None:
    """No scale of a batch normalisation behind a pooling below 0: then the highest of four numbers is so after it, too,
    and the pooling may as well come last."""
    for box in chain(*POOLED.values()):
        _layers(net, box)[2].get_parameter("weight").clamp_(min=0)


def widen(net: DigitNet) -> None:
    """Undoes `thin`: the network answers as before, and has the layers and weights of the figure again."""
    for box in TWINS:
        layers = _layers(net, box)
        layers[0] = multiplied_out(nn.Sequential(net.shared, layers[0]))
    net.shared = nn.Identity()
    for box in THIN:
        layers = _layers(net, box)
        layer = layers[0]
        assert isinstance(layer, nn.Sequential)
        layers[0] = multiplied_out(layer)
    for pool, boxes in POOLED.items():
        for box in boxes:
            setattr(net, pool, _layers(net, box).pop(1))


def multiplied_out(layers: nn.Sequential) -> nn.Linear | nn.Conv2d:
    """The one layer that does what thin ones without biases do in turn: a Thin, or two convolutions, the second 1×1."""
    *mixture, down, up = (layer.get_parameter("weight").data for layer in layers)
    matrix = up.flatten(1) @ down.flatten(1)
    for mix in mixture:
        matrix = (matrix.view(len(matrix), -1, len(mix)) @ mix).flatten(1)
    outputs, inputs = matrix.shape
    whole = _convolution(down.shape[1], outputs) if down.ndim == 4 else nn.Linear(inputs, outputs, bias=False)
    whole.weight.data = matrix.view(whole.weight.shape)
    return whole


def _layers(net: DigitNet, box: str) -> nn.Sequential:
    layers = net.get_submodule(box)
    assert isinstance(layers, nn.Sequential)
    return layers


def eleven_way(logits: Tensor) -> Tensor:
    """Append the logit 0 of "not a digit": (n, 10) to (n, 11).

    A softmax does not change when all logits are shifted, so ten free logits and one fixed at zero can express
    everything that eleven free ones can: the network needs no eleventh output.
    """
    return F.pad(logits, (0, 1))
