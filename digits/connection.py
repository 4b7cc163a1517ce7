"""One connection of the HTTP server: uvicorn's, with an end to waiting for a client that sends or reads nothing.

uvicorn closes a connection that rests after an answer. It waits for ever on one that never asks, that sends its headers
a byte at a time, or that does not read its answer, and it takes in any number of them (Slowloris and its kin), and
headers of any length.
"""

from __future__ import annotations

import asyncio
import re
import resource
from collections.abc import Sized
from typing import Any, cast

import httptools
import uvicorn.config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from digits.exchange import GONE, App, Receive, Scope, Send, heading
from digits.express import Errand, Express
from digits.listener import Listener, Shares
from digits.requests import Refusal, busy
from digits.settings import Settings

FAREWELL_SECONDS = 5.0  # for the answers to a client that sends no more
PARTING_SECONDS = 1.0  # for a client that still sends to read why it is not listened to
LEAVING_SECONDS = 0.1  # that a connection at rest is left for what may have come before the server's end was told
SLOWEST = 1_024  # bytes a second that a client has to read of an answer that waits for it
OPENING_SECONDS = 0.2  # that a known head waits for its body before it is taken for a request like others
HOST = re.compile(rb"[^\s/?#@]*")
HEAD_BYTES = 65_536  # of a request's line and headers; those that browsers and proxies send have a few thousand
MOST_HEADERS = 200  # of a request: each takes far more memory than it has bytes
MOST_AHEAD = 64  # requests that a client may have sent before it has the answer to the one before them


def malformed() -> Refusal:
    return Refusal(400, "malformed_request", "this is not HTTP/1.1 as RFC 9112 has it")


def head_too_large() -> Refusal:
    return Refusal(
        431,
        "headers_too_large",
        f"the request's line and headers are longer than {HEAD_BYTES:,} bytes, or these are more than {MOST_HEADERS}",
    )


