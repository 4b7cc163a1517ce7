"""The HTTP front on its own, in this process: counted work, time limits, and errors of whatever is behind it."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import prometheus_client
import pytest

from digits import front as front_module
from digits import imaging
from digits.classifier import Classifier
from digits.front import Front
from digits.imaging import ImageError
from digits.segmenter import Segmenter
from digits.settings import Settings
from digits.telemetry import Telemetry
from tests.models import tiny_model, tiny_segmenter
from tests.serving import form, metrics_client, pictures, png

HEADERS = [(b"content-type", b"image/png")]


@dataclass(frozen=True)
class Model:
    classifier: Classifier
    name: str = "digits:1"
    provenance: Any = None


@dataclass
class Asked:
    """An ASGI client: the status, headers and JSON of one request, given as messages."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: Front,
    *chunks: bytes,
    path: str = "/predict",
    headers: list[tuple[bytes, bytes]] = HEADERS,
    method: str = "POST",
    stall: bool = False,
) -> Asked:
    waiting = list(chunks)
    sent: list[Any] = []
    headers = [*headers, (b"content-length", b"%d" % (sum(map(len, chunks)) + stall))]

    async def receive() -> dict[str, Any]:
        if not waiting and stall:
            await asyncio.sleep(3600)
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting) or stall}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Asked(sent[0]["status"], dict(sent[0]["headers"]), body)


Infer = Callable[[np.ndarray], Awaitable[Any]]


