"""The short way: a thumbnail that comes with a head that has been read before, byte for byte.

A client that sends picture after picture says the same before each of them, but for the length. To read that again, to
make a request and a task of it and to take the answer through all of these costs as much as the model. So what a head
means is remembered. A picture that comes with such a head is decoded where it arrives, queued for the model beside all
others, and answered where the scores come out.

Whatever is not in order goes the ordinary way (digits.front), which has all the errors.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from digits.decoding import SMALL_FILE
from digits.exchange import CLOSED, Exchange, Scope, heading
from digits.front import Front, Scored
from digits.imaging import Reading
from digits.requests import Refusal, internal_error, is_small

log = logging.getLogger("bentoml.digits")
ROUTE = "/predict"
HEADS = 1024  # that are remembered; one more, and all are forgotten
HEAD_BYTES = 2048  # of each, at most

Rows = NDArray[np.float32]


class Link(Protocol):
    """A connection, as an errand sees it."""

    client: tuple[str, int] | None

    def deliver(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None: ...


class Errand:
    """One picture under way, which waits for its rows in the queue of the model as a future would."""

    __slots__ = ("ended", "explain", "express", "link", "reading", "started")

    def __init__(self, express: Express, link: Link, reading: Reading, explain: bool, started: float) -> None:
        self.express, self.link, self.reading = express, link, reading
        self.explain, self.started, self.ended = explain, started, False

    def done(self) -> bool:
        return self.ended

    def set_result(self, rows: Rows) -> None:
        front = self.express.front
        try:
            probabilities, digitness, served = self.express.scored(rows)
            since = self.started if self.explain else None
            content = front.result(self.reading, probabilities, digitness, served, since).encode()
        except Exception as error:
            self.set_exception(error)
        else:
            self.end(200, content, served.name)

    def set_exception(self, error: Exception) -> None:
        log.error("%s failed", ROUTE, exc_info=error)
        self.refuse(internal_error())

    def cancel(self) -> None:
        """The time limit is reached."""
        self.refuse(Refusal(504, "timeout", f"no answer within {self.express.front.settings.timeout:g} s"))

    def refuse(self, refusal: Refusal) -> None:
        self.end(refusal.status, refusal.json().encode(), headers=refusal.headers)
        self.express.front.telemetry.error(refusal.code)

    def abandon(self) -> None:
        """The client has gone."""
        self.end(CLOSED, b"")

    def end(self, status: int, content: bytes, model: str = "", headers: dict[str, str] | None = None) -> None:
        front = self.express.front
        self.ended = True
        front.gate.in_progress -= 1
        front.gate.clock.end(self)
        if status != CLOSED:
            self.link.deliver(status, heading(content, model, headers), content)
        front.telemetry.end()
        front.note(self.link.client, "POST", ROUTE, status, time.perf_counter() - self.started)


class Express:
    """The heads that are known, of one worker.

    `put` queues pictures for the model, uint8 (k, 28, 28), with the errand that waits for their rows, and `scored` says
    what these rows mean.
    """

    def __init__(
        self,
        front: Front,
        put: Callable[[NDArray[np.uint8], Errand], None],
        scored: Callable[[Rows], Scored],
    ) -> None:
        self.front, self.put, self.scored = front, put, scored
        self.heads: dict[bytes, tuple[int, bool]] = {}  # how long the body is, and whether the client wants to see more

    def learn(self, data: bytes, scope: Scope) -> None:
        """Remembers a head that has come alone or with the whole of its body, if the next may go the short way.

        `scope` has to be that of the only request in `data`.
        """
        settings, end = self.front.settings, data.find(b"\r\n\r\n") + 4
        if scope["path"] != ROUTE or not data.startswith(b"POST ") or end > HEAD_BYTES or settings.access_log == "all":
            return
        exchange = Exchange(self.front.gate, scope, cast(Any, None), cast(Any, None))  # nothing is received or sent
        small = 0 < exchange.declared <= SMALL_FILE and len(data) - end in (0, exchange.declared)
        # Lines that end otherwise or go on are not worth a thought.
        straight = data.count(b"\n", 0, end) == len(scope["headers"]) + 2
        more = b"expect" in exchange.headers or (settings.cors_origins and b"origin" in exchange.headers)
        if more or not small or not straight:
            return
        try:
            exchange.admit(settings.max_bytes)
        except Refusal:
            return
        if exchange.boundary is None:
            if len(self.heads) >= HEADS:
                self.heads.clear()
            self.heads[data[:end]] = exchange.declared, exchange.explain

    def knows(self, data: bytes) -> bool:
        """Whether this is a whole head, and one that is known."""
        return len(data) <= HEAD_BYTES and data in self.heads

    def take(self, data: bytes, link: Link) -> Errand | None:
        """Begins with what has come, if it may go the short way: one whole request with a thumbnail in order."""
        started, end = time.perf_counter(), data.find(b"\r\n\r\n") + 4
        known = self.heads.get(data[:end])
        if known is None:
            return None
        length, explain = known
        if length != len(data) - end:
            return None
        front, settings, picture = self.front, self.front.settings, data[end:]
        gate = front.gate
        if gate.full or not is_small(picture):
            return None
        reading = front.read(picture)
        if isinstance(reading, Refusal) or len(reading.images) > settings.max_batch_size:
            return None
        errand = Errand(self, link, reading, explain, started)
        gate.in_progress += 1
        gate.clock.begin(errand)
        front.telemetry.begin()
        self.put(reading.images, errand)
        return errand
