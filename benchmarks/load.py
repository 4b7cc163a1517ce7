"""Closed-loop load: a request and a number of connections in; requests a second, percentiles and errors out.
(Open-loop load is in constant.py.)

wrk where it is installed; else a small generator in Python, which takes more of the processor that it shares with the
server, so that its figures are lower and only good for comparing.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

WRK = shutil.which("wrk")
SCRIPT = """
wrk.method = "POST"
local file = io.open("%(body)s", "rb"); wrk.body = file:read("*a"); file:close()
wrk.headers["Content-Type"] = "%(kind)s"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Request:
    """What is asked: a path, a body and its type, and how many pictures it holds."""

    path: str
    body: bytes
    kind: str
    pictures: int = 1


@dataclass(frozen=True)
class Result:
    """What came of it; the percentiles in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int

    @property
    def rate(self) -> float:
        return (self.requests - self.errors) / self.seconds


def run(port: int, request: Request, connections: int, seconds: float) -> Result:
    if WRK:
        return _wrk(port, request, connections, seconds)
    return asyncio.run(_python(port, request, connections, seconds))


def _wrk(port: int, request: Request, connections: int, seconds: float) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "post.lua"
        body.write_bytes(request.body)
        script.write_text(SCRIPT % {"body": body, "kind": request.kind.replace('"', '\\"')})
        url = f"http://127.0.0.1:{port}{request.path}"
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(script)]
        out = subprocess.run([str(WRK), *options, url], capture_output=True, text=True, check=True).stdout
    return Result(**json.loads(out.split("RESULT ")[1].splitlines()[0]))


async def _python(port: int, request: Request, connections: int, seconds: float) -> Result:
    head = f"POST {request.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {request.kind}\r\n"
    message = head.encode() + b"Content-Length: %d\r\n\r\n" % len(request.body) + request.body
    times: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal errors
        reader = writer = None
        while time.perf_counter() < end:
            started = time.perf_counter()
            try:
                if writer is None or reader is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(message)
                answer = await reader.readuntil(b"\r\n\r\n")
                headers = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:] if b": " in line)
                await reader.readexactly(int(headers[b"content-length"]))
                errors += not answer.startswith(b"HTTP/1.1 200")
            except (OSError, asyncio.IncompleteReadError, KeyError):
                errors, reader, writer = errors + 1, None, None
            times.append(time.perf_counter() - started)
        if writer is not None:
            writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    elapsed = time.perf_counter() - started
    ordered = sorted(times) or [0.0]
    return Result(len(times), elapsed, percentile(ordered, 0.5), percentile(ordered, 0.99), errors)


def percentile(ordered: list[float], share: float) -> float:
    """Milliseconds, of sorted seconds."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000
