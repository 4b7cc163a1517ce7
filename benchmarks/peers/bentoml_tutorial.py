"""BentoML as its tutorial has it: a PIL image comes in, PyTorch answers. Two workers."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from PIL import Image

from benchmarks.peers.shared import TorchModel, answer, interpret


@bentoml.service(workers=2, traffic={"timeout": 30})
class Tutorial:
    def __init__(self) -> None:
        self.model = TorchModel()

    @bentoml.api
    def predict(self, image: Image.Image) -> dict[str, Any]:
        picture = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        return answer(self.model(interpret(picture).images))
