"""From a trained network to `model.onnx`, the file that is served: uint8 pictures in, calibrated probabilities out."""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch.nn import functional as F

from digits.fit import predict_logits
from digits.network import CHANNELS, IMAGE_SIZE, MIXTURES, SHARED, THIN, TWINS, DigitNet, Thin
from digits.workers import cores

OPSET = 20
BATCH = 250  # pictures at once


class _Served(nn.Module):
    """Pictures in, calibrated probabilities and digitness out."""

    def __init__(self, net: DigitNet, temperature: float) -> None:
        super().__init__()
        self.net = net
        net.conv1, net.pool1 = _Blocks(_folded(net.conv1)), nn.Identity()  # type: ignore[assignment]
        for parameter in net.output.parameters():
            parameter.data /= temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(images)
        # Of `eleven_way`, all but the eleventh: the others' share of a sum in which that one is exp(0).
        return torch.softmax(logits, dim=1), torch.sigmoid(torch.logsumexp(logits, dim=1))


class _Blocks(nn.Module):
    """conv1, its ReLU and the pooling after it, (n, 1, 28, 28) to (n, 32, 14, 14), in one step of 2×2 pixels.

    The outputs at the four pixels are channels of one 4×4 convolution, and the pooling is over these. It is the same to
    the last sum, but there are a quarter as many places to gather inputs for, and sixteen of these at each instead of
    nine, which fits a vector register: int8 takes two thirds of the time.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        channels = len(layer.weight)
        self.layer = nn.Conv2d(1, 4 * channels, kernel_size=4, stride=2, padding=1)
        weights = torch.zeros_like(self.layer.weight)
        for pixel in range(4):
            row, column = divmod(pixel, 2)
            mine = slice(pixel * channels, (pixel + 1) * channels)
            weights[mine, :, row : row + 3, column : column + 3] = layer.weight.data
        self.layer.weight.data = weights
        self.layer.get_parameter("bias").data = layer.get_parameter("bias").data.repeat(4)

    def forward(self, pictures: Tensor) -> Tensor:
        # Channels last from here to the next convolution: int8 kernels have them so, and these turns fall away.
        blocks = torch.relu(self.layer(pictures)).permute(0, 2, 3, 1)
        half, channels = blocks.shape[1], blocks.shape[3] // 4
        pooled = F.max_pool2d(blocks.reshape(-1, half * half, 4, channels).permute(0, 3, 1, 2), (1, 4))
        return pooled.permute(0, 2, 3, 1).reshape(-1, half, half, channels).permute(0, 3, 1, 2)


def to_onnx(net: DigitNet, temperature: float, metadata: Mapping[str, str]) -> bytes:
    """The network in full precision as ONNX.

    Args:
        net: trained; it is copied, not changed.
        temperature: divides the logits.
        metadata: goes into the file's metadata_props.

    Returns:
        A model with input `images` uint8 (n, 28, 28) and outputs `probabilities` float32 (n, 10), whose rows sum to
        1, and `digitness` float32 (n,), the probability that the picture is one digit at all.
    """
    # The layout of training is of no use to ONNX Runtime, and would come out as transpositions in the graph.
    served = _Served(copy.deepcopy(net).cpu().eval().to(memory_format=torch.contiguous_format), temperature)
    example = torch.zeros((2, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    return with_metadata(exported(served, example, "images", ["probabilities", "digitness"]), metadata)


def exported(net: nn.Module, example: Tensor, source: str, results: list[str]) -> bytes:
    """A network in evaluation mode as ONNX, with one input and these outputs, all of any length along the first axis.

    `example` is an input (2, …).
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.simplefilter("ignore")  # the exporter's own deprecations, which are not ours to mend
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            net,
            (example,),
            input_names=[source],
            output_names=results,
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        onnx.save(_without_traces(program.model_proto), buffer)
    return buffer.getvalue()


