"""Waiting in tests: for a state, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bridge_core.store.api import LeaseHandle, Store

T = TypeVar("T")


async def eventually(predicate: Callable[[], T | Awaitable[T]], deadline_s: float = 10.0) -> T:
    """Returns the predicate's first true value.

    Raises:
        AssertionError: it was still false (or raising AssertionError) after `deadline_s`.
    """
    end = time.monotonic() + deadline_s
    pause = 0.005
    while True:
        fault: AssertionError | None = None
        try:
            value = predicate()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
        except AssertionError as caught:
            fault = caught
        if time.monotonic() >= end:
            message = f"not true within {deadline_s} s: {inspect.getsource(predicate).strip()}"
            raise AssertionError(message) from fault
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.1)


async def within_some_time(attempt: Callable[[float], Awaitable[bool]], first_s: float = 0.2) -> None:
    """Tries something that a time limit ends, with ever longer limits until it got as far as it should.

    How long that takes says how busy the machine is.

    Raises:
        AssertionError: not even the longest limit, of a minute or so, was enough.
    """
    limit = first_s
    while not await attempt(limit):
        assert limit < 60, f"it did not get as far as it should in {limit} s"
        limit *= 3


_KEEPERS: set[asyncio.Task[None]] = set()


def kept(store: Store, ttl_s: float) -> LeaseHandle:
    """A lease that is kept until it is revoked, its store is closed, or the test is over."""
    lease = store.lease(ttl_s)
    task = asyncio.get_running_loop().create_task(lease.keep())
    _KEEPERS.add(task)
    task.add_done_callback(_KEEPERS.discard)
    return lease
