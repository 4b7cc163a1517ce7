"""LitServe with dynamic batching and PyTorch: decoding in the server's own hooks, batches of up to 32."""

from __future__ import annotations

import os
from typing import Any

import litserve as ls
import numpy as np

from benchmarks.peers.shared import TorchModel, answer, read


class Digits(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.model = TorchModel()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation would mean a JSON schema to it
        return read(request["image"].file.read()).images[0]

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, images: Any) -> Any:
        return self.model(images)

    def unbatch(self, rows: Any) -> list[Any]:
        return list(rows)

    def encode_response(self, row: Any) -> dict[str, Any]:
        return answer(row[None])


if __name__ == "__main__":
    api = Digits(max_batch_size=32, batch_timeout=0.005)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=30)
    server.run(port=int(os.environ["BENCH_PORT"]), host="127.0.0.1", generate_client_file=False, log_level="warning")
