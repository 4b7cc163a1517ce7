"""The load generator in Python, for machines without wrk: it counts what the server answers."""

from __future__ import annotations

import asyncio

from benchmarks.load import Request, _python
from tests.serving import Server, png


def test_every_answer_is_counted_and_a_refusal_is_an_error(server: Server) -> None:
    answered = server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200")
    good = asyncio.run(_python(server.port, Request("/predict", png(), "image/png"), 4, 0.3))
    now = server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200")
    assert good.requests == now - answered > 0
    assert good.errors == 0
    assert 0 < good.p50 <= good.p99
    bad = asyncio.run(_python(server.port, Request("/predict", b"x", "image/png"), 2, 0.2))
    assert bad.errors == bad.requests > 0