def _without_traces(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without the line of source that each node comes from, and so without the folders of whoever trained it."""
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return proto


class _Moments:
    """Mean and covariance of the outputs of a layer, (n, channels) or (n, channels, h, w), over all that passes."""

    def __init__(self) -> None:
        self.count, self.sum, self.products = 0, torch.zeros(()), torch.zeros(())

    def __call__(self, outputs: Tensor) -> None:
        rows = outputs.detach().double().movedim(1, -1).flatten(0, -2)
        self.count += len(rows)
        self.sum = self.sum + rows.sum(dim=0)
        self.products = self.products + rows.T @ rows

    def directions(self, width: int) -> tuple[Tensor, Tensor]:
        """The mean (channels,), and the directions of largest variance (channels, width)."""
        mean = self.sum / self.count
        directions = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))[1]  # by ascending variance
        return mean, directions[:, -width:] @ _turn(width)


def factorise(net: DigitNet, images: NDArray[np.uint8]) -> DigitNet:
    """Nearly the same network with thin layers, as `network.thin` makes them: a twentieth of the weights.

    The outputs of these boxes hardly ever leave a few of their directions. Those are found as the principal components
    of the outputs, and a box becomes a layer that gives the place along them and one that turns it back (the linear
    case of Zhang et al., arXiv:1505.06798). Batch normalisation is folded in. From a network that was trained thin
    nothing is lost but rounding.

    Args:
        net: trained; it is copied, not changed.
        images: training pictures uint8 (n, 28, 28) of the kinds that are served, n ≥ 2.
    """
    thin = copy.deepcopy(net).cpu().eval()
    layers = {box: _folded(thin.get_submodule(box)) for box in THIN}
    layers["shared"] = _side_by_side([_folded(thin.get_submodule(box)) for box in TWINS])
    moments = {name: _Moments() for name in layers}
    hooks = [
        thin.get_submodule(name).register_forward_hook(
            lambda _box, inputs, _outputs, name=name: moments[name](layers[name](inputs[0]))
        )
        for name in layers
    ]
    predict_logits(thin, images)
    for hook in hooks:
        hook.remove()
    widths = {"shared": SHARED, **THIN}
    parts = {name: _thin(layer, *moments[name].directions(widths[name])) for name, layer in layers.items()}
    thin.shared, both = parts.pop("shared")
    for box, one in zip(TWINS, _apart(both, len(TWINS)), strict=True):
        setattr(thin, box, nn.Sequential(one, nn.ReLU()))
    for box, part in parts.items():
        setattr(thin, box, nn.Sequential(*part, nn.ReLU()))
    return thin


def _side_by_side(layers: list[nn.Linear | nn.Conv2d]) -> nn.Conv2d:
    """Convolutions of the same inputs as one, with the outputs of all."""
    first = layers[0]
    assert isinstance(first, nn.Conv2d)
    outputs = sum(len(layer.weight) for layer in layers)
    together = nn.Conv2d(first.in_channels, outputs, kernel_size=3, padding=1)
    for name, parameter in together.named_parameters():
        parameter.data = torch.cat([layer.get_parameter(name).data for layer in layers])
    return together


def _apart(layer: nn.Module, count: int) -> list[nn.Conv2d]:
    """A 1×1 convolution as several, each with its part of the outputs."""
    weights, biases = (layer.get_parameter(name).data.chunk(count) for name in ("weight", "bias"))
    parts = []
    for weight, bias in zip(weights, biases, strict=True):
        part = nn.Conv2d(weight.shape[1], len(weight), kernel_size=1)
        part.weight.data = weight
        part.get_parameter("bias").data = bias
        parts.append(part)
    return parts


def _folded(box: nn.Module) -> nn.Linear | nn.Conv2d:
    """The layer of a box (layer, batch normalisation, ReLU), with a bias and the normalisation folded in."""
    layer, norm, _ = box.children()
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    scale = norm.weight / torch.sqrt(norm.get_buffer("running_var") + norm.eps)
    folded = copy.deepcopy(layer)
    folded.weight.data = layer.weight.data * scale.data.view(-1, *[1] * (layer.weight.ndim - 1))
    folded.bias = nn.Parameter((norm.bias - norm.get_buffer("running_mean") * scale).detach())
    return folded


def _thin(layer: nn.Linear | nn.Conv2d, mean: Tensor, basis: Tensor) -> Thin:
    """A layer whose outputs are taken to lie on the mean and along the basis."""
    thin = Thin(layer, basis.shape[1], bias=True)
    *mixture, down, up = thin
    matrix = basis.T @ layer.weight.data.double().flatten(1)
    for mix in mixture:
        matrix, mix.get_parameter("weight").data = _mixed(matrix)
    for part, weights, bias in ((down, matrix, basis.T @ (layer.get_parameter("bias").data - mean)), (up, basis, mean)):
        part.get_parameter("weight").data = weights.float().view(part.get_parameter("weight").shape)
        part.get_parameter("bias").data = bias.float()
    return thin


def _mixed(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix for all channels of all places as one for mixtures of the channels, and the mixtures, float32.

    These are the directions among the channels that the matrix listens to most.
    """
    channels = matrix.view(-1, CHANNELS)
    directions = torch.linalg.eigh(channels.T @ channels)[1][:, -MIXTURES:]
    mixtures = directions @ _turn(MIXTURES)
    return (channels @ mixtures).view(len(matrix), -1), mixtures.T.float().contiguous()


def _turn(width: int) -> Tensor:
    """A random rotation: turned by it, components have like variances, and one scale of int8 fits them all."""
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)).double())[0]


