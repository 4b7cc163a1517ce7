"""One clock for many requests: each gets its limit, and nothing but its limit."""

from __future__ import annotations

import asyncio

import pytest

from digits.exchange import Clock


def test_what_reaches_the_limit_gets_a_timeout_and_what_does_not_gets_nothing() -> None:
    async def one(clock: Clock, seconds: float) -> str:
        try:
            with clock:
                await asyncio.sleep(seconds)
        except TimeoutError:
            await asyncio.sleep(0)  # it may go on: nothing is left of the cancellation
            return "late"
        return "done"

    async def all_together() -> list[str]:
        clock = Clock(0.5)
        ended = await asyncio.gather(*(one(clock, seconds) for seconds in (3600, 0, 3600, 0.001)))
        ended.append(await one(clock, 3600))  # it still runs when all are through
        assert (clock.due, clock.timer) == ({}, None)
        return ended

    assert asyncio.run(all_together()) == ["late", "done", "late", "done", "late"]


def test_the_next_in_line_gets_all_of_its_time() -> None:
    async def work() -> float:
        loop, clock = asyncio.get_running_loop(), Clock(0.2)

        async def stuck() -> float:
            started = loop.time()
            with pytest.raises(TimeoutError), clock:
                await asyncio.sleep(3600)
            return loop.time() - started

        first = asyncio.create_task(stuck())
        await asyncio.sleep(0.1)
        second = asyncio.create_task(stuck())
        await first
        return await second

    assert asyncio.run(work()) >= 0.2


def test_a_task_cancelled_by_somebody_else_is_cancelled() -> None:
    async def work() -> bool:
        clock = Clock(3600)

        async def waiting() -> None:
            with clock:
                await asyncio.sleep(3600)

        task = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return not clock.due

    assert asyncio.run(work())


def test_an_error_of_the_work_is_its_own() -> None:
    async def work() -> None:
        with Clock(3600):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        asyncio.run(work())
