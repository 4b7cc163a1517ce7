"""Ray Serve with dynamic batching and PyTorch: its HTTP proxy, one replica, batches of up to 32."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.shared import TorchModel, answer, read


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})
class Digits:
    def __init__(self) -> None:
        self.model = TorchModel()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def predict(self, images: list[Any]) -> list[Any]:
        return list(self.model(np.stack(images)))

    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.method == "GET":
            return {"ready": True}
        row = await self.predict(read(await request.body()).images[0])
        return answer(row[None])


if __name__ == "__main__":
    # BENCH_ROOT lets Ray's workers import the benchmark.
    environment = {"env_vars": {"PYTHONPATH": os.environ["BENCH_ROOT"], "BENCH_WEIGHTS": os.environ["BENCH_WEIGHTS"]}}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    http = {"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])}
    serve.start(http_options=http, logging_config={"enable_access_log": False})
    serve.run(Digits.bind(), route_prefix="/")
    while True:
        time.sleep(3600)
