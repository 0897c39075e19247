"""Threads for what would stop the event loop, apart by what they may wait for.

One pool for all of it would be full as soon as a few registries stall, and then nothing that only
needs the disk or a processor would go on either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from bridge_core.dialects.errors import ApiError

T = TypeVar("T")
P = ParamSpec("P")

CORES: Final = len(os.sched_getaffinity(0))
"""Of this machine, as far as this process may use them."""

_END: Final = object()
_WAIT_FACTOR: Final = 8  # how many may wait for each thread before one more is refused


class Pool:
    """A bounded number of threads, and of those who wait for one."""

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = threads * (1 + _WAIT_FACTOR)
        self._users = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, which runs in a thread to its end even if nobody waits any more.

        Raises:
            ApiError: 503; as many wait as may.
        """
        self._enter()
        future = self._executor.submit(work, *args, **kwargs)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call(loop, self._leave))
        return await asyncio.wrap_future(future)

    async def steps(self, steps: Iterator[T]) -> AsyncGenerator[T]:
        """Runs a generator that blocks, a step at a time.

        Closing waits for the step under way, then closes the generator, so that it cleans up.

        Raises:
            ApiError: 503; as many wait as may, and nothing was begun.
        """
        self._enter()
        step: asyncio.Future[Any] | None = None
        try:
            while True:
                step = asyncio.wrap_future(self._executor.submit(next, steps, _END))
                value = await asyncio.shield(step)
                if value is _END:
                    return
                yield value
        finally:
            if step is not None and not step.done():
                await asyncio.wait([step])
            if hasattr(steps, "close"):
                await asyncio.wrap_future(self._executor.submit(steps.close))
            self._leave()

    def _enter(self) -> None:
        if self._users >= self._most:
            raise ApiError(503, "server busy, please try again.  maximum pending requests exceeded")
        self._users += 1

    def _leave(self) -> None:
        self._users -= 1

    def close(self) -> None:
        """Ends the threads once they are done; waits for none."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and what is counted with it
        loop.call_soon_threadsafe(callback)


class Pools:
    """The engine's threads.

    Attributes:
        network: What may wait for another machine: pulls, pushes, and creating from what must be pulled.
        disk: What waits for the disk alone.
        decode: What needs a processor for long: reading large bodies, writing large answers.
    """

    def __init__(self) -> None:
        self.network = Pool("engine-network", 16)
        self.disk = Pool("engine-disk", 8)
        self.decode = Pool("engine-decode", 2)

    def close(self) -> None:
        """See Pool.close."""
        for pool in (self.network, self.disk, self.decode):
            pool.close()
