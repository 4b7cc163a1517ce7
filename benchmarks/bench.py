"""`make bench`: the service beside its peers, on this machine, with the same weights and the same requests.

Each server is started in turn, asked for correct answers, loaded, and stopped; all of that is repeated, interleaved.
Out come serving.json, .md and .png: requests a second, percentiles, errors, processor time and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from benchmarks import constant, load, takes_out
from benchmarks.inputs import Inputs, make_inputs, prepare
from benchmarks.report import HARDEST, write
from digits.classifier import Classifier
from pipelines import provenance
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
UVICORN = [PYTHON, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log", "--workers", "2"]
BENTO = [PYTHON, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", "{port}"]
FASTAPI = [*UVICORN, "benchmarks.peers.fastapi_app:app"]
FORM = 'multipart/form-data; boundary="limit"'
BATCH = 64  # pictures of a form
QUICK_SECONDS = 0.5  # an answer that waited for nothing


@dataclass(frozen=True)
class Peer:
    """One way to serve the model: how it is started, how it is asked."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    ready: str = "/readyz"
    form: str = "raw"  # raw, multipart or json
    batch: bool = False
    path: str = "/predict"
    weighs: bool = True  # whether its answers come from the trained weights


def peers(folder: Path) -> list[Peer]:
    ours = {"BENTOML_HOME": str(folder / "int8"), "DIGITS_ACCESS_LOG": "off"}
    null = {**ours, "BENTOML_HOME": str(folder / "null")}
    quiet = {"BENTOML_HOME": str(folder / "peers"), "BENTOML_CONFIG": str(ROOT / "benchmarks" / "peers" / "quiet.yaml")}
    mlflow = [
        PYTHON,
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        str(folder / "mlflow"),
        "--env-manager",
        "local",
    ]
    return [
        Peer("this service", [*BENTO, "service:svc"], ours, batch=True),
        Peer("this service, one worker", [*BENTO, "service:svc"], {**ours, "DIGITS_WORKERS": "1"}, batch=True),
        Peer("this service, no batching", [*BENTO, "service:svc"], {**ours, "DIGITS_MAX_BATCH_SIZE": "1"}),
        Peer(HARDEST, FASTAPI, {"BENCH_ENGINE": "int8"}, "/ready", batch=True),
        Peer("FastAPI, ONNX Runtime fp32, 2 workers", FASTAPI, {"BENCH_ENGINE": "fp32"}, "/ready", batch=True),
        Peer("FastAPI, PyTorch, 2 workers", FASTAPI, {"BENCH_ENGINE": "torch"}, "/ready", batch=True),
        Peer(
            "BentoML tutorial, PyTorch, 2 workers",
            [*BENTO, "benchmarks.peers.bentoml_tutorial:Tutorial"],
            quiet,
            form="multipart",
        ),
        Peer(
            "BentoML front + batching model, int8",
            [*BENTO, "benchmarks.peers.bentoml_front:Front"],
            quiet,
            form="multipart",
        ),
        Peer("LitServe, PyTorch, batched", [PYTHON, "-m", "benchmarks.peers.litserve_app"], {}, "/health", "multipart"),
        Peer(
            "mlflow models serve, int8, 2 workers",
            [*mlflow, "--host", "127.0.0.1", "--port", "{port}", "--workers", "2"],
            {"UVICORN_ACCESS_LOG": "false"},
            "/ping",
            "json",
            path="/invocations",
        ),
        # RAY_SERVE_THROUGHPUT_OPTIMIZED would open ports of its own for the replicas instead of the one that is asked.
        Peer("Ray Serve, PyTorch, batched", [PYTHON, "-m", "benchmarks.peers.ray_app"], {}, "/", path="/"),
        Peer("ceiling: this service, a model that does nothing", [*BENTO, "service:svc"], null, weighs=False),
    ]


