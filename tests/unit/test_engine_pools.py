"""The engine's threads: who may wait for them, and that long work cleans up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator

import pytest

from bridge_core.dialects.errors import ApiError
from bridge_engine.pools import Pool


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool("test", 1)
    yield made
    made.close()


async def test_many_short_pieces_of_work_all_get_their_turn(pool: Pool) -> None:
    assert await asyncio.gather(*(pool.run(str, number) for number in range(500))) == [*map(str, range(500))]


async def test_long_work_beyond_the_bound_is_refused_before_it_began(pool: Pool) -> None:
    go = threading.Event()

    def stalled() -> Iterator[int]:
        go.wait(20)
        yield 1

    running = [asyncio.create_task(anext(pool.steps(stalled()))) for _ in range(9)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError, match="server busy") as refused:
        await anext(pool.steps(iter([1])))
    assert refused.value.status == 503
    go.set()
    assert await asyncio.gather(*running) == [1] * 9


async def test_work_that_is_left_ends_its_step_and_cleans_up(pool: Pool) -> None:
    begun, go, cleaned = threading.Event(), threading.Event(), threading.Event()

    def work() -> Iterator[int]:
        try:
            yield 1
            begun.set()
            go.wait(20)
            yield 2
        finally:
            cleaned.set()

    async def follow() -> None:
        async with contextlib.aclosing(pool.steps(work())) as steps:
            async for _ in steps:
                pass

    task = asyncio.create_task(follow())
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    go.set()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert cleaned.is_set()
    assert await pool.run(lambda: 3) == 3


async def test_what_work_raises_arrives(pool: Pool) -> None:
    def work() -> Iterator[int]:
        yield 1
        raise ApiError(404, "gone")

    steps = pool.steps(work())
    assert await anext(steps) == 1
    with pytest.raises(ApiError, match="gone"):
        await anext(steps)


async def test_a_step_that_fails_after_everybody_left_is_no_fault_of_the_programs() -> None:
    pool, begun, go_on = Pool("test", 1), threading.Event(), threading.Event()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))

    def steps() -> Iterator[int]:
        begun.set()
        go_on.wait(10)
        raise OSError("the registry hung up")
        yield 1

    async def follow() -> None:
        async for _ in pool.steps(steps()):
            pass

    task = asyncio.create_task(follow())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait([task])
    del task
    gc.collect()
    assert told == []
    pool.close()
