"""Tasks beside the serving of requests: a fault of one is told and made good, and ends nothing else.

A vital task is one that the agent would be worth nothing without: that fault ends the agent, for its
service manager to start anew. Every other one runs under `Ancillaries.keep`. The rules of its restarts are
in `ancillary_rules`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Context
from time import monotonic
from typing import Any, Final, TypeAlias, TypeVar

import structlog

from bridge_agent.ancillary_rules import Restarts
from bridge_core.spelling import shortened

log = structlog.get_logger()

T = TypeVar("T")
Run: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_REQUEST: Final = "request"
_REASON: Final = 300  # characters of a fault's text


class Ancillaries:
    """Runs ancillary tasks, and knows which of them failed.

    Args:
        rng: For the jitter of the pauses.
        now: Monotonic seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        now: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rng = rng
        self._now = now
        self._sleep = sleep
        self._restarts: dict[str, Restarts] = {}

    @property
    def faults(self) -> Mapping[str, int]:
        """How often tasks failed, by name; those that did not are left out."""
        return {name: one.faults for name, one in self._restarts.items() if one.faults}

    def concerns(self) -> list[str]:
        """What an operator should know of, a sentence each."""
        now = self._now()
        said = ((name, one.concern(now)) for name, one in self._restarts.items())
        return [f"the task {name} {concern}; the log has the traceback" for name, concern in said if concern]

    async def keep(self, name: str, run: Run) -> None:
        """Runs `run` again after each fault, until it returns or is cancelled. For a task's root.

        Args:
            name: One of few: it is a label of the metrics.
            run: Makes what is awaited, anew for each run.
        """
        restarts = self._of(name)
        while True:
            restarts.began(self._now())
            fault = await _fault_of(run(), name)
            if fault is None:
                return
            pause = self._failed(restarts, fault)
            log.error(
                "task_failed",
                task=name,
                faults=restarts.faults,
                again_in_s=round(pause, 2),
                exc_info=fault,
            )
            await self._sleep(pause)

    async def once(self, name: str, work: Awaitable[T]) -> T | None:
        """What `work` comes to; None after a fault, which is told like any other. For a task's root."""
        restarts = self._of(name)
        restarts.began(self._now())
        try:
            return await work
        except Exception as fault:  # the task's root: logged whole, counted, shown
            self._failed(restarts, fault)
            log.exception("task_failed", task=name, faults=restarts.faults)
            return None

    def _of(self, name: str) -> Restarts:
        return self._restarts.setdefault(name, Restarts(self._rng))

    def _failed(self, restarts: Restarts, fault: BaseException) -> float:
        # Of a group's faults the first says more than how many there are.
        cause = fault
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        reason = shortened(f"{type(cause).__name__}: {cause}", _REASON)
        return restarts.failed(reason, self._now())


async def _fault_of(work: Coroutine[Any, Any, None], name: str) -> BaseException | None:
    """What `work` failed with, if it did; cancelled, it cancels `work` and waits for its end.

    In a task of its own: only so are the cancellation of whoever waits and a group's within, which
    leaves its mark on the task that it fails in, told apart.
    """
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.warning("task_failed_at_its_end", task=name, exc_info=fault)
        raise
    if task.cancelled():
        return asyncio.CancelledError("it was cancelled from within")
    return task.exception()


class RequestTasks(asyncio.TaskGroup):
    """A group for the tasks of requests: a fault of one ends neither the others nor the agent."""

    def __init__(self, ancillaries: Ancillaries) -> None:
        super().__init__()
        self._ancillaries = ancillaries

    def create_task(  # type: ignore[override]  # a task that failed has no result
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T | None]:
        """See `asyncio.TaskGroup`; the result of one that failed is None."""
        return super().create_task(self._ancillaries.once(_REQUEST, coro), name=name, context=context)