class Running:
    """A peer's processes; a context manager."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        self.peer = peer
        self.port = free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DIGITS_")}
        # One thread for each call everywhere: with more, two workers' calls fight over two cores.
        common = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "true"}
        paths = {
            "BENCH_WEIGHTS": str(folder),
            "BENCH_PORT": str(self.port),
            "BENCH_ROOT": str(ROOT),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.log = (folder / "server.log").open("w+")
        self.process = psutil.Popen(
            [part.replace("{port}", str(self.port)) for part in peer.command],
            cwd=ROOT,
            env={**kept, **common, **paths, **peer.environment},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started = time.perf_counter()
        self.ready_seconds = 0.0

    def __enter__(self) -> Running:
        while time.perf_counter() - self.started < 180 and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.peer.ready}", timeout=5):
                    self.ready_seconds = time.perf_counter() - self.started
                    return self
            except OSError:
                time.sleep(0.05)
        self.log.seek(0)
        text = self.log.read()
        self.__exit__()
        raise RuntimeError(f"{self.peer.name} did not start:\n{text[-2000:]}")

    def __exit__(self, *_: object) -> None:
        tree = self.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(tree, timeout=15)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5)
        with suppress(ProcessLookupError):  # whatever was not its child any more
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()

    def tree(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        total = 0.0
        for process in self.tree():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def memory(self) -> float:
        """Megabytes of all its processes, shared pages counted once (PSS)."""
        total = 0
        for process in self.tree():
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total / 2**20


def request_for(peer: Peer, pictures: Sequence[bytes], kind: str, pixels: Sequence[Any] = ()) -> load.Request:
    """One of the pictures in each request, in turn."""
    if peer.form == "json":
        bodies = [json.dumps({"inputs": {"images": [picture.tolist()]}}).encode() for picture in pixels]
        return load.Request(peer.path, tuple(bodies), "application/json")
    if peer.form == "multipart":
        forms = [multipart([("image", picture)], kind) for picture in pictures]
        return load.Request(peer.path, tuple(forms), FORM)
    return load.Request(peer.path, tuple(pictures), kind)


def multipart(parts: list[tuple[str, bytes]], kind: str) -> bytes:
    body = b"".join(
        b'--limit\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\nContent-Type: %s\r\n\r\n%s\r\n'
        % (name.encode(), kind.encode(), content)
        for name, content in parts
    )
    return body + b"--limit--\r\n"


def digit_in(answer: Any) -> int:
    """The digit in any peer's answer; `mlflow models serve` gives the model's raw outputs."""
    if "predictions" in answer:
        return int(np.argmax(answer["predictions"]["probabilities"][0]))
    return int(answer["digit"])


def ask(port: int, request: load.Request) -> Any:
    url = f"http://127.0.0.1:{port}{request.path}"
    call = urllib.request.Request(url, request.bodies[0], {"Content-Type": request.kind})
    with urllib.request.urlopen(call, timeout=60) as reply:
        return json.load(reply)


def wrong_answers(running: Running, inputs: Inputs, connections: int = 16) -> int:
    """How many of the pictures, asked for all at once, get another digit than the full-precision model gives them."""
    peer = running.peer

    def one(index: int) -> bool:
        request = request_for(peer, [inputs.pngs[index]], "image/png", [inputs.images[index]])
        return digit_in(ask(running.port, request)) != inputs.digits[index]

    with ThreadPoolExecutor(connections) as pool:
        return sum(pool.map(one, range(len(inputs.pngs))))


def measure(running: Running, request: load.Request, seconds: float, **how: float) -> dict[str, Any]:
    """One figure: closed loop with `connections=`, open loop with `offered=` requests a second."""
    drain(running, request)
    cpu = running.cpu_seconds()
    if "offered" in how:
        result = constant.run(running.port, request, how["offered"], seconds)
    else:
        result = load.run(running.port, request, int(how["connections"]), seconds)
    cpu = running.cpu_seconds() - cpu
    good = max(1, result.requests - result.errors)
    return {
        **how,
        "rate": result.rate * request.pictures,
        "p50": result.p50,
        "p99": result.p99,
        "requests": result.requests,
        "errors": result.errors,
        "cpu_ms": cpu / good / request.pictures * 1000,
    }


def drain(running: Running, request: load.Request) -> None:
    """Waits until the server has done what the figure before has left in its queue: two quick answers in a row."""
    quick, deadline = 0, time.perf_counter() + 60
    while quick < 2 and time.perf_counter() < deadline:
        started = time.perf_counter()
        ask(running.port, request)
        quick = quick + 1 if time.perf_counter() - started < QUICK_SECONDS else 0


def bench_peer(peer: Peer, folder: Path, inputs: Inputs, how: argparse.Namespace) -> dict[str, Any]:
    seconds = how.seconds
    with Running(peer, folder) as running:
        png = request_for(peer, inputs.pngs, "image/png", inputs.images)
        load.run(running.port, png, 32, max(1.0, seconds / 3))  # warm: caches, allocators, batching parameters
        found: dict[str, Any] = {
            "ready_seconds": running.ready_seconds,
            "wrong": wrong_answers(running, inputs) if peer.weighs else 0,
        }
        found["png"] = [measure(running, png, seconds, connections=count) for count in how.connections]
        if peer.form != "json":
            photo = request_for(peer, [inputs.photo], "image/jpeg")
            found["photo"] = [measure(running, photo, seconds, connections=32)]
        if peer.batch:
            pngs = list(islice(cycle(inputs.pngs), BATCH))
            body = multipart([("images", picture) for picture in pngs], "image/png")
            batch = load.Request("/predict_batch", (body,), FORM, BATCH)
            found["batch"] = [measure(running, batch, seconds, connections=4)]
        found["memory"] = running.memory()
        # Last and rising: what a server has not answered by then stays in its queue.
        found["open"] = [measure(running, png, seconds, offered=rate) for rate in sorted(how.rates)]
    return found


def model_alone(folder: Path) -> dict[int, float]:
    """Milliseconds of processor for a picture, by batch size: the int8 model with no HTTP around it."""
    model = Classifier(folder / "int8.onnx")
    cost = {}
    for size in (1, 2, 4, 8, 16, 32, 64):
        images = np.random.default_rng(0).integers(0, 256, (size, 28, 28), np.uint8)
        samples = []
        for _ in range(5):
            count, start = max(2, 200 // size), time.process_time()
            for _ in range(count):
                model.scores(images)
            samples.append((time.process_time() - start) / count / size * 1000)
        cost[size] = min(samples)
    return cost


def about() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    names = ["bentoml", "onnxruntime", "torch", "fastapi", "uvicorn", "litserve", "ray", "mlflow", "numpy", "pillow"]
    versions = {}
    for name in [*names, "opencv-python-headless", "starlette", "uvloop"]:
        try:
            versions[name] = version(name)
        except ModuleNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "generator": "wrk, 1 thread, on the same cores" if load.WRK else "Python, on the same cores",
        "date": time.strftime("%Y-%m-%d"),
        **provenance.git(),
        "versions": versions,
        "opencv_threads": cv2.getNumThreads(),
        "load_before": os.getloadavg()[0],
    }


def combine(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, with the lowest and highest rate."""
    combined: dict[str, Any] = {}
    for key in rounds[0]:
        if isinstance(rounds[0][key], list):
            combined[key] = []
            for index in range(len(rounds[0][key])):
                rows = [run[key][index] for run in rounds]
                row = {name: statistics.median(r[name] for r in rows) for name in rows[0]}
                row["rates"] = [round(r["rate"], 1) for r in rows]
                row["errors"] = sum(r["errors"] for r in rows)
                combined[key].append(row)
        else:
            values = [run[key] for run in rounds]
            combined[key] = sum(values) if key == "wrong" else statistics.median(values)
    return combined


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--weights", type=Path, help="model.safetensors of a training run (default: the champion's)")
    parser.add_argument("--form", choices=("thin", "whole"), default="thin", help="of all models (default thin)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is repeated (default 3)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of load for each figure (default 3)")
    parser.add_argument(
        "--connections", type=int, nargs="+", default=[1, 32, 128], help="closed loop (default 1 32 128)"
    )
    parser.add_argument("--rates", type=float, nargs="*", default=[100, 400, 1000], help="open loop, requests/s")
    parser.add_argument("--only", default="", help="only the peers whose name contains this; several with |")
    takes_out(parser)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped and folders removed
    with tempfile.TemporaryDirectory(prefix="digits-bench-") as temporary:
        folder = Path(temporary)
        source = prepare(folder, arguments.weights, arguments.form)
        inputs = make_inputs(folder)
        machine = about()
        chosen = [p for p in peers(folder) if any(word in p.name for word in arguments.only.split("|"))]
        rounds: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in chosen}
        failed: dict[str, str] = {}
        for number in range(arguments.rounds):
            turn = number % len(chosen)
            for peer in chosen[turn:] + chosen[:turn]:  # none is always the first
                if peer.name in failed:
                    continue
                print(f"round {number + 1} of {arguments.rounds}: {peer.name}", flush=True)
                try:
                    found = bench_peer(peer, folder, inputs, arguments)
                except Exception as error:  # a round is long, and the others' figures are good
                    failed[peer.name] = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
                    print(f"  left out: {error}")
                    continue
                rounds[peer.name].append(found)
                print("  " + ", ".join(f"{m['connections']}: {m['rate']:.0f}/s" for m in found["png"]), flush=True)
        alone = model_alone(folder)
    results = {
        "machine": machine,
        "weights": source,
        "form": arguments.form,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "results": {name: combine(found) for name, found in rounds.items() if found and name not in failed},
        "failed": failed,
        "model_alone_cpu_ms": alone,
        "peers": {peer.name: asdict(peer)["form"] for peer in chosen},
    }
    print(write(results, arguments.out))


if __name__ == "__main__":
    main()