def quantise(model: bytes, calibration: NDArray[np.uint8]) -> bytes:
    """The same model with weights in seven bits (per channel) and activations in eight: static QDQ quantisation.

    With eight bits a processor without VNNI, which adds two products in sixteen bits, may overflow: what a newer one
    has passed may read no more than one digit in five there.

    Args:
        model: from `to_onnx`.
        calibration: training pictures uint8 (n, 28, 28) of the kinds that are served; their activations set the scales.

    Returns:
        A model with the same inputs, outputs and metadata. The standardisation and the softmax stay in float.
    """
    with tempfile.TemporaryDirectory(prefix="quantise-") as folder:
        original, prepared, quantised = (
            str(Path(folder) / name) for name in ("fp32.onnx", "prepared.onnx", "int8.onnx")
        )
        Path(original).write_bytes(model)
        quant_pre_process(original, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "Relu", "MaxPool", "Concat", "Reshape", "Transpose"],
            nodes_to_exclude=_kept_in_float(prepared),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return with_metadata(_level(Path(quantised).read_bytes()), metadata_of(model))


def _level(model: bytes) -> bytes:
    """The same model with one scale for all that is concatenated, the widest: joining is copying then.

    They are outputs of ReLU, and their zero is the same.
    """
    proto = onnx.load_from_string(model)
    nodes, constants = proto.graph.node, {tensor.name: tensor for tensor in proto.graph.initializer}
    (joined,) = (node for node in nodes if node.op_type == "Concat")
    sources = [node for node in nodes if node.output[0] in joined.input]
    targets = [node for node in nodes if joined.output[0] in node.input]
    scales = [constants[node.input[1]] for node in (*sources, *targets)]
    widest = max(onnx.numpy_helper.to_array(scale) for scale in scales)
    for scale in scales:
        scale.CopyFrom(onnx.numpy_helper.from_array(widest, scale.name))
    serialised: bytes = proto.SerializeToString()
    return serialised


def _kept_in_float(path: str) -> list[str]:
    """Names of the nodes before the first convolution and from the last layer on: cheap, and worth their precision."""
    nodes = onnx.load(path).graph.node
    first = next(place for place, node in enumerate(nodes) if node.op_type == "Conv")
    last = max(place for place, node in enumerate(nodes) if node.op_type == "Gemm")
    return [node.name for node in (*nodes[:first], *nodes[last:])]


def run(model: bytes, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (n, 10) and digitness (n,) of uint8 (n, 28, 28), by ONNX Runtime on all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = [
        session.run(["probabilities", "digitness"], {"images": images[start : start + BATCH]})
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def metadata_of(model: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_from_string(model).metadata_props}


def with_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """The model with these entries added to, or replaced in, its metadata_props."""
    proto = onnx.load_from_string(model)
    merged = {entry.key: entry.value for entry in proto.metadata_props} | dict(metadata)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, merged)
    serialised: bytes = proto.SerializeToString()
    return serialised


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Feeds the calibration pictures in batches of 50."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.batches: Iterator[NDArray[np.uint8]] = iter(
            [images[start : start + 50] for start in range(0, len(images), 50)]
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}