class OneWrite:
    """A transport on which an answer's head waits for its body, at most until the loop's next turn.

    uvicorn writes them one after the other, and uvloop writes at once: two system calls for an answer, each of which
    wakes the client.
    """

    def __init__(self, transport: asyncio.Transport, idle_seconds: float) -> None:
        self.transport, self.idle_seconds = transport, idle_seconds
        self.loop = asyncio.get_running_loop()
        self.head: bytes | None = None
        self.watch: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.head is None:
            self.head = bytes(data)
            self.loop.call_soon(self.flush)
        else:
            head, self.head = self.head, None
            self.transport.write(head + data)

    def write_whole(self, data: bytes) -> None:
        """Writes an answer that is all there."""
        self.flush()
        self.transport.write(data)

    def flush(self) -> None:
        """Writes a head that is still waiting."""
        if self.head is not None:
            head, self.head = self.head, None
            self.transport.write(head)

    def close(self) -> None:
        """After what is written, if the client takes it in time."""
        try:
            self.flush()
        finally:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self.expect_reading()

    def expect_reading(self) -> None:
        """From now on a client that reads nothing, or next to nothing, is waited for no longer."""
        self.expect_nothing()
        left = self.transport.get_write_buffer_size()

        def look() -> None:
            if left - self.transport.get_write_buffer_size() < SLOWEST * self.idle_seconds:
                self.transport.abort()
            else:
                self.expect_reading()

        self.watch = self.loop.call_later(self.idle_seconds, look)

    def expect_nothing(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None


class Flow(FlowControl):
    """Reads nothing while requests wait for their turn: what they are is in memory."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self.waiting = waiting

    def resume_reading(self) -> None:
        if not self.waiting:
            super().resume_reading()


class Enough(Exception):
    """There are as many requests ahead as there may be."""


class Connection(HttpToolsProtocol):
    """Ends itself where `idle_seconds` pass without a whole head of a request, or without room for an answer.

    While a request is being worked on, its body included, Exchange has the clock.
    """

    settings = Settings()
    express: Express  # of the worker

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self.settings.idle_seconds  # type: ignore[assignment]
        self.ws_protocol_class = None  # no route is a WebSocket
        self.access_log = False  # digits.front has its own
        self.shares: Shares | None = None
        self.listener: Listener | None = None
        self.waiting: asyncio.TimerHandle | None = None
        self.ending: asyncio.TimerHandle | None = None
        self.overtime: asyncio.TimerHandle | None = None  # of a server that ends
        self.in_head = self.in_message = False
        self.begun = 0  # messages
        self.fruitless = 0  # bytes since the last of a body or the end of a head
        self.deaf = False  # what comes is not looked at any more
        self.last_words: Refusal | None = None  # to be said after the answers that are under way
        self.errand: Errand | None = None  # what is being worked on where it goes the short way,
        self.opening = b""  # a known head whose body is still to come,
        self.holding: asyncio.TimerHandle | None = None  # for that long,
        self.behind: list[bytes] = []  # what came meanwhile,
        self.rested = 0.0  # and when the last one ended, by the loop's clock
        self.leaving = False  # what is being worked on is the last
        self.work: asyncio.Task[Any] | None = None  # on the request whose turn it is,
        self.turn: RequestResponseCycle | None = None  # which is this; `cycle` is the newest
        self.app = cast(Any, self.attended(cast(App, self.app)))

    def attended(self, app: App) -> App:
        """The application, with a handle on what it does, to end it when nobody waits for that any more."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            mine = self.work = asyncio.current_task()
            self.turn = cast(Any, receive).__self__
            try:
                await app(scope, receive, send)
            finally:
                if self.work is mine:  # the next may have begun with the last byte of this answer
                    self.work = self.turn = None

        return watched

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, OneWrite(transport, self.settings.idle_seconds)))
        self.flow = Flow(self.transport, self.pipeline)
        if len(self.connections) > self.settings.max_connections:
            self.refuse(busy("there are too many connections; try again in a second"))
            return
        if self.listener is not None and self.listener.closed:  # taken before, and too late to be told
            self.leave()
        self.waiting = self.loop.call_later(
            LEAVING_SECONDS if self.leaving else self.settings.idle_seconds, self.waited
        )

    def connection_lost(self, exc: Exception | None) -> None:
        cast(OneWrite, self.transport).expect_nothing()
        for timer in (self.waiting, self.ending, self.overtime, self.holding, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        if self.shares is not None:
            self.shares.add(-1)
        self.behind.clear()
        if self.errand is not None:
            self.errand.abandon()
            self.errand = None
        if self.work is not None and self.turn is not None:
            self.turn.disconnected = True
            self.work.cancel(GONE)
        super().connection_lost(exc)
        self.app = cast(Any, None)  # it holds this connection, which would wait for the garbage collector

    def on_message_begin(self) -> None:
        self.in_head = self.in_message = True
        self.begun += 1
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # or it is a trailer, which must not pass for a header (RFC 9110 6.5.1)
            if len(self.headers) == MOST_HEADERS:
                raise head_too_large()
            super().on_header(name, value.rstrip(b" \t"))  # blanks are no part of it (RFC 9110 5.5)

    def on_headers_complete(self) -> None:
        self.in_head = False
        if len(self.pipeline) >= MOST_AHEAD:
            raise Enough
        if self.fruitless > HEAD_BYTES and sum(len(k) + len(v) for k, v in self.headers) + len(self.url) > HEAD_BYTES:
            raise head_too_large()
        self.fruitless = 0
        self.check_head()
        if self.url.lower().startswith((b"http://", b"https://")):  # a proxy's form, whose path may be empty
            parts = httptools.parse_url(self.url)
            self.url = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def check_head(self) -> None:
        """What httptools lets pass and RFC 9112 does not: 2.3, 3.2 and 6.1. Raises Refusal."""
        version = self.parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if version == "1.0":
            self.expect_100_continue = False
        elif version != "1.1" or not hosts:
            raise malformed()
        if len(hosts) > 1 or codings not in ([], [b"chunked"]) or not all(map(HOST.fullmatch, hosts)):
            raise malformed()

    def on_body(self, body: bytes) -> None:
        self.fruitless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        if not self.parser.should_upgrade():
            if not self.parser.should_keep_alive():  # a trailer may say so, and nothing more is parsed then
                self.cycle.keep_alive = False
            super().on_message_complete()
            self.flow.resume_reading()  # a large body has stopped it, and the end of the connection would not be seen

    def data_received(self, data: bytes) -> None:
        if self.deaf or self.transport.is_closing():
            return
        if self.is_on_errand():
            self.behind.append(data)
            self.flow.pause_reading()
            return
        # In a message it is the body of a request that has had its answer.
        between = self.is_resting() and not self.in_message
        opening = self.take_opening()
        data = opening + data
        if between and not self.leaving and not self.flow.write_paused:
            if not opening and self.express.knows(data):
                self.opening = data  # many clients send the body by itself
                self.holding = self.loop.call_later(OPENING_SECONDS, self.give_up_short_way)
                return
            self.errand = self.express.take(data, self)
        if self.errand is None:
            begun = self.begun
            self.take_apart(data)
            if self.deaf:
                return
            alone = between and self.begun == begun + 1  # all that has come is of one request
            if alone and not self.in_head and not self.is_resting() and self.cycle.keep_alive:
                self.express.learn(data, cast(Scope, self.cycle.scope))
        if self.errand is None and (self.in_head or self.is_resting()):
            if self.waiting is None:  # more bytes buy no more time
                self.waiting = self.loop.call_later(self.settings.idle_seconds, self.waited)
        elif self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def take_opening(self) -> bytes:
        """The head that waits for its body, which it does no longer; nothing where there is none."""
        if self.holding is not None:
            self.holding.cancel()
            self.holding = None
        opening, self.opening = self.opening, b""
        return opening

    def give_up_short_way(self) -> None:
        """A head whose body has not followed is a request like others."""
        if opening := self.take_opening():
            self.take_apart(opening)

    def take_apart(self, data: bytes) -> None:
        """Parses what has come, and refuses what is no HTTP."""
        self._unset_keepalive_if_required()
        self.fruitless += len(data)
        try:
            self.feed(data)
            if self.fruitless > HEAD_BYTES and (self.in_head or not self.is_resting()):
                raise head_too_large()
        except (httptools.HttpParserError, Refusal) as error:
            cause = error if isinstance(error, Refusal) else error.__context__  # what was raised while it parsed
            if isinstance(cause, Enough):  # the others are answered, then the client may ask again
                self.deaf = True
                self.cycle.keep_alive = False
            else:
                self.refuse(cause if isinstance(cause, Refusal) else malformed())
        if self.leaving and not self.is_resting():
            self.cycle.keep_alive = False

    def feed(self, data: bytes) -> None:
        """Parses what has come. An offer to speak another protocol is passed over, as RFC 9110 7.8 allows.

        The parser stops behind the head of a request that makes one (Java's HTTP client offers HTTP/2 with the first
        of its requests): another takes over, from the same head without the offer.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                method = self.parser.get_method()
                if method == b"CONNECT":  # its target is no path
                    raise malformed() from None
                lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
                lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
                data = b"\r\n".join([*lines, b"", b""]) + data[offer.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client may say that it sends no more and wait for its answer: whether there is one to wait for.

        One that has closed its end altogether says just the same, and is not worked for longer than a little while.
        """
        self.give_up_short_way()
        errand = self.is_on_errand()
        whole = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        waits = errand or whole or self.last_words is not None
        if waits:
            self.leaving = True
            if not errand:
                self.cycle.keep_alive = False
            self.ending = self.ending or self.loop.call_later(FAREWELL_SECONDS, self.transport.abort)
        else:
            self.transport.close()  # uvloop's own way waits for ever for a client that does not read
        return waits

    def is_resting(self) -> bool:
        """Whether no request is being worked on."""
        return self.errand is None and (self.cycle is None or self.cycle.response_complete)

    def is_on_errand(self) -> bool:
        """Whether a request goes the short way, or what came behind it is still to be looked at."""
        return self.errand is not None or bool(self.behind)

    def deliver(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        """The answer to the errand; what has come behind it is next."""
        self.errand = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        ends = self.leaving and not self.behind
        cast(OneWrite, self.transport).write_whole(self.whole(status, headers, content, ends))
        if ends:
            self.transport.close()
        elif self.behind:
            self.loop.call_soon(self.catch_up)
        else:
            self.rested = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self.rest(self.timeout_keep_alive)

    def whole(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes, ends: bool) -> bytes:
        """An answer as it goes over the wire; one that `ends` the connection says so."""
        lines = [b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        lines += [b"connection: close\r\n"] if ends else []
        return b"".join([STATUS_LINE[status], *lines, b"\r\n", content])

    def catch_up(self) -> None:
        """Goes on with what has come behind an errand."""
        data = b"".join(self.behind)
        self.behind.clear()
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.data_received(data)
            if self.leaving and self.is_resting():
                self.transport.close()

    def rest(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Errands leave the timer as it is, which looks here what there has been since it was set."""
        left = self.rested + self.timeout_keep_alive - self.loop.time()
        if self.is_on_errand() or self.opening:
            self.rest(self.timeout_keep_alive)
        elif left > 0:
            self.rest(left)
        else:
            super().timeout_keep_alive_handler()

    def leave(self) -> None:
        """The server ends, and a client that reads slowly enough would hold it for minutes."""
        self.leaving = True
        self.overtime = self.overtime or self.loop.call_later(
            self.settings.timeout + FAREWELL_SECONDS, self.transport.abort
        )

    def shutdown(self) -> None:
        """What is being worked on, or has come and was not read yet, is the last."""
        self.leave()
        self.give_up_short_way()
        if self.is_on_errand():
            return
        if not self.is_resting():
            self.cycle.keep_alive = False
        else:  # closed at once, a request that has arrived would be lost, and the client told by a reset
            if self.waiting is not None:
                self.waiting.cancel()
            self.waiting = self.loop.call_later(LEAVING_SECONDS, self.waited)

    def waited(self) -> None:
        """The time for a head is over."""
        self.waiting = None
        if not self.is_resting():  # the head of the next request: the answer under way goes first
            self.waiting = self.loop.call_later(self.settings.idle_seconds, self.waited)
        elif self.in_head and not self.leaving:
            seconds = f"{self.settings.idle_seconds:g}"
            self.refuse(Refusal(408, "request_timeout", f"the headers took longer than {seconds} s"))
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered: its buffers are full, and ours."""
        super().pause_writing()
        cast(OneWrite, self.transport).expect_reading()

    def resume_writing(self) -> None:
        if not self.transport.is_closing():  # or there is still something to be read
            cast(OneWrite, self.transport).expect_nothing()
        super().resume_writing()

    def on_response_complete(self) -> None:
        if self.last_words is not None and not self.pipeline and not self.transport.is_closing():
            self.say(self.last_words)
        super().on_response_complete()

    def refuse(self, refusal: Refusal) -> None:
        """The last words on a connection, in the shape that all errors have.

        They are the answer to a request that has not come to its end; whole ones before it are answered first.
        """
        self.deaf = True
        if self.is_resting():
            self.say(refusal)
        elif not self.cycle.more_body:
            self.last_words = refusal
        elif self.pipeline:
            self.pipeline.popleft()
            self.last_words = refusal
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self.say(refusal)

    def say(self, refusal: Refusal) -> None:
        """Tells the client, and nothing else after it, whatever a request that is under way has to say."""
        self.express.front.telemetry.error(refusal.code)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
        content = refusal.json().encode()
        self.transport.write(self.whole(refusal.status, heading(content, "", refusal.headers), content, ends=True))
        self.part()

    def part(self) -> None:
        """Ends the connection so that a client that still sends can read what was said (RFC 9112 9.6)."""
        self.deaf = True
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        if self.transport.can_write_eof() and len(self.connections) <= 2 * self.settings.max_connections:
            cast(OneWrite, self.transport).flush()
            self.transport.write_eof()
            self.ending = self.ending or self.loop.call_later(PARTING_SECONDS, self.transport.close)
        else:
            self.transport.close()


def install(express: Express) -> None:
    """Makes uvicorn make connections of this kind, and have as many files as the system lets it."""
    Connection.settings, Connection.express = express.front.settings, express
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
