"""Small ONNX models that keep the contract of the real one, built by hand: no training, no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _built(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    source: tuple[str, list[str | int]],
    results: dict[str, list[str | int]],
) -> onnx.ModelProto:
    """A model with one input of uint8 and outputs of float32."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(source[0], TensorProto.UINT8, source[1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in results.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    results: dict[str, list[str | int]] = {"probabilities": ["n", 10], "digitness": ["n"]}
    model = _built(nodes, constants, ("images", ["n", 28, 28]), results)
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


DOUBT = 0.875  # what a tiny segmenter is at most


def tiny_segmenter(side: int = 128) -> bytes:
    """Takes for strokes what is clearly darker than the whole, and for a digit, with some doubt, that there
    are some."""
    nodes = [
        helper.make_node("Cast", ["pictures"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["pixels", "first"], ["light"], axis=1),
        helper.make_node("ReduceMean", ["light"], ["mean"], axes=[1, 2]),
        helper.make_node("Sub", ["mean", "light"], ["darker"]),
        helper.make_node("Sub", ["darker", "least"], ["clearly"]),
        helper.make_node("Sigmoid", ["clearly"], ["strokes"]),
        helper.make_node("ReduceMax", ["strokes"], ["most"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["most", "doubt"], ["present"]),
    ]
    constants = {
        "first": np.array(0, np.int64),
        "least": np.array(30, np.float32),
        "doubt": np.array(DOUBT, np.float32),
    }
    shape: tuple[str, list[str | int]] = ("pictures", ["n", 3, side, side])
    results: dict[str, list[str | int]] = {"strokes": ["n", side, side], "present": ["n"]}
    return _built(nodes, constants, shape, results).SerializeToString()


def tiny_model(seed: int = 0, threshold: float = 0.5, **metadata: str) -> bytes:
    """A fixed random projection of the picture, sharp enough that its answers differ from picture to picture."""
    weights = np.random.default_rng(seed).normal(0, 1, (784, 10)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "white"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["scaled"], ["digitness"], axes=[1, 2], keepdims=0),
    ]
    constants = {
        "white": np.array(255, np.float32),
        "flat": np.array([-1, 784], np.int64),
        "weights": weights,
    }
    return _model(nodes, constants, {"threshold": str(threshold), "precision": "fp32", **metadata})


def witness_model() -> bytes:
    """A model that tells how many pictures it was given at once: each row's probability of 0 is 1 − 1/(4n).

    The batch's length is taken from the tensor inside the graph, so no code around the model can make it up.
    """
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"], axis=0),  # (1,)
        helper.make_node("Cast", ["n"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["quarter", "count"], ["left"]),  # (1,): 1/(4n)
        helper.make_node("Sub", ["one", "left"], ["first_column"]),
        helper.make_node("Div", ["left", "nine"], ["other_column"]),
        helper.make_node("Mul", ["other_mask", "other_column"], ["others"]),
        helper.make_node("Mul", ["first_mask", "first_column"], ["zero"]),
        helper.make_node("Add", ["others", "zero"], ["row"]),  # (1, 10)
        helper.make_node("Concat", ["n", "ten"], ["size"], axis=0),
        helper.make_node("Expand", ["row", "size"], ["probabilities"]),
        helper.make_node("Expand", ["one", "n"], ["digitness"]),
    ]
    first = np.zeros((1, 10), np.float32)
    first[0, 0] = 1
    constants = {
        "first": np.array([0], np.int64),
        "quarter": np.array([0.25], np.float32),
        "one": np.array([1], np.float32),
        "nine": np.array([9], np.float32),
        "ten": np.array([10], np.int64),
        "first_mask": first,
        "other_mask": 1 - first,
    }
    return _model(nodes, constants, {"threshold": "0.5", "precision": "fp32"})


def batch_length(probability: float) -> int:
    """How many pictures the witness model saw together with this answer."""
    return round(0.25 / (1 - probability))


def store_model(home: Path, content: bytes, version: str, /, *, digest: str | None = None, **metadata: object) -> str:
    """Puts a model into the BentoML store under `home`, in the folders that an MLflow import leaves. Gives its tag."""
    import bentoml
    from bentoml._internal.models import ModelStore

    (home / "models").mkdir(parents=True, exist_ok=True)
    facts = {"version": version, "sha256": digest or hashlib.sha256(content).hexdigest(), **metadata}
    store = ModelStore(home / "models")
    with bentoml.models.create(f"digits:v{version}", metadata=facts, _model_store=store) as model:
        folder = Path(model.path) / "mlflow_model"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(content)
    return f"digits:v{version}"
