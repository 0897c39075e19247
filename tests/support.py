"""Waiting in tests: for a state, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from bridge_core.store.api import LeaseHandle, Store

T = TypeVar("T")
_MOMENT_S = 0.5
_MOST_PAUSE_S = 1.0


class RunningClock:
    """Seconds in which this process ran, more or less: one that is looked at often knows of no stalls."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s  # that may pass between two looks
        self._now = self._looked = time.monotonic()

    def __call__(self) -> float:
        now = time.monotonic()
        self._now += min(now - self._looked, self._longest_s)
        self._looked = now
        return self._now


async def eventually(predicate: Callable[[], T | Awaitable[T]], deadline_s: float = 30.0) -> T:
    """Returns the predicate's first true value.

    A look that takes long, as a command does, is followed by a pause as long: what is waited for needs
    the processor, too. Time in which this process stood still counts as a moment: nothing could come in it.

    Raises:
        AssertionError: it was still false (or raising AssertionError) after `deadline_s`.
    """
    waited, pause = 0.0, 0.005
    while True:
        fault: AssertionError | None = None
        began = time.monotonic()
        try:
            value = predicate()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
        except AssertionError as caught:
            fault = caught
        if waited >= deadline_s:
            message = f"not true within {deadline_s} s: {inspect.getsource(predicate).strip()}"
            raise AssertionError(message) from fault
        asked = time.monotonic() - began
        rest = max(pause, min(asked, _MOST_PAUSE_S))
        await asyncio.sleep(rest)
        waited += asked + min(time.monotonic() - began - asked, rest + _MOMENT_S)
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


async def copy_of_running(folder: Path, to: Path) -> None:
    """Copies a folder that somebody writes into: anew where a file was renamed meanwhile."""

    def copied() -> bool:
        shutil.rmtree(to, ignore_errors=True)
        try:
            shutil.copytree(folder, to, symlinks=True)
        except shutil.Error as fault:
            raise AssertionError(f"{folder} cannot be copied") from fault
        return True

    await eventually(copied)


_KEEPERS: set[asyncio.Task[None]] = set()


def kept(store: Store, ttl_s: float) -> LeaseHandle:
    """A lease that is kept until it is revoked, its store is closed, or the test is over."""
    lease = store.lease(ttl_s)
    task = asyncio.get_running_loop().create_task(lease.keep())
    _KEEPERS.add(task)
    task.add_done_callback(_KEEPERS.discard)
    return lease
