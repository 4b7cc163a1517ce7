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


class Waiter:
    """Stands in for a future; says when it is answered."""

    def __init__(self, said: list[object]) -> None:
        self.said, self.answered = said, False

    def done(self) -> bool:
        return self.answered

    def set_result(self, _: object) -> None:
        self.answered = True
        self.said.append("answered")

    set_exception = set_result


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_beside_the_loop_works_on_one_half_while_the_other_is_answered(fails: bool) -> None:
    async def scenario() -> None:
        said: list[object] = []
        under_way: list[asyncio.Future[np.ndarray]] = []

        def score(images: np.ndarray) -> asyncio.Future[np.ndarray]:
            said.append(len(images))
            under_way.append(asyncio.get_running_loop().create_future())
            return under_way[-1]

        queue = Batching(score, 64, beside=True)
        for _ in range(40):
            queue.put(pictures(7), Waiter(said))
        await settle()
        expected: list[object] = [20]
        for size, following in ((20, 10), (10, 8), (8, 2), (2, None)):
            assert said == expected
            if fails:
                under_way[-1].set_exception(RuntimeError())
            else:
                under_way[-1].set_result(np.zeros((size, 1), np.float32))
            await settle()
            expected += [*([] if following is None else [following]), *["answered"] * size]
        assert said == expected
        queue.put(pictures(7), Waiter(said))
        await settle()
        assert said[-1] == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_queued_while_answers_are_given_is_not_forgotten(beside: bool) -> None:
    async def scenario() -> None:
        said: list[object] = []
        queue = Batching(Model(), 64, beside)

        class Again(Waiter):
            def set_result(self, rows: object) -> None:
                super().set_result(rows)
                queue.put(pictures(7), Waiter(said))

        queue.put(pictures(7), Again(said))
        await settle()
        assert said == ["answered"] * 2

    asyncio.run(scenario())


def test_one_that_fails_to_take_its_answer_is_no_trouble_of_the_others() -> None:
    async def scenario() -> None:
        said: list[object] = []
        queue = Batching(Model(), 64)

        class Broken(Waiter):
            def set_result(self, rows: object) -> None:
                raise RuntimeError(rows)

        for kind in (Broken, Waiter):
            queue.put(pictures(7), kind(said))
        await settle()
        assert said == ["answered"]

    asyncio.run(scenario())
