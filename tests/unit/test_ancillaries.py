"""A task beside the serving that fails is told, rests, and is run again; nothing else ends."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge_agent.ancillaries import Ancillaries, RequestTasks
from bridge_agent.ancillary_rules import Restarts


class Bed:
    """Ancillaries under a clock that only sleeping moves."""

    def __init__(self) -> None:
        self.at = 0.0
        self.slept: list[float] = []
        self.ancillaries = Ancillaries(random.Random(1), now=lambda: self.at, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds


async def test_a_fault_is_logged_counted_shown_and_the_task_run_again() -> None:
    bed, runs = Bed(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs <= 3:
            raise KeyError("unforeseen")

    with capture_logs() as logs:
        await bed.ancillaries.keep("audit", run)
    assert runs == 4
    assert [entry["faults"] for entry in logs] == [1, 2, 3]
    assert all(entry["exc_info"] for entry in logs)
    assert bed.ancillaries.faults == {"audit": 3}
    (concern,) = bed.ancillaries.concerns()
    assert concern == (
        "the task audit failed 3 times, last 1 s ago: KeyError: 'unforeseen'; the log has the traceback"
    )
    bed.at += 600.0 + 1
    assert bed.ancillaries.concerns() == []
    assert bed.ancillaries.faults == {"audit": 3}


async def test_a_fault_of_a_group_is_told_by_its_first_cause() -> None:
    bed, runs = Bed(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())

    async def fail() -> None:
        raise OSError(24, "Too many open files")

    await bed.ancillaries.keep("gpus", run)
    assert "OSError: [Errno 24] Too many open files" in bed.ancillaries.concerns()[0]


async def test_an_end_is_an_end_and_a_cancellation_is_one_also_beside_a_fault() -> None:
    bed, inside = Bed(), asyncio.Event()

    async def run() -> None:
        try:
            inside.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("while it was cancelled") from None

    task = asyncio.create_task(bed.ancillaries.keep("isolation", run))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bed.slept == []


async def test_a_task_that_is_cancelled_from_within_has_failed() -> None:
    bed, runs = Bed(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise asyncio.CancelledError

    await bed.ancillaries.keep("peers", run)
    assert bed.ancillaries.faults == {"peers": 1}


async def test_a_request_s_fault_ends_neither_the_others_nor_the_group() -> None:
    bed, go = Bed(), asyncio.Event()

    async def fail() -> None:
        raise ZeroDivisionError

    async def answer() -> str:
        await go.wait()
        return "answered"

    async with RequestTasks(bed.ancillaries) as group:
        failed = group.create_task(fail(), name="slots-n1/0")
        other = group.create_task(answer())
        assert await failed is None
        go.set()
    assert other.result() == "answered"
    assert bed.ancillaries.faults == {"request": 1}


class Highest:
    def uniform(self, a: float, b: float) -> float:
        return b


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_steady_run() -> None:
    restarts, now, pauses = Restarts(Highest()), 0.0, []
    for _ in range(10):
        restarts.began(now)
        pauses.append(restarts.failed("x", now))
        now += pauses[-1]
    assert pauses[:3] == [0.5, 2 * 0.5, 4 * 0.5]
    assert pauses[-1] == 60.0
    restarts.began(now)
    assert restarts.failed("x", now + 60.0) == 0.5


@given(st.lists(st.floats(0, 10_000), max_size=50), st.integers())
def test_whatever_happens_a_task_rests_for_a_bounded_time(runs: list[float], seed: int) -> None:
    restarts, now = Restarts(random.Random(seed)), 0.0
    for lasted in runs:
        restarts.began(now)
        now += lasted
        pause = restarts.failed("x", now)
        assert 0.5 / 2 <= pause <= 60.0
        assert restarts.concern(now)
        now += pause
    assert restarts.faults == len(runs)
