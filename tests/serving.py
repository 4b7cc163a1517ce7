"""The real service as a process, for tests that talk to it over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import prometheus_client
from PIL import Image

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
# Seconds until an answer, or whatever takes minutes, counts as stuck; no test measures time.
PATIENCE, LONG = 120, 900
STORE = """import json, sys
from pathlib import Path
from tests.models import store_model
home, version, digest, facts = sys.argv[1:]
store_model(Path(home), sys.stdin.buffer.read(), version, digest=digest or None, **json.loads(facts))"""


def metrics_client(registry: prometheus_client.CollectorRegistry) -> SimpleNamespace:
    """What Telemetry takes for a Prometheus client, with its metrics in a registry of their own."""
    kinds = ("Counter", "Histogram", "Gauge")
    return SimpleNamespace(**{kind: partial(getattr(prometheus_client, kind), registry=registry) for kind in kinds})


def store(home: Path, model: bytes, version: str, /, digest: str = "", **facts: object) -> str:
    """Puts a model into the BentoML store under `home`, in its own process as BentoML's import warns. Gives its tag."""
    command = [sys.executable, "-c", STORE, str(home), version, digest, json.dumps(facts)]
    subprocess.run(command, input=model, cwd=ROOT, check=True, env=environment(home))
    return f"digits:v{version}"


def forget(home: Path, tag: str) -> None:
    """Deletes a model from the store, as an operator would."""
    command = [sys.executable, "-m", "bentoml", "models", "delete", tag, "--yes"]
    subprocess.run(command, cwd=ROOT, check=True, env=environment(home), stdout=subprocess.DEVNULL)


def environment(home: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DIGITS_", "PYTEST"))}
    quiet = {"BENTOML_DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "DIGITS_WORKERS": "1"}
    return {**kept, "BENTOML_HOME": str(home), **quiet, **settings}


def png(pixels: np.ndarray[Any, Any] | None = None, size: tuple[int, int] = (28, 28), kind: str = "PNG") -> bytes:
    """An image file: the pixels given, or a light upright stroke on black."""
    if pixels is None:
        pixels = np.zeros(size[::-1], np.uint8)
        h, w = pixels.shape
        pixels[h // 5 : -h // 5, w * 3 // 7 : w * 4 // 7] = 255
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pictures(count: int, seed: int = 0) -> list[bytes]:
    """Different 28×28 pictures: strokes in different places."""
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        pixels = np.zeros((28, 28), np.uint8)
        x, y = rng.integers(4, 18, 2)
        pixels[y : y + rng.integers(3, 7), 4:24] = 255
        pixels[4:24, x : x + rng.integers(3, 7)] = rng.integers(180, 256)
        files.append(png(pixels))
    return files


def form(parts: Iterable[tuple[str, bytes]], boundary: str = "limit") -> tuple[bytes, dict[str, str]]:
    """A multipart body of (field, content) and its headers."""
    body = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
        % (boundary.encode(), name.encode(), content)
        for name, content in parts
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return body + b"--%s--\r\n" % boundary.encode(), headers


def eventually(check: Callable[[], Any], process: subprocess.Popen[Any] | None = None, pause: float = 0.02) -> Any:
    """What is waited for, as soon as it is there. Fails where it never is, or where a process ends before."""
    deadline = time.monotonic() + (LONG if process else PATIENCE)
    while not (found := check()):
        assert process is None or process.poll() is None, f"ended with {process.returncode} before it came to that"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)
    return found


def memory(pid: int) -> float:
    """Megabytes that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Server:
    """`bentoml serve` with a store and settings of its own, on a free port; a context manager."""

    def __init__(self, home: Path, *, what: str = "service:svc", folder: Path = ROOT, **settings: str) -> None:
        self.home = home
        self.port = free_port()
        self.log_file = home / f"service-{self.port}.log"
        command = [sys.executable, "-m", "bentoml", "serve", what, "--host", "127.0.0.1", "--port", str(self.port)]
        with self.log_file.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment(home, **settings), stdout=out, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Server:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.get("/readyz").status == 200:
                    return self
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise AssertionError(f"the service did not start:\n{self.log}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self) -> int:
        """SIGTERM, then the exit status; a server that does not stop by itself is killed and raises."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = self.connect()
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: bytes, kind: str = "image/png", **headers: str) -> Reply:
        return self.request("POST", path, body, {"Content-Type": kind, **headers})

    def send_form(self, path: str, parts: Iterable[tuple[str, bytes]]) -> Reply:
        body, headers = form(parts)
        return self.request("POST", path, body, headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all label sets that have these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if (
                match
                and match[1] == name
                and all(f'{key}="{value}"' in (match[2] or "") for key, value in labels.items())
            ):
                total += float(match[3])
        return total


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """One request on an open connection."""
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
