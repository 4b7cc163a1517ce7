"""The load generators: they count what the server answers, and how long each request has really waited; and the plot
of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import cv2
import pytest

from benchmarks import constant
from benchmarks.load import WRK, Request, Result, _python, _wrk
from benchmarks.report import plot
from tests.ports import free_port
from tests.serving import Server, png


def test_every_answer_is_counted_and_a_refusal_is_an_error(server: Server) -> None:
    answered = server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200")
    good = asyncio.run(_python(server.port, Request("/predict", (png(),), "image/png"), 4, 0.3))
    now = server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200")
    assert good.requests == now - answered > 0
    assert good.errors == 0
    assert 0 < good.p50 <= good.p99
    bad = asyncio.run(_python(server.port, Request("/predict", (b"x",), "image/png"), 2, 0.2))
    assert bad.errors == bad.requests > 0


@pytest.mark.skipif(WRK is None, reason="no wrk here: apt-get install wrk")
def test_wrk_counts_likewise(server: Server) -> None:
    answered = server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200")
    good = _wrk(server.port, Request("/predict", (png(), png(kind="JPEG")), "image/png"), 4, 1)
    now = server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200")
    assert 0 < good.requests <= now - answered <= good.requests + 4, "but for what was under way at the end"
    assert good.errors == 0
    assert 0 < good.p50 <= good.p99
    bad = _wrk(server.port, Request("/predict", (b"x",), "image/png"), 2, 1)
    assert bad.errors == bad.requests > 0


def test_at_a_constant_rate_every_request_is_sent_and_a_refusal_is_an_error(server: Server) -> None:
    answered = server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200")
    good = constant.run(server.port, Request("/predict", (png(),), "image/png"), 100, 0.5)
    now = server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200")
    assert (good.requests, good.errors, now - answered) == (50, 0, 50)
    bad = constant.run(server.port, Request("/predict", (b"x",), "image/png"), 100, 0.2)
    assert (bad.requests, bad.errors) == (20, 20)


def test_a_server_that_stalls_makes_every_request_wait_that_was_due_meanwhile() -> None:
    """It answers the first request only after the fortieth was due; in a closed loop nobody else would have waited."""
    number, arrived = 40, []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            arrived.append(writer)
            if len(arrived) < number:
                continue
            for waiting in arrived if len(arrived) == number else [writer]:
                waiting.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def load() -> Result:
        stalling = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = stalling.sockets[0].getsockname()[1]
        async with stalling:
            result = await constant.Pool(port, Request("/", (b"x",), "text/plain")).ask(200, 0.5)
            await asyncio.gather(*(writer.wait_closed() for writer in {id(w): w for w in arrived}.values()))
        return result

    result = asyncio.run(load())
    assert (result.requests, result.errors) == (100, 0)
    # Due every 5 ms, all answered after the fortieth: the first has waited for 39 times 5 ms.
    assert result.p99 >= 190
    assert result.p50 < result.p99


def test_what_is_never_answered_is_an_error_that_has_waited() -> None:
    result = constant.run(free_port(), Request("/", (b"x",), "text/plain"), 50, 0.1)
    assert (result.requests, result.errors) == (5, 5)


@pytest.mark.parametrize("offered", [[], [{"offered": 100, "p99": 3.0}, {"offered": 400, "p99": 9.0}]])
def test_the_plot_has_a_panel_for_constant_rates_where_they_were_run(tmp_path: Path, offered: list) -> None:
    results = {f"server {i}": {"png": [{"connections": 32, "rate": 10.0 * i}], "open": offered} for i in range(4)}
    plot({"results": results}, tmp_path / "plot.png")
    height, width = cv2.imread(str(tmp_path / "plot.png")).shape[:2]
    assert (height > 0.6 * width) == bool(offered)
