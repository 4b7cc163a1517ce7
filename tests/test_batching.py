"""Batches form from what waits, and nobody waits for them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from digits.batching import Batching


class Model:
    """Gives each picture's first pixel; remembers its batches; works until it is told to go on."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        await self.free.wait()
        if (images == 255).any():
            raise RuntimeError("the model fails on 255")
        return images[:, 0, :1].astype(np.float32)


def pictures(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)


async def busy() -> tuple[Model, Batching, asyncio.Task[np.ndarray]]:
    """A model at work on a first picture until it is told to go on."""
    model = Model()
    model.free.clear()
    infer = Batching(model, 64)
    first = asyncio.create_task(infer(pictures(1)))
    await settle()
    return model, infer, first


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_single_request_is_scored_at_once_and_alone() -> None:
    async def scenario() -> None:
        model = Model()
        rows = await Batching(model, 64)(pictures(7))
        assert rows.tolist() == [[7]]
        assert model.batches == [1]

    asyncio.run(scenario())


def test_what_comes_while_the_model_works_goes_to_it_together_and_each_gets_its_own() -> None:
    async def scenario() -> None:
        model, infer, first = await busy()
        later = [asyncio.create_task(infer(pictures(*values))) for values in ((2,), (3, 4), (5,))]
        await settle()
        assert model.batches == [1]
        model.free.set()
        assert [rows.ravel().tolist() for rows in await asyncio.gather(first, *later)] == [[1], [2], [3, 4], [5]]
        assert model.batches == [1, 4]

    asyncio.run(scenario())


def test_no_batch_is_larger_than_the_most_and_a_larger_request_is_put_together_again() -> None:
    async def scenario() -> None:
        model = Model()
        infer = Batching(model, 4)
        many, few = await asyncio.gather(infer(pictures(*range(10))), infer(pictures(20, 21, 22)))
        assert many.ravel().tolist() == list(range(10))
        assert few.ravel().tolist() == [20, 21, 22]
        assert max(model.batches) <= 4
        assert sum(model.batches) == 13

    asyncio.run(scenario())


def test_a_failure_reaches_its_own_batch_and_the_next_batch_works() -> None:
    async def scenario() -> None:
        model = Model()
        infer = Batching(model, 64)
        outcome = await asyncio.gather(infer(pictures(255)), infer(pictures(1)), return_exceptions=True)
        assert [type(each) for each in outcome] == [RuntimeError, RuntimeError]
        assert (await infer(pictures(9))).tolist() == [[9]]

    asyncio.run(scenario())


def test_a_request_that_was_given_up_is_not_scored() -> None:
    async def scenario() -> None:
        model, infer, first = await busy()
        given_up, kept = asyncio.create_task(infer(pictures(2))), asyncio.create_task(infer(pictures(3)))
        await settle()
        given_up.cancel()
        await settle()
        model.free.set()
        assert (await kept).tolist() == [[3]]
        assert (await first).tolist() == [[1]]
        assert model.batches == [1, 1]
        with pytest.raises(asyncio.CancelledError):
            await given_up

    asyncio.run(scenario())
