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


_KEEPERS: set[asyncio.Task[None]] = set()


def kept(store: Store, ttl_s: float) -> LeaseHandle:
    """A lease that is kept until it is revoked, its store is closed, or the test is over."""
    lease = store.lease(ttl_s)
    task = asyncio.get_running_loop().create_task(lease.keep())
    _KEEPERS.add(task)
    task.add_done_callback(_KEEPERS.discard)
    return lease
