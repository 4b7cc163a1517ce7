"""The short way says what the ordinary one says, byte for byte, and leaves to it whatever is not in order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import Mock

import numpy as np
import prometheus_client
import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from digits import connection as connection_module
from digits import express as express_module
from digits.batching import Batching
from digits.classifier import CLASSES, Classifier
from digits.connection import Connection
from digits.express import Express
from digits.front import Front, Scored
from digits.settings import Settings
from digits.telemetry import Telemetry
from tests.models import tiny_model
from tests.serving import form, metrics_client, pictures, png
from tests.test_front import Model

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
KIND = b"Content-Type: image/png\r\n"


def posted(picture: bytes, *lines: bytes, head: bytes = HEAD + KIND) -> bytes:
    extra = b"".join(line + b"\r\n" for line in lines)
    return b"%s%sContent-Length: %d\r\n\r\n%s" % (head, extra, len(picture), picture)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head waits for its body however busy the machine is."""
    monkeypatch.setattr(connection_module, "OPENING_SECONDS", 60)


class Inside:
    """The connections and the front in this process, with a model whose calls can be held."""

    def __init__(self, **settings: Any) -> None:
        self.model = Model(Classifier(tiny_model()))
        self.registry = prometheus_client.CollectorRegistry()
        telemetry = Telemetry(metrics_client(self.registry), "digits", "digits", "1")
        self.front = Front(
            self.behind, self.infer, lambda: self.model, Settings(**settings), telemetry, frozenset({"/livez"})
        )
        self.queue = Batching(self.score, 64)
        self.express = Express(self.front, self.queue.put, self.scored)
        self.ordinary = 0  # requests that went the ordinary way
        self.going, self.fault = asyncio.Event(), False
        self.going.set()
        self.scored_at_once: list[int] = []
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today"), (b"server", b"uvicorn")]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.ordinary += 1
        await self.front(scope, receive, send)

    async def behind(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def score(self, images: np.ndarray) -> np.ndarray:
        self.scored_at_once.append(len(images))
        await self.going.wait()
        if self.fault:
            raise RuntimeError("secret detail")
        probabilities, digitness = self.model.classifier.scores(images)
        return np.concatenate([probabilities, digitness[:, None]], axis=1)

    def scored(self, rows: np.ndarray) -> Scored:
        return rows[:, :CLASSES], rows[:, CLASSES], self.model

    async def infer(self, images: np.ndarray) -> Scored:
        return self.scored(await self.queue(images))

    def count(self, status: int) -> float:
        """Requests for /predict that the metrics know with this status."""
        self.front.telemetry.flush()
        labels = dict(zip(("endpoint", "service_name", "service_version"), ("/predict", "digits", "1"), strict=True))
        found = self.registry.get_sample_value(
            "bentoml_service_request_total", {**labels, "http_response_code": str(status), "runner_name": "digits"}
        )
        return found or 0.0


class Link:
    """A client's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length
        body = await self.reader.readexactly(int(length[1]))
        return int(head.split()[1]), head, body

    async def ask(self, *parts: bytes) -> tuple[int, bytes, bytes]:
        for part in parts:
            self.writer.write(part)
            await asyncio.sleep(0.02)
        return await self.answer()

    def break_off(self) -> None:
        """Ends the connection at once, with a reset."""
        socket_of = self.writer.get_extra_info("socket")
        socket_of.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def ended(self) -> bool:
        with suppress(ConnectionError):
            return await self.reader.read(1) == b""
        return True


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[Inside, Callable[[], Awaitable[Link]]]]:
    inside = Inside(**settings)
    kind = type("Here", (Connection,), {"settings": inside.front.settings, "express": inside.express})
    config = uvicorn.Config(inside, log_config=None)
    config.load()
    loop, links = asyncio.get_running_loop(), []
    server = await loop.create_server(lambda: kind(config, inside.state, {}), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def connect() -> Link:
        links.append(Link(*await asyncio.open_connection("127.0.0.1", port)))
        return links[-1]

    try:
        yield inside, connect
    finally:
        server.close()
        for link in links:
            link.writer.close()
        inside.going.set()
        async with asyncio.timeout(60):
            await until(lambda: not inside.state.connections)
        assert (inside.front.gate.in_progress, inside.front.gate.buffered) == (0, 0)


async def until(check: Callable[[], bool]) -> None:
    while not check():
        await asyncio.sleep(0.005)


def run(work: Callable[..., Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        async with serving(**settings) as (inside, connect):
            await asyncio.wait_for(work(inside, connect), 60)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


async def acquainted(inside: Inside, connect: Callable[[], Awaitable[Link]], request: bytes) -> Link:
    """A connection on which this has been asked before."""
    link = await connect()
    assert (await link.ask(request))[0] == 200
    inside.ordinary = 0
    return link


async def held(inside: Inside, connect: Callable[[], Awaitable[Link]]) -> tuple[Link, Connection]:
    """A request on its short way that waits for the model: the client's end and the server's."""
    link = await acquainted(inside, connect, posted(png()))
    inside.going.clear()
    link.writer.write(posted(png()))
    await until(lambda: inside.front.gate.in_progress == 1)
    (connection,) = inside.state.connections
    return link, connection


@pytest.mark.parametrize("lines", [(), (b"X-Digits-Explain: 1",)], ids=["plain", "explained"])
def test_it_answers_as_the_ordinary_way_does_to_the_last_byte(lines: tuple[bytes, ...]) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await connect()
        for picture in pictures(12):
            first, again = [await link.ask(posted(picture, *lines)) for _ in range(2)]
            timeless = [re.sub(rb'("milliseconds": )\d+\.\d\d', rb"\1", body) for _, _, body in (first, again)]
            assert first[0] == again[0] == 200
            assert timeless[0] == timeless[1]
            heads = [re.sub(rb"length: \d+", b"length", head) for _, head, _ in (first, again)]
            assert heads[0] == heads[1]
            assert (b'"seen"' in again[2]) == bool(lines)
        assert inside.ordinary == len({len(picture) for picture in pictures(12)}), "one for each length"
        assert inside.count(200) == 24

    run(work)


def test_it_takes_one_call_of_the_model_and_no_task_a_request() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        others = [await connect() for _ in range(9)]
        made: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, work, **more: made.append(work) or asyncio.Task(work, loop=loop, **more))
        inside.scored_at_once.clear()
        inside.going.clear()
        link.writer.write(posted(png()))
        await until(lambda: inside.scored_at_once == [1])
        for one in others:
            one.writer.write(posted(png()))
        await until(lambda: inside.front.gate.in_progress == 10)
        inside.going.set()
        assert {(await one.answer())[0] for one in (link, *others)} == {200}
        assert inside.scored_at_once == [1, 9]
        assert [work.__qualname__ for work in made] == ["Batching._work"]
        assert inside.ordinary == 0

    run(work)


BROKEN = png()[:-20]
CHUNKED = HEAD + KIND + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(png()), png())
FORM = form([("image", png())])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(posted(png(), b"X-Other: 1"), 200, id="another head"),
        pytest.param(posted(BROKEN.ljust(len(png()), b"\0")), 400, id="a damaged picture"),
        pytest.param(posted(b"x" * len(png())), 400, id="no picture"),
        pytest.param(posted(png(), head=HEAD.replace(b"/predict", b"/nowhere") + KIND), 404, id="another path"),
        pytest.param(posted(png(), head=HEAD + b"Content-Type: text/plain\r\n"), 415, id="another type"),
        pytest.param(
            posted(FORM[0], head=HEAD + f"Content-Type: {FORM[1]['Content-Type']}\r\n".encode()), 200, id="a form"
        ),
        pytest.param(posted(png(size=(300, 300))), 200, id="a larger picture"),
        pytest.param(posted(png(), b"Content-Encoding: gzip"), 415, id="packed"),
        pytest.param(posted(png(), b"Host: y"), 400, id="two hosts"),
        pytest.param(CHUNKED, 200, id="chunks"),
    ],
)
def test_whatever_else_comes_is_answered_the_ordinary_way_each_time(request_: bytes, status: int) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        await acquainted(inside, connect, posted(png()))
        seen = []
        for _ in range(2):
            link = await connect()
            seen.append((await link.ask(request_))[0])
        assert seen == [status] * 2
        short = request_ == posted(png(), b"X-Other: 1")  # is known from then on
        refused = request_ == posted(png(), b"Host: y")  # is no HTTP, and reaches no application
        assert inside.ordinary == (1 if short else 0 if refused else 2)

    run(work)


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"access_log": "all"}, ()),
        ({"cors_origins": ("https://example.org",)}, (b"Origin: https://example.org",)),
        ({}, (b"Connection: close",)),
        ({}, (b"X-Long: " + b"x" * express_module.HEAD_BYTES,)),
    ],
    ids=["all is logged", "another origin", "the last request", "a long head"],
)
def test_what_needs_more_than_an_answer_never_goes_the_short_way(
    settings: dict[str, Any], lines: tuple[bytes, ...]
) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        for _ in range(3):
            assert (await (await connect()).ask(posted(png(), *lines)))[0] == 200
        assert inside.ordinary == 3

    run(work, **settings)


def test_a_key_is_asked_for_and_what_came_with_it_is_known_with_it_only() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        key = b"X-API-Key: secret"
        assert [(await (await connect()).ask(posted(png(), *lines)))[0] for lines in ((), (), (key,), (key,), ())] == [
            401,
            401,
            200,
            200,
            401,
        ]
        assert inside.ordinary == 4

    run(work, api_key="secret")


def test_few_heads_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express_module, "HEADS", 4)

    async def work(inside: Inside, connect: Any) -> None:
        link = await connect()
        for number in range(25):
            assert (await link.ask(posted(png(), b"X-Number: %d" % number)))[0] == 200
            assert 1 <= len(inside.express.heads) <= 4

    run(work)


@pytest.mark.parametrize("cut", [0, 1, 40], ids=["head and body", "a byte first", "in the middle"])
@pytest.mark.usefixtures("patient")
def test_a_body_may_come_by_itself_or_in_pieces(cut: int) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        whole = posted(png())
        body = len(whole) - len(png())
        parts = filter(None, (whole[:body], whole[body : body + cut], whole[body + cut :]))
        status, _, content = await link.ask(*parts)
        assert status == 200
        assert "digit" in json.loads(content)
        if not cut:
            assert inside.ordinary == 0

    run(work)


@pytest.mark.parametrize("first", [True, False], ids=["first on its connection", "after an answer"])
def test_a_body_that_never_comes_is_408(first: bool) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        link = await connect() if first else link
        whole = posted(png())
        status, head, _ = await link.ask(whole[: len(whole) - len(png())])
        assert status == 408
        assert b"connection: close" in head
        assert await link.ended()

    run(work, idle_seconds=1.0, timeout=1.0)


def test_what_comes_behind_an_errand_is_answered_after_it_and_in_order() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        asked = [posted(picture, b"X-Digits-Explain: 1") for picture in pictures(4)]
        link = await acquainted(inside, connect, asked[0])
        expected = [json.loads((await link.ask(request))[2])["seen"] for request in asked]
        assert len(set(expected)) == 4
        inside.going.clear()
        for request in asked:
            link.writer.write(request)
            await asyncio.sleep(0.02)
        link.writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.05)
        inside.going.set()
        assert [json.loads((await link.answer())[2])["seen"] for _ in asked] == expected
        assert (await link.answer())[0] == 200
        assert json.loads((await link.ask(asked[0]))[2])["seen"] == expected[0]

    run(work)


def test_an_answer_that_nobody_waits_for_is_not_worked_out() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        staying = await connect()
        inside.scored_at_once.clear()
        inside.going.clear()
        for number, one in enumerate((staying, link), 1):
            one.writer.write(posted(png()))
            await until(lambda number=number: inside.front.gate.in_progress == number and inside.scored_at_once)
        link.break_off()
        await until(lambda: inside.front.gate.in_progress == 1)
        inside.going.set()
        assert (await staying.answer())[0] == 200
        assert inside.scored_at_once == [1]
        assert (inside.count(200), inside.count(499)) == (2, 1)

    run(work)


def test_an_errand_has_the_time_limit_of_all_requests() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        inside.going.clear()
        status, _, body = await link.ask(posted(png()))
        assert (status, json.loads(body)["error"]["code"]) == (504, "timeout")
        inside.going.set()
        assert (await link.ask(posted(png())))[0] == 200
        assert inside.count(504) == 1

    run(work, timeout=1.0)


def test_a_fault_of_the_model_is_500_and_tells_nothing_of_it() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        inside.fault = True
        status, _, body = await link.ask(posted(png()))
        assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")
        assert b"secret" not in body
        inside.fault = False
        assert (await link.ask(posted(png())))[0] == 200

    run(work)


def test_where_there_is_no_room_the_refusal_is_the_ordinary_one() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        await acquainted(inside, connect, posted(png()))
        inside.going.clear()
        links = [await connect() for _ in range(3)]
        for number, link in enumerate(links[:2], 1):
            link.writer.write(posted(png()))
            await until(lambda number=number: inside.front.gate.in_progress == number)
        status, head, body = await links[2].ask(posted(png()))
        assert (status, json.loads(body)["error"]["code"]) == (503, "busy")
        assert b"retry-after: 1" in head
        inside.going.set()
        assert {(await link.answer())[0] for link in links[:2]} == {200}

    run(work, max_concurrency=2)


def test_a_connection_that_is_made_when_nothing_more_is_taken_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Connection.connection_made

    def late(self: Connection, transport: Any) -> None:
        self.listener = Mock(closed=True)
        real(self, transport)

    async def work(inside: Inside, connect: Any) -> None:
        monkeypatch.setattr(Connection, "connection_made", late)
        link, idle = await connect(), await connect()
        status, head, _ = await link.ask(posted(png()))
        assert (status, b"connection: close" in head) == (200, True)
        assert await link.ended()
        assert await idle.ended()

    run(work)


def test_a_request_that_has_arrived_when_the_server_ends_is_answered_and_those_at_rest_are_closed() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link, idle = await acquainted(inside, connect, posted(png())), await connect()
        await until(lambda: len(inside.state.connections) == 2)
        os.write(link.writer.get_extra_info("socket").fileno(), posted(png()))  # there, and nobody has looked yet
        for connection in list(inside.state.connections):
            connection.shutdown()
        status, head, _ = await link.answer()
        assert (status, b"connection: close" in head) == (200, True)
        assert await link.ended()
        assert await idle.ended()

    run(work)


def test_a_connection_is_closed_when_it_has_rested_and_not_while_it_waits_for_the_model() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        inside.going.clear()
        link.writer.write(posted(png()))
        await asyncio.sleep(2)
        assert not link.reader.at_eof()
        inside.going.set()
        assert (await link.answer())[0] == 200
        assert await link.ended()

    run(work, idle_seconds=0.8)


@pytest.mark.parametrize("way", ["the server", "the client"])
def test_whoever_ends_a_connection_the_answer_under_way_comes_first(way: str) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link, connection = await held(inside, connect)
        if way == "the server":
            connection.shutdown()
        else:
            link.writer.write_eof()
            await until(lambda: connection.leaving)
        inside.going.set()
        status, head, _ = await link.answer()
        assert status == 200
        assert b"connection: close" in head
        assert await link.ended()

    run(work)


@pytest.mark.usefixtures("patient")
def test_a_head_alone_is_a_request_under_way_for_a_server_that_ends() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        whole = posted(png())
        (connection,) = inside.state.connections
        link.writer.write(whole[: len(whole) - len(png())])
        await until(lambda: connection.opening)
        connection.shutdown()
        status, head, _ = await link.ask(png())
        assert status == 200
        assert b"connection: close" in head

    run(work)


def test_only_what_was_asked_and_admitted_by_itself_is_known_afterwards() -> None:
    """A head with the admission of the request behind it would be a way past the key."""

    async def work(inside: Inside, connect: Any) -> None:
        wrong = posted(b"nothing", head=HEAD + b"Content-Type: text/plain\r\n")
        head = wrong[: -len(b"nothing")]
        picture = png(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
        right = posted(picture, b"X-API-Key: secret")
        # Behind the first head comes as much as the second one says.
        cut = len(b"nothing") + len(right) - len(picture)
        for missing in (cut - 1, cut, cut + 1, len(picture), 0):
            link = await connect()
            link.writer.write(wrong + right[: len(right) - missing])
            assert (await link.answer())[0] == 401
            link.writer.write(right[len(right) - missing :])
            assert (await link.answer())[0] == 200
            assert head not in inside.express.heads

    run(work, api_key="secret")


@pytest.mark.parametrize("lines", [b"", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"], ids=["plain", "another protocol"])
def test_the_body_of_a_request_that_has_its_answer_is_no_request(lines: bytes) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        hidden = posted(png())
        asked = b"GET /livez HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (lines, 2 * len(hidden))
        link.writer.write(asked)
        assert (await link.answer())[0] == 200
        for part in (hidden, hidden[:-40], hidden[-40:]):
            link.writer.write(part)
            await asyncio.sleep(0.05)
        assert (inside.count(200), inside.ordinary) == (1, 1)
        status, _, body = await link.ask(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")

    run(work)


def test_what_goes_wrong_at_the_end_of_one_errand_is_no_trouble_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        await acquainted(inside, connect, posted(png()))
        telemetry = inside.front.telemetry
        links = [await connect() for _ in range(4)]
        inside.going.clear()
        for number, link in enumerate(links, 1):
            link.writer.write(posted(png()))
            await until(lambda number=number: inside.front.gate.in_progress == number)
        faults = iter([RuntimeError("once")])
        real = telemetry.request

        def counted(*given: Any) -> None:
            for fault in faults:
                raise fault
            real(*given)

        monkeypatch.setattr(telemetry, "request", counted)
        inside.going.set()
        assert [(await link.answer())[0] for link in links] == [200] * 4

    run(work)


def test_each_errand_has_its_time_limit_whatever_the_end_of_another_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        await acquainted(inside, connect, posted(png()))
        links = [await connect() for _ in range(3)]
        faults = iter([RuntimeError("once")])
        real = inside.front.telemetry.error

        def counted(*given: Any) -> None:
            for fault in faults:
                raise fault
            real(*given)

        monkeypatch.setattr(inside.front.telemetry, "error", counted)
        inside.going.clear()
        for link in links:
            link.writer.write(posted(png()))
        assert [(await link.answer())[0] for link in links] == [504] * 3

    run(work, timeout=1.0)


def test_errors_are_logged_as_those_of_the_ordinary_way(caplog: pytest.LogCaptureFixture) -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        inside.fault = True
        with caplog.at_level("INFO", "bentoml.digits"):
            for request in (posted(png()), posted(png(), b"X-Other: 1")):
                assert (await link.ask(request))[0] == 500
        lines = [record.message for record in caplog.records if record.levelname == "INFO"]
        assert len(lines) == 2
        assert all(re.fullmatch(r"127\.0\.0\.1 POST /predict 500 \d+\.\d ms", line) for line in lines)

    run(work)


@pytest.mark.usefixtures("patient")
def test_a_client_that_breaks_off_after_a_head_leaves_nothing_behind() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link = await acquainted(inside, connect, posted(png()))
        failed: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        assert (await link.ask(posted(png())))[0] == 200
        (connection,) = inside.state.connections
        link.writer.write(posted(png())[: -len(png())])
        await until(lambda: connection.opening)
        link.break_off()
        await until(lambda: not inside.state.connections)
        await asyncio.sleep(1)
        assert failed == []

    run(work, idle_seconds=0.5)


def test_a_server_that_ends_does_not_wait_for_an_end_of_line() -> None:
    async def work(inside: Inside, connect: Any) -> None:
        link, connection = await held(inside, connect)
        link.writer.write(b"\r\n")
        await until(lambda: connection.behind)
        connection.shutdown()
        inside.going.set()
        assert (await link.answer())[0] == 200
        assert await link.ended()

    run(work, idle_seconds=3600)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["other ends of lines", "as they should be"])
def test_a_head_ends_where_the_parser_says(end: bytes) -> None:
    """Should a parser let lines end with LF alone, what is taken for a head must not have a body in it."""

    async def work(inside: Inside, _: Any) -> None:
        body = b"x" * 40 + b"\r\n\r\n"
        lines = [b"POST /predict HTTP/1.1", b"Host: x", b"Content-Type: image/png", b"Content-Length: %d" % len(body)]
        headers = [tuple(line.lower().split(b": ", 1)) for line in lines[1:]]
        scope = {"path": "/predict", "method": "POST", "query_string": b"", "headers": headers}
        inside.express.learn(end.join([*lines, b"", body]), scope)
        assert list(inside.express.heads) == ([] if end == b"\n" else [end.join([*lines, b"", b""])])

    run(work)


def test_work_is_given_up_with_its_client_though_the_answer_before_it_ended_late() -> None:
    """As that of a file does, which is closed after its last byte."""

    async def work(inside: Inside, connect: Callable[[], Awaitable[Link]]) -> None:
        ended = asyncio.Event()

        async def late(_scope: Any, _receive: Any, send: Any) -> None:
            await Inside.behind(inside, _scope, _receive, send)
            await asyncio.sleep(0.05)
            ended.set()

        inside.front.behind = late
        inside.going.clear()
        link = await connect()
        link.writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + posted(png()))
        await until(lambda: inside.front.gate.in_progress == 1)
        await ended.wait()
        await asyncio.sleep(0)
        link.break_off()
        async with asyncio.timeout(10):  # a third of the time limit, which would end it, too
            await until(lambda: inside.front.gate.in_progress == 0)

    run(work)