@pytest.fixture
def build() -> Callable[..., Front]:
    """Makes a front whose model is called at once, without a queue, or with the `infer` given."""

    def make(infer: Infer | None = None, **settings: Any) -> Front:
        model = Model(Classifier(tiny_model()))

        async def at_once(images: np.ndarray) -> Any:
            return (*model.classifier.scores(images), model)

        async def behind(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError("nothing here belongs to the application behind")

        telemetry = Telemetry(metrics_client(prometheus_client.CollectorRegistry()), "digits", "digits", "1")
        return Front(behind, infer or at_once, lambda: model, Settings(**settings), telemetry, frozenset())

    return make


def test_each_picture_is_decoded_once_and_scored_once(
    build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, decoded, scored = [], [], []
    real_read, real_decode = front_module.read, imaging.decode
    monkeypatch.setattr(front_module, "read", lambda *args: read.append(1) or real_read(*args))
    monkeypatch.setattr(imaging, "decode", lambda *args: decoded.append(1) or real_decode(*args))
    model = Model(Classifier(tiny_model()))

    async def infer(images: np.ndarray) -> Any:
        scored.append(len(images))
        return (*model.classifier.scores(images), model)

    app = build(infer)
    asyncio.run(ask(app, png()))
    assert (len(read), len(decoded), scored) == (1, 1, [1])
    body, headers = form([("images", picture) for picture in pictures(40)])
    kind = [(b"content-type", headers["Content-Type"].encode())]
    reply = asyncio.run(ask(app, body, path="/predict_batch", headers=kind))
    assert reply.status == 200
    candidates = sum(len(real_read(picture).images) for picture in pictures(40))
    assert (len(read), sum(scored)) == (41, 1 + candidates)
    assert len(decoded) == 41 + 40  # which the line above has read again
    assert len(scored) <= 1 + 3  # 40 pictures, 16 together


def test_photographs_are_read_with_the_segmenter_of_the_model_that_answers(build: Callable[..., Front]) -> None:
    scored: list[np.ndarray] = []

    async def infer(images: np.ndarray) -> Any:
        scored.append(images)
        return (*model.classifier.scores(images), model)

    # A broad shadow: by the tiny segmenter's rule all of it is strokes, by imaging's none of it.
    picture = np.full((300, 300, 3), 230, np.uint8)
    cv2.line(picture, (90, 60), (90, 240), (20, 20, 20), 12)
    picture[:, 150:] = picture[:, 150:] // 2
    content = cv2.imencode(".png", picture)[1].tobytes()
    carried = base64.b64encode(tiny_segmenter()).decode()
    app = build(infer)
    for model in (Model(Classifier(tiny_model())), Model(Classifier(tiny_model(segmenter=carried)))):
        app.current = lambda model=model: model
        assert asyncio.run(ask(app, content)).status == 200
    without, with_one = scored
    assert len(with_one) == len(without) + 1
    np.testing.assert_array_equal(with_one[:-1], without)
    np.testing.assert_array_equal(with_one[-1], Segmenter(tiny_segmenter()).digit(picture)[0])


@pytest.mark.parametrize(
    ("way", "copies", "kept"),
    [
        ("whole", 0, 0),
        ("in pieces", 1, 1),
        ("as a form", 1, 1),
        ("as a form in pieces", 2, 1),
        ("as a batch in pieces", 2, 1),
    ],
)
def test_a_body_is_copied_no_more_often_than_its_way_in_needs(
    build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch, way: str, copies: int, kept: int
) -> None:
    """Pieces are put together, a form's part is cut out, and what it was cut out of is not held while it is read."""
    reached: list[int] = []
    held: list[int] = []

    def refused(data: bytes, *_: Any) -> Any:
        reached.append(len(data))
        held.append(tracemalloc.get_traced_memory()[0])
        raise ImageError("not_an_image", "counted")

    monkeypatch.setattr(front_module, "read", refused)
    size, headers = 8 * 2**20, HEADERS
    body = bytes(size)
    if way.startswith("as a"):
        body, form_headers = form([("images" if "batch" in way else "image", body)])
        headers = [(b"content-type", form_headers["Content-Type"].encode())]
    step = 65536 if way.endswith("in pieces") else len(body)
    pieces = [body[start : start + step] for start in range(0, len(body), step)]
    app = build()
    tracemalloc.start()
    try:
        path = "/predict_batch" if "batch" in way else "/predict"
        reply = asyncio.run(ask(app, *pieces, headers=headers, path=path))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (reply.status, reached) == (200 if "batch" in way else 400, [size])
    assert most < (copies + 0.25) * size
    assert held[0] < (kept + 0.25) * size


def test_a_model_that_takes_too_long_is_504_and_the_next_request_is_not_hurt(build: Callable[..., Front]) -> None:
    async def never(images: np.ndarray) -> Any:
        await asyncio.sleep(3600)

    reply = asyncio.run(ask(build(never, timeout=0.1), png()))
    assert (reply.status, reply.json["error"]["code"]) == (504, "timeout")


def test_what_is_left_of_a_batch_whose_time_is_over_is_not_read(
    build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, begun = threading.Event(), []
    real = front_module.read

    def read(*args: Any) -> Any:
        begun.append(1)
        told.wait(60)
        return real(*args)

    monkeypatch.setattr(front_module, "read", read)
    app = build(timeout=1.0, threads=2)
    body, headers = form([("images", png(size=(40, 40)))] * 64)
    kind = [(b"content-type", headers["Content-Type"].encode())]
    assert asyncio.run(ask(app, body, path="/predict_batch", headers=kind)).status == 504
    told.set()
    app.pool.shutdown(wait=True)
    assert 1 <= len(begun) <= 2


def test_a_form_of_slow_pictures_does_not_hold_up_somebody_elses(
    build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    real, alone = front_module.read, png(size=(41, 41))

    def slowly(data: bytes, *more: Any) -> Any:
        read.append(data)
        time.sleep(1.5 * front_module.TURN)
        return real(data, *more)

    monkeypatch.setattr(front_module, "read", slowly)
    app = build(threads=2)
    body, headers = form([("images", png(size=(40, 40)))] * 40)
    kind = [(b"content-type", headers["Content-Type"].encode())]

    async def both() -> list[Asked]:
        batch = asyncio.ensure_future(ask(app, body, path="/predict_batch", headers=kind))
        while not read:
            await asyncio.sleep(0)
        return [await ask(app, alone), await batch]

    assert [reply.status for reply in asyncio.run(both())] == [200, 200]
    assert len(read) == 41
    assert read.index(alone) <= 4


def take_for_each_picture(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture takes so long, and shows the same."""
    reading = front_module.read(png(size=(40, 40)))

    def slowly(*_: Any) -> Any:
        time.sleep(seconds)
        return reading

    monkeypatch.setattr(front_module, "read", slowly)


def test_pictures_that_could_not_be_read_in_time_are_refused_at_once_and_the_others_answered(
    build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_for_each_picture(0.05, monkeypatch)
    app, picture = build(threads=1, timeout=3.0), png(size=(40, 40))

    async def alone_and_in_a_crowd() -> list[list[int]]:
        alone = [(await ask(app, picture)).status for _ in range(20)]
        return [alone, [reply.status for reply in await asyncio.gather(*(ask(app, picture) for _ in range(150)))]]

    alone, crowd = asyncio.run(alone_and_in_a_crowd())
    assert set(alone) == {200}
    assert set(crowd) == {200, 503}, "and no 504: the time of what is not finished is lost"
    assert (app.queued, app.gate.in_progress) == (0, 0)


def test_of_forms_that_take_too_long_together_the_first_are_answered(
    build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_for_each_picture(0.02, monkeypatch)
    app = build(threads=1, timeout=5.0)
    body, headers = form([("images", png(size=(40, 40)))] * 80)  # 1.6 s
    kind = [(b"content-type", headers["Content-Type"].encode())]

    async def together() -> list[int]:
        forms = [ask(app, body, path="/predict_batch", headers=kind) for _ in range(5)]
        return [reply.status for reply in await asyncio.gather(*forms)]

    assert asyncio.run(together())[0] == 200


def test_a_form_of_thumbnails_waits_for_no_form_of_slow_pictures(build: Callable[..., Front]) -> None:
    async def busy_with_others() -> list[int]:
        app = build(threads=2)
        for _ in range(2):
            await app.few.acquire()
        app.queued, app.pace = 1_000, 1.0
        statuses = []
        for picture in (png(), png(size=(40, 40))):
            body, headers = form([("images", picture)] * 40)
            kind = [(b"content-type", headers["Content-Type"].encode())]
            statuses.append((await ask(app, body, path="/predict_batch", headers=kind)).status)
        return statuses

    assert asyncio.run(busy_with_others()) == [200, 503]


def test_others_have_their_turn_between_the_parts_of_a_form_of_thumbnails(
    build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = 0, front_module.read

    def counted(*given: Any) -> Any:
        nonlocal read
        read += 1
        return real(*given)

    monkeypatch.setattr(front_module, "read", counted)
    body, headers = form([("images", png())] * 128)
    kind = [(b"content-type", headers["Content-Type"].encode())]

    async def turns() -> list[int]:
        """How many had been read whenever it was this one's turn."""
        asked = asyncio.ensure_future(ask(build(), body, path="/predict_batch", headers=kind))
        seen = [0]
        while not asked.done():
            await asyncio.sleep(0)
            seen.append(read)
        assert asked.result().status == 200
        return seen

    assert max(np.diff(asyncio.run(turns()))) == front_module.CHUNK
    assert read == 128


def test_bodies_of_others_leave_room_for_a_small_one(build: Callable[..., Front]) -> None:
    app = build(max_buffered_bytes=100_000, max_bytes=50_000, max_batch_bytes=50_000)
    app.gate.buffered = 100_000
    assert asyncio.run(ask(app, png())).status == 200
    reply = asyncio.run(ask(app, bytes(20_000)))
    assert (reply.status, reply.json["error"]["code"]) == (503, "busy")


def test_a_fault_is_500_in_the_same_shape_and_tells_the_client_nothing_of_it(
    build: Callable[..., Front], caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(images: np.ndarray) -> Any:
        raise RuntimeError("secret detail")

    reply = asyncio.run(ask(build(broken), png()))
    assert (reply.status, reply.json["error"]["code"]) == (500, "internal_error")
    assert b"secret" not in reply.body


def test_a_body_that_stalls_is_408(build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("digits.exchange.LINGER_SECONDS", 0.05)
    reply = asyncio.run(ask(build(timeout=0.1), png()[:20], stall=True))
    assert (reply.status, reply.json["error"]["code"]) == (408, "request_timeout")
    assert reply.headers[b"connection"] == b"close"


def test_nothing_stays_reserved_after_any_ending(build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("digits.exchange.LINGER_SECONDS", 0.05)
    app = build(timeout=0.1, max_bytes=2000, max_batch_bytes=2000)

    async def all_endings() -> list[int]:
        whole = png()
        return [
            (await ask(app, whole)).status,
            (await ask(app, whole[:50], whole[50:])).status,
            (await ask(app, b"garbage")).status,
            (await ask(app, bytes(3000))).status,
            (await ask(app, whole, stall=True)).status,
            (await ask(app, whole, headers=[(b"content-type", b"text/plain")])).status,
            (await ask(app, whole, path="/predict_batch")).status,
        ]

    assert asyncio.run(all_endings()) == [200, 200, 400, 413, 408, 415, 415]
    assert (app.gate.in_progress, app.gate.buffered) == (0, 0)


def test_a_body_that_nobody_waits_for_any_more_is_not_kept_until_a_thread_is_free(build: Callable[..., Front]) -> None:
    app = build(threads=1)
    body, free = bytes(1_000_000), threading.Event()
    kept = sys.getrefcount(body)

    async def given_up() -> None:
        app.pool.submit(free.wait)
        reading = asyncio.create_task(app.read_beside([body]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sys.getrefcount(body) > kept
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        del reading
        await asyncio.sleep(0)
        assert sys.getrefcount(body) == kept

    try:
        asyncio.run(given_up())
    finally:
        free.set()


def test_one_broken_decoder_is_that_picture_s_own_trouble(
    build: Callable[..., Front], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read(data: bytes, *_: Any) -> Any:
        raise MemoryError if data == b"bomb" else front_module.ImageError("not_an_image", "no", 400)

    monkeypatch.setattr(front_module, "read", read)
    body, headers = form([("images", b"bomb"), ("images", b"other")])
    kind = [(b"content-type", headers["Content-Type"].encode())]
    results = asyncio.run(ask(build(), body, path="/predict_batch", headers=kind)).json["results"]
    assert [result["error"]["code"] for result in results] == ["unusable_image", "not_an_image"]


@pytest.mark.parametrize(("kept", "statuses"), [("all", [200, 400]), ("errors", [400]), ("off", [])])
def test_the_log_has_a_line_for_each_request_that_it_is_asked_to_keep(
    build: Callable[..., Front], caplog: pytest.LogCaptureFixture, kept: str, statuses: list[int]
) -> None:
    caplog.set_level("INFO", logger="bentoml.digits")
    app = build(access_log=kept)
    asyncio.run(ask(app, png()))
    asyncio.run(ask(app, b"no picture"))
    lines = [record.getMessage().split() for record in caplog.records]
    assert [(method, route, int(status)) for _, method, route, status, *_ in lines] == [
        ("POST", "/predict", status) for status in statuses
    ]
