"""What the benchmark serves and asks: one training run's weights in every form that a peer needs, and the pictures."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
STORE = (
    "import sys; from pathlib import Path; from tests.models import store_model, tiny_model; f = Path(sys.argv[1])\n"
)
STORE += "store_model(f / 'int8', (f / 'int8.onnx').read_bytes(), '1'); store_model(f / 'null', tiny_model(), '1')"


@dataclass(frozen=True)
class Inputs:
    """The pictures: 28×28 digits as arrays and PNG files, a photograph, and what the full-precision model says."""

    images: NDArray[np.uint8]
    pngs: list[bytes]
    digits: list[int]
    photo: bytes


def prepare(folder: Path, weights: Path | None, form: str) -> str:
    """Fills the folder with net.pt, fp32.onnx, int8.onnx, an MLflow model and two BentoML stores.

    `form` is that of all models: thin, as ours is served, or whole, layer for layer the figure's. The segmenter that
    lies beside the weights goes into the ONNX files. Gives where the weights came from.
    """
    import torch
    from safetensors.torch import load_file

    from digits import export
    from digits.classifier import carrying
    from digits.network import DigitNet

    source = weights or champion_weights(folder)
    net = DigitNet(0.0)
    net.load_state_dict(load_file(source))
    metadata = {"threshold": "0.5", "precision": "fp32"}
    segmenter = source.with_name("segmenter.onnx")
    if segmenter.exists():
        metadata |= carrying(segmenter.read_bytes())
        (folder / segmenter.name).write_bytes(segmenter.read_bytes())  # for peers that do not load the ONNX model
    served = net.eval() if form == "whole" else export.factorise(net, some_digits(1_797))
    torch.save(served, folder / "net.pt")  # the same form for all: a lighter one is no merit of a server
    exact = export.to_onnx(served, 1.0, metadata)
    (folder / "fp32.onnx").write_bytes(exact)
    (folder / "int8.onnx").write_bytes(export.quantise(exact, some_digits(512)))
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    pixels = TensorSpec(np.dtype("uint8"), (-1, 28, 28), "images")
    mlflow.onnx.save_model(
        onnx.load(folder / "int8.onnx"),
        folder / "mlflow",
        signature=ModelSignature(Schema([pixels])),
        onnx_session_options={
            "intra_op_num_threads": 1,
            "extra_session_config": {"session.intra_op.allow_spinning": "0"},
        },
        pip_requirements=[],
        save_as_external_data=False,
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", STORE, str(folder)], cwd=ROOT, check=True)
    return "champion" if weights is None else weights.name


def champion_weights(folder: Path) -> Path:
    """The weights of the registered champion's run, downloaded to the folder."""
    import mlflow

    client = mlflow.MlflowClient()
    try:
        run = client.get_model_version_by_alias("digits", "champion").run_id
        downloaded = mlflow.artifacts.download_artifacts(f"runs:/{run}/weights", dst_path=str(folder))
        return Path(downloaded) / "model.safetensors"
    except Exception as error:
        raise SystemExit(f"no champion's weights ({error}); train first, or pass --weights FILE.safetensors") from None


def some_digits(count: int) -> NDArray[np.uint8]:
    """Digits that come with scikit-learn, 8×8, enlarged: the benchmark needs no download."""
    from sklearn.datasets import load_digits

    small = load_digits().images[:count]
    enlarged = [
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((20, 20), Image.Resampling.BICUBIC) for image in small
    ]
    return np.stack([np.pad(np.asarray(image), 4) for image in enlarged]).astype(np.uint8)


def make_inputs(folder: Path, count: int = 64) -> Inputs:
    from digits.classifier import Classifier
    from digits.imaging import read

    images = some_digits(count)
    pngs = [encoded(image, "PNG") for image in images]
    answers = Classifier(folder / "fp32.onnx").classify([read(png) for png in pngs])
    sure = [i for i, answer in enumerate(answers) if answer.probability > 0.9] or list(range(count))
    return Inputs(images[sure], [pngs[i] for i in sure], [answers[i].digit for i in sure], a_photograph(images[0]))


def a_photograph(digit: NDArray[np.uint8]) -> bytes:
    """A JPEG of 640×480 pixels of a digit, (28, 28)."""
    from digits.photographer import photograph

    picture = Image.fromarray(photograph(digit, np.random.default_rng(1), 0.3)).resize((640, 480))
    return encoded(np.asarray(picture), "JPEG")


def encoded(pixels: NDArray[Any], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90)
    return buffer.getvalue()
