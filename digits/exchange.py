"""One HTTP request and its answer: admission, the body under its limit, errors in one shape, a clean connection."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from digits.requests import Refusal, authorised, boundary_of, busy, internal_error, too_large
from digits.settings import FORM_BYTES, Settings
from digits.telemetry import Telemetry

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("bentoml.digits")
LINGER_SECONDS = 3.0
SMALL_BODY = 65_536
ALWAYS_ROOM = 16_384  # bytes of a body for which there is room whatever the others are
SMALL_BODY_SECONDS = 0.2  # until a small body that was announced is here, unless it never comes
GONE = "the client has gone"  # why a connection cancels what it waited for
CLOSED = 499  # in metrics and log, as nginx has it: nobody is there to take an answer
EXPLAIN = re.compile(rb"(?:^|&)explain=([^&]*)")


def heading(content: bytes, model: str, headers: dict[str, str] | None = None) -> list[tuple[bytes, bytes]]:
    """The headers of an answer in JSON, `model` being what it comes from."""
    raw = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    if model:
        raw.append((b"x-digits-model", model.encode()))
    if headers:
        raw += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return raw


class Clock:
    """The time limit of a worker's requests. Each is worked on `with` it; those that reach it get TimeoutError.

    asyncio.timeout does the same with a timer for each. As all have the same limit they reach it in the order in which
    they began, and one timer, for the first, is enough.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.due: dict[Any, float] = {}
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, work: Any) -> None:
        """The work is cancelled when its time is over, unless it has ended."""
        loop = asyncio.get_running_loop()
        self.due[work] = due = loop.time() + self.seconds
        if self.timer is None:
            self.timer = loop.call_at(due, self.expire)

    def end(self, work: Any) -> bool:
        """Whether the work has ended in time."""
        return self.due.pop(work, None) is not None

    def __enter__(self) -> None:
        self.begin(asyncio.current_task())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        task = asyncio.current_task()
        expired = not self.end(task)
        if expired and task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancels what has reached its limit."""
        loop = asyncio.get_running_loop()
        for task, due in list(self.due.items()):
            if due > loop.time():
                self.timer = loop.call_at(due, self.expire)
                return
            del self.due[task]
            try:
                task.cancel()
            except Exception:  # the others have their time limit all the same
                log.exception("what took too long could not be ended")
        self.timer = None


class Gate:
    """What all requests of a worker share: the limits, and how much of them is in use."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self.settings, self.telemetry = settings, telemetry
        self.clock = Clock(settings.timeout)
        self.key = settings.api_key.encode()
        self.in_progress = 0
        self.buffered = 0

    @property
    def full(self) -> bool:
        """Whether as many requests are being worked on as may be."""
        return self.in_progress >= self.settings.max_concurrency


