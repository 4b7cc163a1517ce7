"""The network is the figure, box by box."""

from itertools import chain
from math import prod

import pytest
import torch

from digits.network import (
    CHANNELS,
    MIXTURES,
    POOLED,
    SHARED,
    THIN,
    TWINS,
    DigitNet,
    Mixture,
    eleven_way,
    keep_rising,
    standardise,
    thin,
    widen,
)

BOXES = {
    "conv1": (32, 28, 28),
    "conv2_1": (64, 14, 14),
    "conv2_2": (64, 14, 14),
    "conv3_1": (256, 7, 7),
    "conv3_2": (256, 7, 7),
    "conv3": (512, 7, 7),
    "fc1": (1000,),
    "fc2": (500,),
    "output": (10,),
}


@pytest.fixture(scope="module")
def net() -> DigitNet:
    torch.manual_seed(0)
    return DigitNet().eval()


def test_every_box_has_the_name_and_the_shape_of_the_figure(net):
    shapes = {}
    for name in BOXES:
        net.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    net(torch.zeros(2, 28, 28, dtype=torch.uint8))
    assert shapes == BOXES
    assert set(dict(net.named_children())) == {*BOXES, "shared", "pool1", "pool2", "dropout"}
    assert isinstance(net.shared, torch.nn.Identity)


def test_kernels_are_three_by_three_and_pooling_stands_between_the_boxes(net):
    convolutions = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 5
    assert {module.kernel_size for module in convolutions} == {(3, 3)}
    inputs = {}
    net.get_submodule("conv2_1").register_forward_pre_hook(
        lambda _module, arguments: inputs.update(shape=tuple(arguments[0].shape))
    )
    net(torch.zeros(1, 28, 28, dtype=torch.uint8))
    assert inputs["shape"] == (1, 32, 14, 14)


def test_both_branches_are_fed_by_conv1_and_reach_the_output(net):
    image = torch.rand(3, 28, 28) * 255
    before = net(image)
    for branch in ("conv3_1", "conv3_2"):
        silenced = DigitNet().eval()
        silenced.load_state_dict(net.state_dict())
        silenced.get_submodule(branch)[1].weight.data.zero_()
        silenced.get_submodule(branch)[1].bias.data.zero_()
        assert not torch.allclose(silenced(image), before)


def test_the_answer_for_a_picture_does_not_depend_on_its_batch_mates(net):
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    together = net(images)
    alone = torch.cat([net(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)


def test_brightness_and_contrast_do_not_reach_the_network():
    image = torch.rand(1, 28, 28) * 100
    assert torch.allclose(standardise(image), standardise(image * 2 + 50), atol=1e-3)
    assert torch.equal(standardise(torch.full((1, 28, 28), 77.0)), torch.zeros(1, 1, 28, 28))


def test_the_eleventh_class_has_the_fixed_logit_zero():
    logits = torch.randn(4, 10)
    eleven = eleven_way(logits)
    assert eleven.shape == (4, 11)
    assert torch.equal(eleven[:, 10], torch.zeros(4))
    ratio = eleven.softmax(1)[:, :10] / eleven.softmax(1)[:, :10].sum(1, keepdim=True)
    assert torch.allclose(ratio, logits.softmax(1), atol=1e-6)


def test_a_mixture_does_the_same_at_every_place():
    mixture, rows = Mixture(4, 2, bias=False), torch.rand(3, 5 * 4)
    places = rows.view(3, 5, 4) @ mixture.weight.T
    assert torch.allclose(mixture(rows), places.flatten(1), atol=1e-6)


def test_thin_matrices_multiplied_out_give_the_same_answers_and_the_network_of_the_figure():
    torch.manual_seed(1)
    net = DigitNet().eval()
    full = [tuple(parameter.shape) for parameter in net.parameters()]
    image = torch.rand(3, 28, 28) * 255
    thin(net)
    for box, width in THIN.items():
        *_, down, up = net.get_submodule(box)[0]
        assert down.weight.shape[0] == up.weight.shape[1] == width
    assert net.get_submodule("fc1")[0][0].weight.shape == (MIXTURES, CHANNELS)
    for box in TWINS:
        assert net.get_submodule(box)[0].weight.shape == (64, SHARED, 1, 1)
    assert sum(weights.numel() for weights in net.parameters()) < 0.06 * sum(prod(shape) for shape in full)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as a training leaves them, and worse
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    keep_rising(net)
    before = net(image)
    widen(net)
    assert torch.allclose(net(image), before, atol=1e-4)
    assert [tuple(parameter.shape) for parameter in net.parameters()] == full
    assert list(net.state_dict()) == list(DigitNet().state_dict())
    assert str(net) == str(DigitNet())


def test_in_training_a_pooling_leaves_a_quarter_of_the_numbers_to_normalise():
    net = DigitNet()
    thin(net)
    seen = {}
    for box in chain(*POOLED.values()):
        norm = net.get_submodule(box)[2]
        norm.register_forward_hook(lambda _module, inputs, _output, box=box: seen.update({box: inputs[0].shape[2:]}))
    net(torch.zeros(2, 28, 28))
    assert seen == {"conv1": (14, 14), "conv2_1": (7, 7), "conv2_2": (7, 7)}
