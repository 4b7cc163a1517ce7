"""What all peers have in common: the same weights, the same reading of a picture, one thread for a call of a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digits import imaging
from digits.classifier import Classifier
from digits.imaging import Reading
from digits.segmenter import Segmenter

WEIGHTS = Path(os.environ.get("BENCH_WEIGHTS", "."))  # a folder: net.pt, fp32.onnx, int8.onnx, segmenter.onnx
_segmenter = WEIGHTS / "segmenter.onnx"
SEGMENTER = Segmenter(_segmenter.read_bytes()) if _segmenter.exists() else None


def read(data: bytes) -> Reading:
    """A file as our own service reads it."""
    return imaging.read(data, segmenter=SEGMENTER)


def interpret(picture: NDArray[np.uint8]) -> Reading:
    """Pixels as our own service reads them."""
    return imaging.interpret(picture, SEGMENTER)


def onnx_model(name: str) -> Classifier:
    """The model in ONNX Runtime, with the session options of our own service: `fp32` or `int8`."""
    return Classifier(WEIGHTS / f"{name}.onnx")


class TorchModel:
    """The same network in PyTorch, in evaluation mode."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch = torch
        self.net = torch.load(WEIGHTS / "net.pt", weights_only=False).eval()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities, (n, 10), of pictures, uint8 (n, 28, 28)."""
        with self.torch.inference_mode():
            logits = self.net(self.torch.from_numpy(images))
            probabilities: NDArray[np.float32] = self.torch.softmax(logits, 1).numpy()
        return probabilities


def answer(probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """The smallest useful answer about one picture with k candidates: (k, 10)."""
    row = probabilities[int(probabilities.max(1).argmax())]
    return {"digit": int(row.argmax()), "probability": float(row.max()), "probabilities": row.tolist()}
