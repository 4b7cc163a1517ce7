"""The short way: a thumbnail whose request begins with a head that has been read before, byte for byte.

A client that sends picture after picture says the same before each. Reading that again, and making a request, a task
and their like of it, costs more than looking at the picture. What a head means is remembered; what comes under it is
decoded where it arrives, scored with the others, and answered where the scores come out.

Whatever is not in order goes the ordinary way, which has all the errors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from digits.exchange import CLOSED, Exchange, Gate, Scope
from digits.imaging import Reading
from digits.requests import Refusal, internal_error, is_small

log = logging.getLogger("bentoml.digits")
ROUTE = "/predict"
HEADS = 1024  # that are remembered; when there are more, all are forgotten
HEAD_BYTES = 2048  # of each, at most


class Link(Protocol):
    """A connection, as an errand sees it."""

    def deliver(self, status: int, content: bytes, headers: dict[str, str]) -> None: ...


class Errand:
    """One request under way. It waits in the queue of the model as a future does."""

    __slots__ = ("express", "explain", "gone", "link", "reading", "started")

    def __init__(self, express: Express, link: Link, reading: Reading, explain: bool, started: float) -> None:
        self.express, self.link, self.reading = express, link, reading
        self.explain, self.started, self.gone = explain, started, False

    def done(self) -> bool:
        return self.gone

    def set_result(self, rows: NDArray[np.float32]) -> None:
        try:
            content, model = self.express.say(self.reading, rows, self.started if self.explain else None)
        except Exception as error:
            self.set_exception(error)
        else:
            self.end(200, content, {"x-digits-model": model})

    def set_exception(self, error: Exception) -> None:
        log.error("%s failed", ROUTE, exc_info=error)
        self.refuse(internal_error())

    def cancel(self) -> None:
        """The time limit is reached."""
        seconds = f"{self.express.gate.settings.timeout:g}"
        self.refuse(Refusal(504, "timeout", f"no answer within {seconds} s"))

    def refuse(self, refusal: Refusal) -> None:
        self.express.gate.telemetry.error(refusal.code)
        self.end(refusal.status, refusal.json().encode(), refusal.headers)

    def abandon(self) -> None:
        """The client has gone."""
        self.end(CLOSED, b"", {})

    def end(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        gate = self.express.gate
        self.gone = True
        gate.in_progress -= 1
        gate.clock.due.pop(self, None)
        gate.telemetry.end()
        if status != CLOSED:
            self.link.deliver(status, content, headers)
        gate.telemetry.request(ROUTE, status, time.perf_counter() - self.started)


class Express:
    """`put` queues pictures with whoever waits for their rows; `say` makes the answer's JSON of them, and names the model."""

    def __init__(
        self,
        gate: Gate,
        read: Callable[[bytes], Reading | Refusal],
        put: Callable[[NDArray[np.uint8], Any], None],
        say: Callable[[Reading, NDArray[np.float32], float | None], tuple[bytes, str]],
    ) -> None:
        self.gate, self.read, self.put, self.say = gate, read, put, say
        self.heads: dict[bytes, tuple[int, bool]] = {}  # the length of the body, and whether more is to be said

    def learn(self, data: bytes, scope: Scope) -> None:
        """Remembers the head of a whole request that has come in one piece, if it may go the short way."""
        end = data.find(b"\r\n\r\n") + 4
        if end > HEAD_BYTES or not data.startswith(b"POST ") or scope["path"] != ROUTE or scope["method"] != "POST":
            return
        exchange = Exchange(self.gate, scope, None, None)  # type: ignore[arg-type]
        if b"expect" in exchange.headers or exchange.declared != len(data) - end:
            return
        try:
            exchange.admit(self.gate.settings.max_bytes)
        except Refusal:
            return
        if exchange.boundary is None:
            if len(self.heads) >= HEADS:
                self.heads.clear()
            self.heads[data[:end]] = exchange.declared, exchange.explain

    def take(self, data: bytes, link: Link) -> Errand | None:
        """Begins with the request, if it is one for the short way."""
        end = data.find(b"\r\n\r\n") + 4
        terms = self.heads.get(data[:end])
        if terms is None or terms[0] != len(data) - end:
            return None
        gate, started = self.gate, time.perf_counter()
        picture = data[end:]
        if gate.in_progress >= gate.settings.max_concurrency or not is_small(picture):
            return None
        reading = self.read(picture)
        if isinstance(reading, Refusal) or len(reading.images) > gate.settings.max_batch_size:
            return None
        errand = Errand(self, link, reading, terms[1], started)
        gate.in_progress += 1
        gate.telemetry.begin()
        gate.clock.begin(errand)
        self.put(reading.images, errand)
        return errand
