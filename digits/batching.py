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


class Batching:
    """Called with the pictures of one request, uint8 (k, 28, 28), gives their rows of results, float32 (k, columns).

    `score` does the work for many: uint8 (n, 28, 28) to float32 (n, columns); one call at a time, n ≤ `most`. What it
    raises reaches every request of that batch, and no other.
    """

    def __init__(self, score: Callable[[Images], Awaitable[Rows]], most: int) -> None:
        self.score, self.most = score, most
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
            while batch := self._together():
                futures = [future for _, future in batch]
                images = batch[0][0] if len(batch) == 1 else np.concatenate([images for images, _ in batch])
                try:
                    rows = await self.score(images)
                except Exception as error:
                    for future in futures:
                        _tell(future, future.set_exception, error)
                    continue
                start = 0
                for part, future in batch:
                    stop = start + len(part)
                    _tell(future, future.set_result, rows[start:stop])
                    start = stop
                if self._waiting:  # scoring may not have let go of the loop: others have their turn
                    await asyncio.sleep(0)
        finally:
            self._worker = None

    def _together(self) -> list[tuple[Images, Any]]:
        """Takes from the queue what fits into one call; requests that were given up are left out."""
        batch: list[tuple[Images, Any]] = []
        room = self.most
        while self._waiting and len(self._waiting[0][0]) <= room:
            images, future = self._waiting.popleft()
            if not future.done():
                batch.append((images, future))
                room -= len(images)
        return batch


def _tell(waiter: Any, how: Callable[[Any], object], what: Any) -> None:
    """What one does with its rows is no trouble of the others in its batch."""
    try:
        if not waiter.done():
            how(what)
    except Exception:
        log.exception("an answer could not be given")
