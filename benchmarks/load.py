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
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

WRK = shutil.which("wrk")
SCRIPT = """
local requests, turn = {}, 0
function init()
  wrk.headers["Content-Type"] = "%(kind)s"
  for number = 1, %(count)d do
    local file = io.open("%(folder)s/" .. number, "rb")
    requests[number] = wrk.format("POST", nil, nil, file:read("*a")); file:close()
  end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Request:
    """What is asked: a path, bodies that are sent in turn and their type, and how many pictures each holds."""

    path: str
    bodies: tuple[bytes, ...]
    kind: str
    pictures: int = 1

    @property
    def messages(self) -> Iterator[bytes]:
        """Whole requests, without end."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {self.kind}\r\n"
        return cycle([b"%sContent-Length: %d\r\n\r\n%s" % (head.encode(), len(body), body) for body in self.bodies])


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
        for number, body in enumerate(request.bodies, 1):
            (Path(folder) / str(number)).write_bytes(body)
        script = Path(folder) / "post.lua"
        words = {"folder": folder, "count": len(request.bodies), "kind": request.kind.replace('"', '\\"')}
        script.write_text(SCRIPT % words)
        url = f"http://127.0.0.1:{port}{request.path}"
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(script)]
        out = subprocess.run([str(WRK), *options, url], capture_output=True, text=True, check=True).stdout
    return Result(**json.loads(out.split("RESULT ")[1].splitlines()[0]))


async def _python(port: int, request: Request, connections: int, seconds: float) -> Result:
    messages = request.messages
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
                writer.write(next(messages))
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
