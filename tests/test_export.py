"""model.onnx says what the network says, in full precision and in int8."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from digits import export
from digits.fit import Recipe, TrainingSet, fit, predict_logits
from digits.metrics import scores_of
from digits.network import SHARED, THIN, TWINS, DigitNet

TEMPERATURE = 1.7


@pytest.fixture(scope="module")
def net(bundled):
    recipe = Recipe(batch_size=64, strength=0.3, disturbed=0.1)
    return fit(recipe, TrainingSet(bundled.train), bundled.validation, epochs=2, seed=0, device="cpu")


@pytest.fixture(scope="module")
def model(net) -> bytes:
    return export.to_onnx(net, TEMPERATURE, {"threshold": "0.5"})


@pytest.fixture(scope="module")
def quantised(model, bundled) -> bytes:
    return export.quantise(model, bundled.train.images[:200])


def test_the_exported_model_and_the_network_agree(net, model, bundled):
    images = bundled.validation.images
    probabilities, digitness = export.run(model, images)
    expected_probabilities, expected_digitness = scores_of(predict_logits(net, images), TEMPERATURE)
    assert np.abs(probabilities - expected_probabilities).max() < 1e-5
    assert np.abs(digitness - expected_digitness).max() < 1e-5
    assert probabilities.dtype == np.float32


def test_the_int8_model_agrees_with_full_precision_and_is_a_quarter_of_its_size(model, quantised, bundled):
    images = bundled.validation.images
    exact, _ = export.run(model, images)
    rounded, _ = export.run(quantised, images)
    assert (exact.argmax(1) == rounded.argmax(1)).mean() >= 0.98
    assert np.abs(exact - rounded).mean() < 0.02
    assert len(quantised) < 0.3 * len(model)


def test_int8_reaches_the_big_layers(quantised):
    graph = onnx.load_from_string(quantised).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    int8 = [
        tensor for tensor in graph.initializer if kinds[tensor.name] == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert sum(int(np.prod(tensor.dims)) for tensor in int8) > 25_000_000


def test_no_processor_can_overflow_what_int8_adds_up(quantised):
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(quantised).graph.initializer]
    int8 = [matrix for matrix in weights if matrix.dtype == np.int8 and matrix.ndim > 1]
    largest = max(int(np.abs(matrix.astype(int)).max()) for matrix in int8)
    assert largest >= 32
    assert 2 * 255 * largest < 2**15  # two products in sixteen bits, as AVX2 and AVX-512 without VNNI add them up


def test_int8_kernels_say_what_the_rounded_numbers_say(quantised, bundled):
    images = bundled.validation.images
    options = export.onnxruntime.SessionOptions()
    options.graph_optimization_level = export.onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # so all in float
    session = export.onnxruntime.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    expected = session.run(["probabilities"], {"images": images})[0]
    assert np.abs(export.run(quantised, images)[0] - expected).max() < 0.05


def test_int8_is_not_left_between_the_first_and_the_last_layer_nor_turned_around(quantised, tmp_path):
    options = export.onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine alone
    export.onnxruntime.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == 5
    assert kinds["QGemm"] == 2
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 1)
    assert kinds["Transpose"] <= 1
    assert (kinds["MaxPool"], kinds["NhwcMaxPool"]) == (0, 3)


def test_what_is_concatenated_has_one_scale(quantised):
    graph = onnx.load_from_string(quantised).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (joined,) = (node for node in graph.node if node.op_type == "Concat")
    around = [n for n in graph.node if n.output[0] in joined.input or joined.output[0] in n.input]
    assert [node.op_type for node in around].count("DequantizeLinear") == 2
    assert len({float(constants[node.input[1]]) for node in around}) == 1
    assert {int(constants[node.input[2]]) for node in around} == {0}


def test_the_thin_form_of_a_network_that_was_trained_thin_says_the_same_with_few_weights(net, bundled):
    before = predict_logits(net, bundled.validation.images)
    thin = export.factorise(net, bundled.train.images)
    after = predict_logits(thin, bundled.validation.images)
    assert np.abs(before - after).max() < 1e-3 * np.abs(before).max()
    for box, width in THIN.items():
        *_, down, up, _ = thin.get_submodule(box)
        assert down.weight.shape[0] == up.weight.shape[1] == width
    assert sum(weights.numel() for weights in thin.parameters()) < 0.06 * sum(w.numel() for w in net.parameters())
    assert np.array_equal(predict_logits(net, bundled.validation.images), before)


def test_the_thin_form_keeps_what_it_can_of_the_variance_of_outputs_that_are_not_thin(bundled):
    torch.manual_seed(0)
    images, whole = bundled.train.images, DigitNet().eval()
    rows = []
    for network, place in ((whole, 1), (export.factorise(whole, images), 0)):
        heard = []
        for box in TWINS:  # they are fed the same in both networks; this is what comes before their ReLU
            layer = network.get_submodule(box)[place]
            layer.register_forward_hook(lambda *given, heard=heard: heard.append(given[-1].clone()))
        predict_logits(network, images[:500])
        rows.append(torch.cat(heard, dim=1).movedim(1, -1).flatten(0, -2).double())
    lost = (rows[0] - rows[1]).var(dim=0).sum()
    spectrum = torch.linalg.eigvalsh(torch.cov(rows[0].T))
    assert 0 < lost < 1.05 * spectrum[:-SHARED].sum()


@pytest.mark.parametrize("which", ["model", "quantised"])
def test_the_file_keeps_the_contract(which, request):
    session = export.onnxruntime.InferenceSession(request.getfixturevalue(which), providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [28, 28])
    assert isinstance(images.shape[0], str)
    assert [(output.name, output.type) for output in session.get_outputs()] == [
        ("probabilities", "tensor(float)"),
        ("digitness", "tensor(float)"),
    ]
    assert session.get_modelmeta().custom_metadata_map["threshold"] == "0.5"


@pytest.mark.parametrize("which", ["model", "quantised"])
def test_softmax_runs_over_the_classes_not_over_the_batch(which, request, bundled):
    model, images = request.getfixturevalue(which), bundled.validation.images[:9]
    together, digitness = export.run(model, images)
    alone = np.concatenate([export.run(model, image[None])[0] for image in images])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(together.sum(1), 1, atol=1e-5)
    assert ((digitness > 0) & (digitness < 1)).all()


@pytest.mark.parametrize("which", ["model", "quantised"])
def test_the_file_has_no_word_of_the_folders_where_it_was_made(which, request):
    content = request.getfixturevalue(which)
    for folder in (Path(export.__file__).parent, Path(torch.__file__).parent.parent):
        assert str(folder).encode() not in content
    assert b'File "/' not in content


def test_metadata_is_added_and_replaced(model):
    changed = export.with_metadata(model, {"threshold": "0.7", "version": "3"})
    assert export.metadata_of(changed)["threshold"] == "0.7"
    assert export.metadata_of(changed)["version"] == "3"


def test_exporting_does_not_change_the_network(net):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    export.to_onnx(net, 1.0, {})
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