class Exchange:
    """One request. `run` does all of it; a handler asks for the `body` and sets `model`."""

    __slots__ = (
        "begun",
        "boundary",
        "declared",
        "explain",
        "finished",
        "gate",
        "headers",
        "held",
        "limit",
        "model",
        "pending",
        "placed",
        "receive",
        "scope",
        "send",
        "started",
        "status",
    )

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate, self.scope, self.receive, self.send = gate, scope, receive, send
        self.started = time.perf_counter()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        length = self.headers.get(b"content-length")
        self.declared = -1 if length is None else int(length.lstrip(b"0") or 0)  # int() refuses more than 4,300 digits
        # Part of the body may still be on its way.
        self.pending = self.declared > 0 or b"transfer-encoding" in self.headers
        self.boundary: bytes | None = None
        self.explain = False  # whether the client wants to see what the model saw
        self.limit = 0
        self.held = 0
        self.begun = self.placed = False  # whether it counts among those under way, and has a place
        self.model = ""
        self.status = 0  # of the answer, once it was handed over,
        self.finished = 0.0  # and when its last byte was

    @property
    def since(self) -> float | None:
        """When it began, where the client wants to know."""
        return self.started if self.explain else None

    async def run(self, handler: Callable[[Exchange], Awaitable[bytes]], limit: int) -> int:
        """Answers with what the handler gives, or says why not; `limit` is the longest body. Gives the status.

        The handler may raise Refusal; anything else it raises is a 500 and goes to the log.
        """
        gate = self.gate
        self.begun = True
        gate.telemetry.begin()
        try:
            with gate.clock:
                self.admit(limit)
                content = await handler(self)
            self.leave()  # a client that takes its time to read keeps no place
            return await self.answer(200, content)
        except Refusal as refusal:
            return await self.refuse(refusal)
        except TimeoutError:
            seconds = f"{gate.settings.timeout:g}"
            if self.pending:
                return await self.refuse(Refusal(408, "request_timeout", f"the body took longer than {seconds} s"))
            return await self.refuse(Refusal(504, "timeout", f"no answer within {seconds} s"))
        except ConnectionResetError:
            return CLOSED
        except Exception:
            log.exception("%s failed", self.scope["path"])
            return await self.refuse(internal_error())
        finally:
            self.leave()

    def leave(self) -> None:
        """Gives back its place among the requests in progress, and what it held of their bodies."""
        if self.begun:
            self.begun = False
            self.gate.telemetry.end()
        if self.placed:
            self.placed = False
            self.gate.in_progress -= 1
        self.release()

    def admit(self, limit: int) -> None:
        """Checks all that can be checked before the body comes. Raises Refusal."""
        gate, headers = self.gate, self.headers
        if gate.key and not authorised(headers, gate.key):
            raise Refusal(401, "unauthorized", "send the API key as X-API-Key", {"WWW-Authenticate": "Bearer"})
        if not limit:
            return
        self.check_room()
        asked = EXPLAIN.findall(self.scope["query_string"])  # ?explain=1
        self.explain = (asked[-1] if asked else headers.get(b"x-digits-explain")) in (b"1", b"true", b"yes")
        if headers.get(b"content-encoding", b"").lower() not in (b"", b"identity"):
            raise Refusal(415, "unsupported_encoding", "send the image without Content-Encoding")
        self.boundary = boundary_of(headers.get(b"content-type", b""))
        self.limit = limit if self.boundary is None else limit + FORM_BYTES
        if self.declared > self.limit:
            raise too_large(self.limit)

    def check_room(self) -> None:
        """Raises Refusal where as many requests are being worked on as may be."""
        if self.gate.full:
            raise busy(f"{self.gate.settings.max_concurrency} requests are being worked on; try again in a second")

    async def body(self) -> bytes:
        """The whole body. Raises Refusal 413 as soon as it is longer than the limit, 503 where all bodies are too much.

        What counts is what has come: a length is easily declared, and a place is taken once there is something to do.
        """
        gate, parts, more = self.gate, [], True
        try:
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                part, more = message.get("body", b""), message.get("more_body", False)
                self.pending = more
                parts.append(part)
                self.held += len(part)
                gate.buffered += len(part)
                if self.held > self.limit:
                    raise too_large(self.limit)
                if gate.buffered > gate.settings.max_buffered_bytes and self.held > ALWAYS_ROOM:
                    raise busy("too many bytes are being received; try again in a second")
            self.check_room()
        except BaseException:  # what came makes room before the rest is waited for
            parts.clear()
            self.release()
            raise
        self.placed = True
        gate.in_progress += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self) -> None:
        """Takes the body out of the count of those that are held."""
        self.gate.buffered -= self.held
        self.held = 0

    async def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> int:
        """Sends JSON. Where a refused body is still coming, the answer goes first and the body is taken in after it."""
        raw = heading(content, self.model, headers)
        lingering = self.pending
        if lingering:
            raw.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        if self.scope["method"] == "HEAD":
            content = b""
        await self.send({"type": "http.response.body", "body": content, "more_body": lingering})
        self.status, self.finished = status, time.perf_counter()
        if lingering:
            await self.take_in(LINGER_SECONDS)
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        return status

    async def take_in(self, seconds: float) -> None:
        """Takes in the rest of a refused body, within reason.

        A connection that is closed on a client which still sends is reset, and the answer lost with it (RFC 9112 9.6).
        """
        left = 2 * max(self.limit, self.gate.settings.max_bytes)
        try:
            async with asyncio.timeout(seconds):
                while left > 0:
                    message = await self.receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        self.pending = False
                        return
        except TimeoutError:
            return

    async def refuse(self, refusal: Refusal) -> int:
        """Sends an error in the shape that all errors have. What is left of the body is waited for without a place."""
        self.leave()
        self.gate.telemetry.error(refusal.code)
        small = 0 < self.declared <= SMALL_BODY
        if self.pending and small and refusal.status != 408 and b"expect" not in self.headers:
            await self.take_in(SMALL_BODY_SECONDS)  # it is here already, or as good as: the connection can be kept
        return await self.answer(refusal.status, refusal.json().encode(), refusal.headers)
