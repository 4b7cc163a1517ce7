"""Who takes the next connection: of the workers that share a listening socket, one with the fewest.

A connection stays with the worker that took it, and the kernel wakes whichever is there: while a client keeps a core
busy, or while little is asked, that is the same worker again and again, and what is asked of it later the others watch.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn.config
import uvloop

PLACES = 256  # workers of one service, at most
SLACK = 1  # connections that a worker may have more than another
PATIENCE = 0.001  # seconds that one with more than that leaves the next to the others
RETRY_SECONDS = 1.0  # after the system had no file or memory for another connection

log = logging.getLogger(__name__)


class Shares:
    """How many connections each worker has, in a file that all of them map; `mine` is this worker's place in it.

    The number of a worker that has died stays until another has its place: till then the rest may wait for it in vain,
    no longer than `PATIENCE`.
    """

    def __init__(self, file: Path, mine: int) -> None:
        with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as opened:
            opened.truncate(4 * PLACES)
            self.counts = memoryview(mmap.mmap(opened.fileno(), 4 * PLACES)).cast("I")
        self.mine = mine
        self.counts[mine] = 1  # 0 is the place of nobody

    def add(self, number: int) -> None:
        """This worker has so many connections more."""
        self.counts[self.mine] += number

    def ahead(self) -> bool:
        """Whether this worker has clearly more connections than another."""
        return self.counts[self.mine] > min(filter(None, self.counts)) + SLACK


class Listener:
    """Takes connections from a listening socket until it is closed, as a server of asyncio is; `tls` are its options.

    Those taken are counted here at once, since many come together. No more than `most` speak of their keys at a time,
    since a protocol, which has its own limit, is made after that. Each protocol that `factory` makes is told its
    `shares`, from which it takes itself when its connection is lost, and its `listener`, which may be closed by then.
    """

    def __init__(
        self, listening: socket.socket, factory: Callable[[], Any], shares: Shares, most: int, **tls: Any
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.listening, self.factory, self.shares, self.most, self.tls = listening, factory, shares, most, tls
        self.connecting: set[asyncio.Task[None]] = set()
        self.closed = False
        listening.setblocking(False)
        self.resume()

    def resume(self) -> None:
        if not self.closed:
            self.loop.add_reader(self.listening, self.knocked)

    def pause(self, seconds: float, then: Callable[[], None]) -> None:
        self.loop.remove_reader(self.listening)
        self.loop.call_later(seconds, then)

    def knocked(self) -> None:
        """There are connections to be taken, by whoever is first."""
        while not self.shares.ahead():
            if not self.take():
                return
        self.pause(PATIENCE, self.waited)

    def waited(self) -> None:
        """Nobody may have taken it."""
        if not self.closed:
            self.resume()
            self.take()

    def take(self) -> bool:
        """Takes one connection; false where there is none."""
        try:
            link, _ = self.listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another worker's by now, or nobody's
            return False
        except OSError as error:
            log.error("no connection can be taken: %s", error)
            self.pause(RETRY_SECONDS, self.resume)
            return False
        if self.tls and len(self.connecting) >= self.most:
            link.close()
            return True
        self.shares.add(1)
        task = self.loop.create_task(self.connect(link))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)
        return True

    async def connect(self, link: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(self.protocol, link, **self.tls)
        except OSError:  # it is gone already, or speaks no TLS
            self.shares.add(-1)

    def protocol(self) -> Any:
        protocol = self.factory()
        protocol.shares = self.shares
        protocol.listener = self
        return protocol

    def close(self) -> None:
        self.closed = True
        self.loop.remove_reader(self.listening)

    async def wait_closed(self) -> None:
        if self.connecting:
            await asyncio.wait(self.connecting)


class Loop(uvloop.Loop):
    """uvloop, with listeners as above, which outlive a want of files or memory, and TLS that comes to an end."""

    shares: Shares | None = None
    idle_seconds: float
    most: int

    async def create_server(self, factory: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        tls: dict[str, Any] = {}
        if options.get("ssl") is not None:
            seconds = self.idle_seconds
            tls = {"ssl": options["ssl"], "ssl_handshake_timeout": seconds, "ssl_shutdown_timeout": seconds}
        if self.shares is not None and options.get("sock") is not None:
            return Listener(options["sock"], factory, self.shares, self.most, **tls)
        return await super().create_server(factory, *args, **{**options, **tls})


def loop_factory(**_: bool) -> type[Loop]:
    return Loop


def install(shares: Shares | None, idle_seconds: float, most: int) -> None:
    """Makes uvicorn take connections so, `most` at a time; without `shares`, as uvloop does."""
    Loop.shares, Loop.idle_seconds, Loop.most = shares, idle_seconds, most
    uvicorn.config.LOOP_FACTORIES["auto"] = f"{__name__}:{loop_factory.__name__}"
