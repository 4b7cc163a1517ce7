"""Load beyond what a service can do: a picture and a rate in; what was answered and shed, and how long it took, out.

What an answer took is told in milliseconds, and in answers that others got meanwhile: a busy machine changes the first,
only the server's queue the second.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 120  # seconds until something counts as stuck


@dataclass
class Tally:
    """What came of some requests. `seconds` is how long all took; the lists have an entry for each answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    unhinted: int = 0  # refusals without a Retry-After
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    overtaken: list[int] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.statuses[200]

    @property
    def shed(self) -> float:
        """The share of requests that were told to come back."""
        return (self.statuses[503] + self.statuses[429]) / max(1, self.statuses.total())

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    def p99(self) -> tuple[float, int]:
        """Milliseconds, and answers to others, of the slowest of a hundred answers."""
        place = int(self.answered * 0.99)
        return 1000 * sorted(self.latencies)[place], sorted(self.overtaken)[place]


class Client:
    """Sends the same picture as often as it is told, over connections that it keeps."""

    def __init__(self, port: int, picture: bytes, kind: str = "image/png") -> None:
        self.port = port
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(picture)}\r\n\r\n"
        self.message = head.encode() + picture
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.tally = Tally()

    async def ask(self) -> None:
        tally = self.tally
        started, before = time.perf_counter(), tally.answered
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.message)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            await reader.readexactly(int(headers[b"content-length"]))
        except (OSError, asyncio.IncompleteReadError):
            tally.statuses[0] += 1  # the connection was lost
            return
        status = int(head.split()[1])
        if status == 200:
            tally.latencies.append(time.perf_counter() - started)
            tally.overtaken.append(tally.answered - before)
        elif status in (429, 503):
            tally.unhinted += b"retry-after" not in headers
        tally.statuses[status] += 1
        if headers.get(b"connection") == b"close":
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        else:
            self.idle.append((reader, writer))

    async def finish(self, work: Coroutine[Any, Any, None]) -> Tally:
        """Does the work, closes the connections and tells what came of it."""
        started = time.perf_counter()
        await work
        self.tally.seconds = time.perf_counter() - started
        for _, writer in self.idle:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in self.idle), return_exceptions=True)
        return self.tally


async def _closed(client: Client, connections: int, more: Callable[[], bool]) -> None:
    async def one() -> None:
        while more():
            await client.ask()

    await asyncio.gather(*(one() for _ in range(connections)))


async def _open(client: Client, rate: float, count: int) -> None:
    started, under_way = time.perf_counter(), set()
    for number in range(count):
        await asyncio.sleep(started + number / rate - time.perf_counter())
        task = asyncio.create_task(client.ask())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*under_way)


def closed_loop(port: int, picture: bytes, connections: int, more: Callable[[Tally], bool]) -> Tally:
    """So many clients that ask again as soon as they are answered, while there shall be more."""
    client = Client(port, picture)
    return asyncio.run(client.finish(_closed(client, connections, lambda: more(client.tally))))


def open_loop(port: int, picture: bytes, rate: float, count: int) -> Tally:
    """`count` requests, `rate` of them a second whatever becomes of those before."""
    client = Client(port, picture)
    return asyncio.run(client.finish(_open(client, rate, count)))
