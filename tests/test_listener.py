"""Who takes the next connection, and that nobody is left waiting."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from digits import listener
from digits.listener import SLACK, Listener, Shares

Run = Callable[[Coroutine[Any, Any, None]], None]
COUNT = 40
PATIENCE = 20  # seconds until something counts as stuck; no test measures time


class Greeting(asyncio.Protocol):
    """Says its worker's place and keeps the connection."""

    shares: Shares

    def connection_made(self, transport: Any) -> None:
        transport.write(bytes([self.shares.mine]))

    def connection_lost(self, _: Exception | None) -> None:
        self.shares.add(-1)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield server


@asynccontextmanager
async def working(at: socket.socket, *shares: Shares) -> AsyncGenerator[list[Listener]]:
    """A worker with each of these shares; at the end all are closed, and nobody has a connection left."""
    with ExitStack() as sockets:
        own = [sockets.enter_context(at.dup()) for _ in shares]
        workers = [Listener(one, Greeting, share, COUNT) for one, share in zip(own, shares, strict=True)]
        yield workers
        for worker in workers:
            worker.close()
            await worker.wait_closed()
        while any(share.counts[share.mine] > 1 for share in shares):
            await asyncio.sleep(0.01)


async def connect(links: ExitStack, at: socket.socket) -> int:
    """The place of the worker that took it."""
    loop = asyncio.get_running_loop()
    link = links.enter_context(socket.socket())
    link.setblocking(False)
    await loop.sock_connect(link, at.getsockname())
    return (await asyncio.wait_for(loop.sock_recv(link, 1), PATIENCE))[0]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def runs(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(work)

    return runs


def test_the_file_tells_each_worker_how_it_stands_beside_the_others(tmp_path: Path) -> None:
    first = Shares(tmp_path / "connections", 0)
    assert not first.ahead()
    first.add(1 + SLACK)
    assert not first.ahead(), "there is nobody else"
    second = Shares(tmp_path / "connections", 1)
    assert first.ahead()
    assert not second.ahead()
    second.add(1)
    assert not first.ahead()
    second.add(2 * SLACK + 1)
    assert second.ahead()
    assert not Shares(tmp_path / "connections", 1).ahead(), "a worker that is started anew has none"


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "all at once"])
def test_two_workers_have_half_of_the_connections_each(
    run: Run, listening: socket.socket, tmp_path: Path, together: bool
) -> None:
    async def work() -> None:
        shares = [Shares(tmp_path / "connections", mine) for mine in range(2)]
        async with working(listening, *shares):
            with ExitStack() as links:
                asked = [connect(links, listening) for _ in range(COUNT)]
                took = await asyncio.gather(*asked) if together else [await one for one in asked]
        assert abs(took.count(0) - took.count(1)) <= SLACK + 1

    run(work())


def test_one_that_has_more_takes_what_nobody_else_does(run: Run, listening: socket.socket, tmp_path: Path) -> None:
    async def work() -> None:
        Shares(tmp_path / "connections", 1)  # it has none, and takes none
        async with working(listening, Shares(tmp_path / "connections", 0)):
            with ExitStack() as links:
                assert [await connect(links, listening) for _ in range(5)] == [0] * 5

    run(work())


def test_after_a_worker_has_closed_the_others_take_what_comes(
    run: Run, listening: socket.socket, tmp_path: Path
) -> None:
    async def work() -> None:
        shares = [Shares(tmp_path / "connections", mine) for mine in range(2)]
        async with working(listening, *shares) as (first, _):
            with ExitStack() as links:
                await connect(links, listening)
                first.close()
                await first.wait_closed()
                assert [await connect(links, listening) for _ in range(5)] == [1] * 5

    run(work())


def test_a_worker_that_is_closed_while_it_leaves_a_connection_to_another_is_closed(
    run: Run, listening: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        Shares(tmp_path / "connections", 1)
        shares = Shares(tmp_path / "connections", 0)
        shares.add(1 + SLACK)
        own = listening.dup()
        worker = Listener(own, Greeting, shares, COUNT)
        worker.knocked()
        worker.close()
        own.close()
        await worker.wait_closed()
        await asyncio.sleep(2 * listener.PATIENCE)

    run(work())
    assert not caplog.records


def test_a_worker_that_has_no_file_left_tries_again(
    listening: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(socket.socket):
        """Has no room for the first two."""

        failures = 2

        def dup(self) -> socket.socket:
            return Full(fileno=super().dup().detach())

        def accept(self) -> tuple[socket.socket, Any]:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    monkeypatch.setattr(listener, "RETRY_SECONDS", 0.01)

    async def work() -> None:
        with Full(fileno=listening.dup().detach()) as full:
            async with working(full, Shares(tmp_path / "connections", 0)):
                with ExitStack() as links, caplog.at_level(logging.ERROR):
                    assert await connect(links, listening) == 0

    asyncio.run(work())
    assert [record.message for record in caplog.records] == [
        "no connection can be taken: [Errno 24] Too many open files"
    ] * 2


def test_a_tls_handshake_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never comes would hold its connection for a minute otherwise."""
    monkeypatch.setattr(listener.Loop, "idle_seconds", 0.2, raising=False)

    async def silent() -> None:
        secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=secret)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        server.close()

    with asyncio.Runner(loop_factory=listener.Loop) as runner:
        runner.run(silent())


def test_so_does_one_that_a_worker_among_others_has_taken(
    listening: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = Shares(tmp_path / "connections", 0)
    monkeypatch.setattr(listener.Loop, "idle_seconds", 0.2, raising=False)
    monkeypatch.setattr(listener.Loop, "shares", shares)
    monkeypatch.setattr(listener.Loop, "most", 1, raising=False)

    async def silent() -> None:
        secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = await asyncio.get_running_loop().create_server(Greeting, sock=listening.dup(), ssl=secret)
        assert isinstance(server, Listener)
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        while shares.counts[0] == 1:
            await asyncio.sleep(0.01)
        server.close()
        await asyncio.wait_for(server.wait_closed(), PATIENCE)
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        assert shares.counts[0] == 1, "it is counted for ever"
        writer.close()
        server.listening.close()

    with asyncio.Runner(loop_factory=listener.Loop) as runner:
        runner.run(silent())


def test_no_more_than_so_many_speak_of_their_keys_at_a_time(
    listening: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = Shares(tmp_path / "connections", 0)
    for name, value in (("idle_seconds", PATIENCE), ("shares", shares), ("most", 2)):
        monkeypatch.setattr(listener.Loop, name, value, raising=False)

    async def silent() -> None:
        secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = await asyncio.get_running_loop().create_server(Greeting, sock=listening.dup(), ssl=secret)
        links = [await asyncio.open_connection(*listening.getsockname()) for _ in range(5)]
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in links]
        done = 0
        while done < 3:
            await asyncio.sleep(0.01)
            done = sum(end.done() for end in ends)
        assert len(server.connecting) == 2
        assert shares.counts[0] == 1 + 2
        for _, writer in links:
            writer.close()
        await asyncio.gather(*ends)
        server.close()
        await asyncio.wait_for(server.wait_closed(), PATIENCE)
        server.listening.close()

    with asyncio.Runner(loop_factory=listener.Loop) as runner:
        runner.run(silent())
