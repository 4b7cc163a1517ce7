"""Open-loop load: a request and a rate in, percentiles and errors out, the latter counted from when each was due.

wrk waits for an answer before it asks again, so a server that stalls is asked less and its worst moments are never
seen (coordinated omission). Here a request is due every 1/rate seconds whatever the server does, and its time runs
from that moment, the wait for a free connection included. (npm's autocannon, when given a rate, sends each second's
requests at once; k6 and oha are in none of PyPI, npm and Debian.)
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque

import httptools

from benchmarks.load import Request, Result, percentile

CONNECTIONS = 256  # more would only lengthen the server's queue; what waits for one of them is waiting all the same
PATIENCE = 2.0  # seconds after the last request was due; what is unanswered then is an error


def run(port: int, request: Request, rate: float, seconds: float) -> Result:
    """Asks `rate` times a second. Unanswered requests count as errors, with the time that they have waited so far."""
    # epoll's timers are a millisecond coarse, those of select a microsecond
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(Pool(port, request).ask(rate, seconds))


class Pool:
    """Connections, and the requests that wait for one."""

    def __init__(self, port: int, request: Request) -> None:
        self.messages = request.messages
        self.port = port
        self.idle: list[Connection] = []
        self.busy: set[Connection] = set()
        self.waiting: deque[float] = deque()  # when each was due
        self.opening: set[asyncio.Task[None]] = set()
        self.times: list[float] = []
        self.errors = 0
        self.stopped = False

    async def ask(self, rate: float, seconds: float) -> Result:
        loop = asyncio.get_running_loop()
        started, count = loop.time(), max(1, round(rate * seconds))
        for number in range(count):
            due = started + number / rate
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            self.waiting.append(due)
            self.send()
        while len(self.times) < count and loop.time() < started + seconds + PATIENCE:
            await asyncio.sleep(0.01)
        ended, self.stopped = loop.time(), True
        unanswered = [ended - due for due in (*self.waiting, *(c.due for c in self.busy))]
        for connection in (*self.busy, *self.idle):
            connection.transport.abort()
        for task in self.opening:
            task.cancel()
        await asyncio.gather(*self.opening, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted connections close their sockets in the loop's next turn
        ordered = sorted([*self.times, *unanswered])
        errors = self.errors + len(unanswered)
        return Result(len(ordered), ended - started, percentile(ordered, 0.5), percentile(ordered, 0.99), errors)

    def send(self) -> None:
        """Gives what waits to whoever is idle, the longest waiting first."""
        while self.waiting and self.idle:
            connection = self.idle.pop()
            self.busy.add(connection)
            connection.due = self.waiting.popleft()
            connection.transport.write(next(self.messages))
        if len(self.opening) < len(self.waiting) and len(self.busy) + len(self.opening) < CONNECTIONS:
            task = asyncio.ensure_future(self.open())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)

    async def open(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
            self.idle.append(connection)
        except OSError:  # refused: the request at the head of the line is lost
            if self.waiting:
                self.answered(self.waiting.popleft(), good=False)
        self.send()

    def answered(self, due: float, *, good: bool) -> None:
        self.times.append(asyncio.get_running_loop().time() - due)
        self.errors += not good


class Connection(asyncio.Protocol):
    """One kept-alive connection, with one request on it at a time."""

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.due = 0.0
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_message_complete(self) -> None:  # called by the parser
        if self.parser.get_status_code() < 200 or self not in self.pool.busy:
            return
        good, keeps = self.parser.get_status_code() == 200, self.parser.should_keep_alive()
        self.pool.busy.discard(self)
        self.pool.answered(self.due, good=good)
        self.parser = httptools.HttpResponseParser(self)
        if keeps:
            self.pool.idle.append(self)
        else:
            self.transport.close()
        self.pool.send()

    def connection_lost(self, _: Exception | None) -> None:
        if self.pool.stopped:
            return
        if self in self.pool.busy:
            self.pool.busy.discard(self)
            self.pool.answered(self.due, good=False)
        elif self in self.pool.idle:
            self.pool.idle.remove(self)
        self.pool.send()
