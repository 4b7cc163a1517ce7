"""What reaches the socket, in how many writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from digits.connection import OneWrite


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        pytest.param(lambda link: (link.write(b"head"), link.write(b"body")), ["headbody"], id="an answer"),
        pytest.param(
            lambda link: [link.write(part) for part in (b"head", b"one", b"head", b"two")],
            ["headone", "headtwo"],
            id="two answers",
        ),
        pytest.param(lambda link: link.write(b"100 Continue"), ["100 Continue"], id="nothing follows"),
        pytest.param(lambda link: (link.write(b"last"), link.close()), ["last", "closed"], id="closed at once"),
        pytest.param(
            lambda link: (link.write(b"head"), link.write(b"body"), link.close()),
            ["headbody", "closed"],
            id="and closed",
        ),
    ],
)
def test_a_head_goes_with_its_body_and_is_never_lost(work: Callable[[OneWrite], object], expected: list[str]) -> None:
    seen: list[str] = []
    transport = Mock(spec=asyncio.Transport, get_write_buffer_size=lambda: 0)
    transport.write = lambda data: seen.append(bytes(data).decode())
    transport.close = lambda: seen.append("closed")

    async def run() -> None:
        work(OneWrite(transport, 15.0))
        await asyncio.sleep(0)

    asyncio.run(run())
    assert seen == expected


@pytest.mark.parametrize("left", [0, 5])
def test_a_closed_connection_does_not_wait_for_ever_for_a_client_that_takes_nothing(left: int) -> None:
    transport = Mock(spec=asyncio.Transport, get_write_buffer_size=lambda: left)

    async def run() -> None:
        OneWrite(transport, 0.01).close()
        transport.abort.assert_not_called()
        await asyncio.sleep(0.1)

    asyncio.run(run())
    assert transport.abort.called == bool(left)


def test_a_client_that_reads_slowly_is_waited_for_and_one_that_all_but_stops_is_not() -> None:
    transport = Mock(spec=asyncio.Transport)
    transport.get_write_buffer_size.return_value = 100_000

    async def run() -> None:
        link = OneWrite(transport, 15.0)
        link.loop = Mock()  # its clock is ours
        link.expect_reading()
        for left, cut_off in ((60_000, False), (30_000, False), (29_000, True)):
            transport.get_write_buffer_size.return_value = left
            seconds, look = link.loop.call_later.call_args.args
            look()
            assert (seconds, transport.abort.called) == (15.0, cut_off)

    asyncio.run(run())
