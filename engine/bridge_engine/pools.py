"""Threads for what would stop the event loop, apart by what they may wait for.

One pool for all of it would be full as soon as a few registries stall, and then nothing that only
needs the disk or a processor would go on either.
"""

from __future__ import annotations

import asyncio
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
    """A bounded number of threads, and of long pieces of work that wait for one."""

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = threads * (1 + _WAIT_FACTOR)
        self._long = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, which is short, and runs to its end even if nobody waits any more."""
        return await asyncio.wrap_future(self._executor.submit(work, *args, **kwargs))

    async def steps(self, steps: Iterator[T]) -> AsyncGenerator[T]:
        """Runs a generator that blocks, a step at a time.

        Closing waits for the step under way, then closes the generator, so that it cleans up.

        Raises:
            ApiError: 503; as many wait as may, and nothing was begun.
        """
        if self._long >= self._most:
            raise ApiError(503, "server busy, please try again.  maximum pending requests exceeded")
        self._long += 1
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
                if not step.cancelled():
                    step.exception()  # seen: whoever would hear of it has left
            if hasattr(steps, "close"):
                await asyncio.wrap_future(self._executor.submit(steps.close))
            self._long -= 1

    def close(self) -> None:
        """Ends the threads once they are done; waits for none."""
        self._executor.shutdown(wait=False, cancel_futures=True)


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
