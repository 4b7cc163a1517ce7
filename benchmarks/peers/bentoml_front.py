"""BentoML's documented way to batch: a front that decodes, and behind it a model service with a batchable API."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from PIL import Image

from benchmarks.peers.shared import answer, interpret, onnx_model


# The client between the two closes its session every 100 requests by default, and requests fail with it.
@bentoml.service(runner_connection={"max_requests": 10**9, "max_age": 1e9})
class Model:
    def __init__(self) -> None:
        self.model = onnx_model("int8")

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=5000)
    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.model.scores(images)[0]


@bentoml.service(traffic={"timeout": 30}, runner_connection={"max_requests": 10**9, "max_age": 1e9})
class Front:
    model = bentoml.depends(Model)

    @bentoml.api
    async def predict(self, image: Image.Image) -> dict[str, Any]:
        picture = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        rows = await self.model.to_async.predict(interpret(picture).images)
        return answer(np.asarray(rows, np.float32))
