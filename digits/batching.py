"""Adaptive batching: requests that arrive one by one go in, one call of the model for all that came together goes out.

Nobody waits for company. What arrives while the model works goes to it next, all at once: under little load that is one
picture and no delay, under much load as many as have come in, and so the batch follows the load by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Images = NDArray[np.uint8]
Rows = NDArray[np.float32]
Batch = list[tuple[Images, Any]]
FEW = 8  # pictures that are not worth two calls


class Batching:
    """Called with the pictures of one request, uint8 (k, 28, 28), gives their rows of results, float32 (k, columns).

    `score` does the work for many: uint8 (n, 28, 28) to float32 (n, columns); one call at a time, n ≤ `most`. What it
    raises reaches every request of that batch, and no other. `beside` the loop, in a thread, it begins with the next
    pictures before the last ones are answered.
    """

    def __init__(self, score: Callable[[Images], Awaitable[Rows]], most: int, beside: bool = False) -> None:
        self.score, self.most, self.beside = score, most, beside
        self._waiting: deque[tuple[Images, Any]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, images: Images) -> Rows:
        loop = asyncio.get_running_loop()
        futures = []
        for start in range(0, len(images), self.most):
            futures.append(future := loop.create_future())
            self.put(images[start : start + self.most], future)
        if len(futures) == 1:
            return await futures[0]
        return np.concatenate(await asyncio.gather(*futures))

    def put(self, images: Images, waiter: Any) -> None:
        """Queues at most `most` pictures for whoever waits for their rows: a future, or what has the methods of one."""
        self._waiting.append((images, waiter))
        if self._worker is None:
            # It begins when everything that is ready now has had its turn, and has joined.
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            batch, scoring = self._begin()
            while scoring is not None:
                rows: Rows | Exception
                try:
                    rows = await scoring
                except Exception as error:
                    rows = error
                answered = batch
                batch, scoring = self._begin() if self.beside else ([], None)
                _answer(answered, rows)
                if scoring is None:
                    if self._waiting:  # scoring may not have let go of the loop: others have their turn
                        await asyncio.sleep(0)
                    batch, scoring = self._begin()
        finally:
            self._worker = None

    def _begin(self) -> tuple[Batch, Awaitable[Rows] | None]:
        """Takes what goes to the model next, and lets it begin; without anything there is nothing to wait for."""
        batch = self._together()
        if not batch:
            return batch, None
        try:
            parts = [images for images, _ in batch]
            return batch, self.score(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except Exception as error:
            return batch, _failed(error)

    def _together(self) -> Batch:
        """Takes from the queue what fits into one call; requests that were given up are left out.

        Of many, a model beside the loop gets half: it has the other half to do while these are answered.
        """
        batch: Batch = []
        room = self.most
        if self.beside:
            room = min(room, max(FEW, sum(len(images) for images, _ in self._waiting) // 2))
        while self._waiting and (not batch or len(self._waiting[0][0]) <= room):
            images, waiter = self._waiting.popleft()
            if not waiter.done():
                batch.append((images, waiter))
                room -= len(images)
        return batch


async def _failed(error: Exception) -> Rows:
    raise error


def _answer(batch: Batch, rows: Rows | Exception) -> None:
    start = 0
    for images, waiter in batch:
        stop = start + len(images)
        try:
            if waiter.done():
                pass
            elif isinstance(rows, Exception):
                waiter.set_exception(rows)
            else:
                waiter.set_result(rows[start:stop])
        except Exception:  # is no trouble of the others
            log.exception("an answer could not be given")
        start = stop
