"""FastAPI with the model called in the handler, unbatched: `BENCH_ENGINE` is torch, fp32 or int8. Two workers."""

from __future__ import annotations

import os
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Request, UploadFile

from benchmarks.peers.shared import TorchModel, answer, onnx_model, read

ENGINE = os.environ["BENCH_ENGINE"]
app = FastAPI()

if ENGINE == "torch":
    predict_images = TorchModel()
else:
    session = onnx_model(ENGINE)

    def predict_images(images):  # type: ignore[no-untyped-def]
        return session.scores(images)[0]


predict_images(np.zeros((1, 28, 28), np.uint8))


@app.get("/ready")
async def ready() -> str:
    return "ok"


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    # In the event loop: a hop to a thread costs more than it gives with one worker for each core.
    return answer(predict_images(read(await request.body()).images))


@app.post("/predict_batch")
async def predict_batch(images: Annotated[list[UploadFile], File()]) -> dict[str, Any]:
    readings = [read(await image.read()) for image in images]
    rows = predict_images(np.concatenate([reading.images for reading in readings]))
    ends = np.cumsum([len(reading.images) for reading in readings])[:-1]
    return {"results": [answer(part) for part in np.split(rows, ends)]}
