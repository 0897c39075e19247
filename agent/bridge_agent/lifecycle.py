"""The life of an agent: everything under one TaskGroup, from its first task to an orderly end.

Rules:
1. A vital task that fails ends the agent, for its service manager to start anew: listeners, the engines'
   supervision, the subscription to the mesh. Engines run on, and the next agent takes them over.
2. Every other task is ancillary: a fault of it is told and the task run again (`ancillaries`). So is
   what requests run: a fault in one is its own.
3. On the first signal the lease is revoked, so that nobody sends new work; then new requests are
   refused, running ones finish, and the engines stop. A second signal cuts that short.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol, TypeAlias

import structlog

from bridge_agent.ancillaries import Ancillaries, RequestTasks, Run
from bridge_core.errors import BridgeError

log = structlog.get_logger()

Phase: TypeAlias = Literal["starting", "serving", "draining"]

_TAKE_UP_S: Final = 2.0  # for engines that run already
_CUT_S: Final = 2.0  # for answers that ended to leave the buffers


class Engines(Protocol):
    """The node's engines."""

    async def run(self) -> None:
        """Keeps them running; cancelled, it leaves them so."""

    async def taken_up(self, within_s: float) -> None:
        """Returns once those that ran before are in use, or in time."""

    async def stop(self) -> None:
        """Ends them all."""


class Work(Protocol):
    """The requests that the agent serves."""

    @property
    def in_flight(self) -> int:
        """All of them."""
        ...

    @property
    def own_work(self) -> int:
        """Those at this node's own engines."""
        ...

    def drain(self) -> None:
        """No new ones for this node's engines."""


class Listeners(Protocol):
    """Where requests come in."""

    def retire(self) -> None:
        """Leaves whoever connects from now on in the sockets' queues."""

    def tell_draining(self) -> None:
        """Says to those who watch the service's health that it takes no more."""

    async def close(self, grace_s: float, hurry: asyncio.Task[None]) -> None:
        """Closes them; answers under way may take so long, or until `hurry` is done."""


class Membership(Protocol):
    """The node's place in the mesh."""

    async def revoke(self) -> None:
        """Takes its instances out of the ring."""


class Manager(Protocol):
    """The service manager that started this process."""

    def tell(self, state: str) -> None:
        """Tells it how the service is."""


class Lifecycle:
    """Runs an agent's tasks once, from the start to the end.

    Args:
        engines: Started first, stopped last.
        leave_engines: Told when the engines are to outlive this agent, and what they need with them.
        work: What has to be finished before the end.
        listeners: Closed when it is.
        membership: Given up first.
        manager: Told of each phase.
        ancillaries: Keeps the tasks that are not vital.
        requests: Where requests' own tasks live.
        inherited: Whether the sockets outlive this agent, so that clients may wait in their queues.

    Attributes:
        phase: Where it is.
    """

    def __init__(
        self,
        *,
        engines: Engines,
        leave_engines: Callable[[], None],
        work: Work,
        listeners: Listeners,
        membership: Membership,
        manager: Manager,
        ancillaries: Ancillaries,
        requests: RequestTasks,
        inherited: bool,
    ) -> None:
        self._engines = engines
        self._leave_engines = leave_engines
        self._work = work
        self._listeners = listeners
        self._membership = membership
        self._manager = manager
        self._ancillaries = ancillaries
        self._requests = requests
        self._inherited = inherited
        self._settled = asyncio.Event()
        self.phase: Phase = "starting"

    def settled(self) -> None:
        """A request is over."""
        self._settled.set()

    async def run(
        self,
        signals: asyncio.Queue[None],
        *,
        listen: Run,
        vital: Mapping[str, Run],
        ancillary: Mapping[str, Run],
        keep_engines: bool,
        drain_s: float,
    ) -> None:
        """Serves until the first item of `signals`, then drains; a second item cuts the drain short.

        Args:
            signals: See above.
            listen: Opens the listeners.
            vital: Tasks whose fault ends the agent, besides the engines'.
            ancillary: All others.
            keep_engines: Leave the engines running at the end.
            drain_s: How long running requests may take to finish.

        Raises:
            ExceptionGroup: the agent could not start (a BridgeError in it), or a vital task failed.
        """
        async with asyncio.TaskGroup() as group, self._requests:
            engines = group.create_task(self._vital("engines", self._engines.run), name="engines")
            # Clients may be waiting in the sockets' queues; they are not to hear that models are unknown
            # only because the engines of the last run have not been looked at yet.
            await self._engines.taken_up(_TAKE_UP_S)
            try:
                await listen()
            except BridgeError:
                await self._engines.stop()
                raise
            tasks = [group.create_task(self._vital(name, run), name=name) for name, run in vital.items()]
            tasks += [
                group.create_task(self._ancillaries.keep(name, run), name=f"{name} (kept)")
                for name, run in ancillary.items()
            ]
            self._begin()
            await signals.get()
            await self._drain(signals, drain_s)
            if keep_engines:
                self._leave_engines()
                engines.cancel()
            else:
                await self._engines.stop()
            for task in tasks:
                task.cancel()

    def _begin(self) -> None:
        self.phase = "serving"
        self._manager.tell("READY=1")
        gc.collect()
        gc.freeze()  # what was loaded stays: no need to look at it again and again

    async def _vital(self, name: str, run: Run) -> None:
        try:
            await run()
        except Exception:
            log.exception("vital_task_failed", task=name)
            self._leave_engines()
            raise

    async def _drain(self, signals: asyncio.Queue[None], drain_s: float) -> None:
        log.info("agent_draining", in_flight=self._work.in_flight, deadline_s=drain_s)
        self.phase = "draining"
        self._manager.tell("STOPPING=1")
        if self._inherited:
            self._listeners.retire()
        await self._membership.revoke()
        self._work.drain()
        self._listeners.tell_draining()
        hurry = asyncio.create_task(signals.get())
        began = time.monotonic()
        try:
            async with asyncio.timeout(drain_s):
                while self._work.own_work and not hurry.done():
                    self._settled.clear()
                    settled = asyncio.create_task(self._settled.wait())
                    await asyncio.wait({settled, hurry}, return_when=asyncio.FIRST_COMPLETED)
                    settled.cancel()
        except TimeoutError:
            log.warning("requests_cut", in_flight=self._work.in_flight)
        # Only now are clients turned away: until here peers answered what they brought.
        left_s = max(_CUT_S, drain_s - (time.monotonic() - began))
        await self._listeners.close(0.0 if self._work.own_work else left_s, hurry)
        hurry.cancel()
