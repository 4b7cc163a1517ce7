"""The HTTP front: requests with pictures in, JSON out. What it does not know it hands to the application behind it.

A plain ASGI application. Routing, middleware and response classes cost a request more than the network does
(docs/benchmarks), so the routes that carry the load are answered here, and nothing else is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from digits.classifier import Classifier
from digits.exchange import CLOSED, GONE, App, Exchange, Gate, Message, Receive, Scope, Send
from digits.imaging import ImageError, Limits, Reading, read
from digits.requests import Refusal, busy, is_small, multipart, not_allowed, unanswered
from digits.settings import Settings
from digits.telemetry import Telemetry

log = logging.getLogger("bentoml.digits")
READING = ("GET", "HEAD")
PROBES = ("/livez", "/readyz", "/healthz")  # what they say is BentoML's, whatever the status
PEER = re.compile(r"[\w.:%-]{1,64}", re.ASCII)  # an address; a proxy may pass on anything
# Plain formatting: rounding eleven numbers and json.dumps take four times as long. A name has no letters to escape.
TEN = ", ".join(["%.6f"] * 10)
RESULT = f'{{"digit": %d, "probability": %.6f, "probabilities": [{TEN}], "accepted": %s, "model": "%s"%s}}'
OTHER = "other"  # the route of what is nobody's
CHUNK = 16  # pictures of a batch that are handed to the model together
TURN = 0.02  # seconds that the pictures of a batch may be decoded for, before others' have their turn


class Served(Protocol):
    """A loaded model and what is known about it."""

    @property
    def classifier(self) -> Classifier: ...

    @property
    def name(self) -> str: ...

    @property
    def provenance(self) -> dict[str, Any]: ...


Scored = tuple[NDArray[np.float32], NDArray[np.float32], Served]


class Front:
    """Answers /predict, /predict_batch and /model; `behind` answers the rest.

    `infer` takes candidates, uint8 (k, 28, 28), and gives their probabilities, float32 (k, 10), their digitness,
    float32 (k,), and the model that scored them. `current` is the model that answers now.
    `routes` and `prefixes` are the paths that `behind` knows; no other is passed on.
    """

    def __init__(
        self,
        behind: App,
        infer: Callable[[NDArray[np.uint8]], Awaitable[Scored]],
        current: Callable[[], Served],
        settings: Settings,
        telemetry: Telemetry,
        routes: frozenset[str],
        prefixes: tuple[str, ...] = (),
    ) -> None:
        self.behind, self.infer, self.current = behind, infer, current
        self.settings, self.telemetry = settings, telemetry
        self.routes, self.prefixes = routes, prefixes
        self.gate = Gate(settings, telemetry)
        self.limits = Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels)
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="decode")
        # The parts of long forms, those of the oldest first: others' pictures have their turn between, and forms that
        # come together do not all reach the time limit together.
        self.few = asyncio.Semaphore(max(2, settings.threads))
        self.turn = asyncio.Lock()  # of several small pictures that the loop reads: others have theirs in between
        self.queued = 0  # pictures that a thread decodes or will,
        self.pace = 0.0  # and seconds that one takes, on average
        # path: handler, methods, longest body
        self.handlers: dict[str, tuple[Callable[[Exchange], Awaitable[bytes]], tuple[str, ...], int]] = {
            "/predict": (self.predict, ("POST",), settings.max_bytes),
            "/predict_batch": (self.predict_batch, ("POST",), settings.max_batch_bytes),
            "/model": (self.model, READING, 0),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.behind(scope, receive, send)
            return
        path = scope["path"]
        found = self.handlers.get(path)
        route = path if found is not None else self.route(path)
        exchange = Exchange(self.gate, scope, receive, send)
        try:
            if found is None:
                status = await self.elsewhere(route, exchange)
            elif scope["method"] in found[1]:
                status = await exchange.run(found[0], found[2])
            else:
                status = await exchange.refuse(not_allowed(route, found[1]))
        except asyncio.CancelledError as end:
            if end.args != (GONE,):
                raise
            status = exchange.status or CLOSED  # what it was told before it went, if anything
        seconds = (exchange.finished or time.perf_counter()) - exchange.started
        self.note(scope.get("client"), scope["method"], route, status, seconds)

    def note(self, client: tuple[str, int] | None, method: str, route: str, status: int, seconds: float) -> None:
        """Counts and, where that was asked for, logs a request that has been answered."""
        self.telemetry.request(route, status, seconds)
        kept = self.settings.access_log
        if kept == "all" or (kept == "errors" and status >= 400):
            host = str((client or "-")[0])
            peer = host if PEER.fullmatch(host) else "-"
            log.info("%s %s %s %d %.1f ms", peer, method, route, status, seconds * 1000)

    def route(self, path: str) -> str:
        """What belongs to the application behind, one of a fixed few; OTHER where nobody knows it."""
        return path if path in self.routes else next((p for p in self.prefixes if path.startswith(p)), OTHER)

    async def elsewhere(self, route: str, exchange: Exchange) -> int:
        """Hands on what belongs to the application behind. Gives the status."""
        if route == OTHER:
            return await exchange.refuse(unanswered(404))
        if exchange.scope["method"] not in READING:
            return await exchange.refuse(not_allowed(route, READING))
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status < 400 or route in PROBES:
                await exchange.send(message)
                exchange.status, exchange.finished = status, time.perf_counter()

        try:
            await self.behind(exchange.scope, exchange.receive, watched)
        except Exception:
            log.exception("%s failed", route)
            if status < 400:  # begun already
                raise
        if status >= 400 and route not in PROBES:  # said in plain text there
            await exchange.refuse(unanswered(status))
        return status

    async def predict(self, exchange: Exchange) -> bytes:
        """POST /predict: one picture, raw or as multipart field `image`."""
        data = await exchange.body()
        if exchange.boundary is not None:
            data = multipart(data, exchange.boundary, "image", 1)[0]
        if not is_small(data):
            self.check_backlog()
        (reading,) = await self.read_beside([data])
        if isinstance(reading, Refusal):
            raise reading
        probabilities, digitness, served = await self.infer(reading.images)
        exchange.model = served.name
        return self.result(reading, probabilities, digitness, served, exchange.since).encode()

    async def predict_batch(self, exchange: Exchange) -> bytes:
        """POST /predict_batch: any number of pictures, each a multipart field `images`; results in the same order."""
        if exchange.boundary is None:
            raise Refusal(415, "unsupported_media_type", "send multipart/form-data with one part `images` a picture")
        images = multipart(await exchange.body(), exchange.boundary, "images", self.settings.max_batch_items)
        slow = not all(map(is_small, images))
        if slow:
            self.check_backlog()

        async def part(start: int) -> list[str]:
            # A short form, or one of thumbnails, waits for no other.
            async with self.few if slow and len(images) > CHUNK else nullcontext():
                return await self.part(images[start : start + CHUNK], exchange)

        tasks = [asyncio.ensure_future(part(start)) for start in range(0, len(images), CHUNK)]
        try:
            parts = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        results = [result for part in parts for result in part]
        return f'{{"results": [{", ".join(results)}]}}'.encode()

    async def part(self, images: list[bytes], exchange: Exchange) -> list[str]:
        """The results of a few of a batch's pictures, scored in one go."""
        readings = await self.read_beside(images)
        good = [reading for reading in readings if isinstance(reading, Reading)]
        if good:
            probabilities, digitness, served = await self.infer(np.concatenate([reading.images for reading in good]))
            exchange.model = served.name
        results, start = [], 0
        for reading in readings:
            if isinstance(reading, Refusal):
                self.telemetry.error(reading.code)
                results.append(reading.json())
                continue
            rows = slice(start, start := start + len(reading.images))
            results.append(self.result(reading, probabilities[rows], digitness[rows], served, exchange.since))
        return results

    async def read_beside(self, images: list[bytes]) -> list[Reading | Refusal]:
        """The readings of some files: in a thread, turn by turn, unless all are so small that the way there would take
        longer."""
        if all(map(is_small, images)):
            if len(images) == 1:
                return [self.read(images[0])]
            async with self.turn:
                await asyncio.sleep(0)
                return [self.read(image) for image in images]
        loop = asyncio.get_running_loop()
        readings: list[Reading | Refusal] = []
        self.queued += len(images)
        try:
            while len(readings) < len(images):
                left = images[len(readings) :]
                try:
                    some, seconds = await loop.run_in_executor(self.pool, self.read_some, left)
                except asyncio.CancelledError:
                    left.clear()  # it stays in the pool's queue until its turn, and nobody counts its bytes any more
                    raise
                readings += some
                self.queued -= len(some)
                self.pace += (seconds / len(some) - self.pace) * 0.1
        finally:
            self.queued -= len(images) - len(readings)
        return readings

    def read_some(self, images: list[bytes]) -> tuple[list[Reading | Refusal], float]:
        """The readings of the first of some files, of as many as one turn is enough for, and the seconds they took."""
        began = time.perf_counter()
        readings: list[Reading | Refusal] = []
        for image in images:
            readings.append(self.read(image))
            if time.perf_counter() >= began + TURN:
                break
        return readings, time.perf_counter() - began

    def check_backlog(self) -> None:
        """Raises Refusal where what waits to be decoded takes half of the time limit: what is begun should get done."""
        if self.queued * self.pace > self.settings.threads * self.settings.timeout / 2:
            raise busy("the pictures before this one take too long; try again in a second")

    def read(self, data: bytes) -> Reading | Refusal:
        """The reading of one file, or why it has none: whatever a decoder trips over is that file's own trouble."""
        try:
            return read(data, self.limits, self.current().classifier.segmenter)
        except ImageError as error:
            return Refusal(error.status, error.code, str(error))
        except Exception:
            log.exception("a picture of %d bytes could not be read", len(data))
            return Refusal(422, "unusable_image", "the image can't be read")

    def result(
        self,
        reading: Reading,
        probabilities: NDArray[np.float32],
        digitness: NDArray[np.float32],
        served: Served,
        since: float | None,
    ) -> str:
        """What is said about one picture, as JSON; with a start on the performance counter, more of it."""
        answer = served.classifier.decide(reading, probabilities, digitness)
        self.telemetry.answer(answer, reading.crowded, reading.blank)
        more = ""
        if since is not None:
            png = cv2.imencode(".png", reading.images[answer.chosen])[1].tobytes()
            milliseconds = (time.perf_counter() - since) * 1000
            more = f', "seen": "{base64.b64encode(png).decode()}", "milliseconds": {milliseconds:.2f}'
        accepted = "true" if answer.accepted else "false"
        return RESULT % (answer.digit, answer.probability, *answer.probabilities, accepted, served.name, more)

    async def model(self, exchange: Exchange) -> bytes:
        """GET /model: where the answers come from."""
        served = self.current()
        exchange.model = served.name
        return json.dumps(served.provenance, indent=1).encode()
