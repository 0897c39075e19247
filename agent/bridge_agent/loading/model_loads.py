"""The loads of this node's instances, held by the agent: a client that leaves takes no load with it.

A real Ollama gives a load up when the request that caused it is cancelled; so the request that causes it is
the agent's own, for no prompt at all, and clients' requests wait here for its end. What goes on is told to
the mesh with the instance's record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from bridge_agent.engines.client import EngineFault
from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.ports import LoadWaiter
from bridge_agent.loading.load_options import LoadOptions
from bridge_agent.loading.load_rules import InstanceLoads, ModelLoad
from bridge_agent.routing.health_rules import Failure
from bridge_core.errors import BridgeError
from bridge_core.http1 import ConnectFailed
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import LoadingModel, MemberModel

log = structlog.get_logger()

WARM_UP_S: Final = 30.0


class WarmedUp(Protocol):
    """An engine whose models can do their first work for nobody."""

    async def warm_up(self, model: str, *, embedding: bool = False) -> None:
        """Has a model that is in memory do its first work. Raises BridgeError."""


class LoadingEngine(WarmedUp, Protocol):
    """An engine that loads models."""

    async def load(
        self,
        model: str,
        *,
        keep_alive: str | int | None = None,
        options: LoadOptions | None = None,
        embedding: bool = False,
    ) -> None:
        """Returns when it is in memory. Raises BridgeError."""

    async def close(self) -> None:
        """Lets go of its connections."""


async def warmed_up(engine: WarmedUp, model: str, *, embedding: bool = False) -> None:
    """Has a model that was just loaded for nobody yet do its first work; that it cannot is nobody's fault."""
    try:
        async with asyncio.timeout(WARM_UP_S):
            await engine.warm_up(model, embedding=embedding)
    except (BridgeError, TimeoutError) as fault:
        log.info("model_not_warmed_up", model=model, reason=str(fault) or f"not within {WARM_UP_S:.0f} s")


class LoadFigures:
    """What came of loads since the agent began.

    Attributes:
        begun: Loads.
        done: Of them, those that brought the model into memory, or were the engine's to refuse.
        failed: Of them, those that did not.
        joined: Requests that waited for one.
        left_behind: Of those done, the ones that nobody waited for any more.
    """

    __slots__ = ("begun", "done", "failed", "joined", "left_behind")

    def __init__(self) -> None:
        self.begun = 0
        self.done = 0
        self.failed = 0
        self.joined = 0
        self.left_behind = 0


class ModelLoads:
    """See the module. Belongs to the event loop; `run` is to run as a task beside the serving.

    Args:
        instances: This node's, as they are now.
        connect: Opens an engine's API.
        changed: Told of an instance whose loads, or models in memory, changed.
        now: Monotonic seconds.
        wall: Unix seconds.

    Attributes:
        figures: For metrics.
    """

    def __init__(
        self,
        instances: Callable[[], Sequence[LocalInstance]],
        connect: Callable[[LocalInstance], LoadingEngine],
        *,
        changed: Callable[[str], None],
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._connect = connect
        self._changed = changed
        self._now = now
        self._wall = wall
        self._loads: dict[str, InstanceLoads[LoadWaiter]] = {}
        self._news = asyncio.Event()
        self.figures = LoadFigures()

    # -- for requests

    def wait(
        self,
        instance: str,
        model: MemberModel,
        options: LoadOptions,
        waiter: LoadWaiter,
        *,
        embedding: bool = False,
    ) -> bool:
        """Has `waiter` told when the model is in the instance's memory; False: it need not wait."""
        loads = self._loads.setdefault(instance, InstanceLoads())
        name = canonical_or_same(model.name)
        load = ModelLoad[LoadWaiter](name, options, model.name, model.size, embedding=embedding)
        if not loads.join(load, waiter, self._now()):
            return False
        self.figures.joined += 1
        self._news.set()
        return True

    def leave(self, instance: str, waiter: LoadWaiter) -> None:
        """It waits no longer; the load that it waited for goes on if it has begun."""
        loads = self._loads.get(instance)
        if loads is not None:
            loads.leave(waiter)

    def unloaded(self, instance: str, model: str) -> None:
        """A client has the model of this canonical name taken out of the instance's memory."""
        loads = self._loads.get(instance)
        if loads is not None:
            loads.unloaded(model)

    def rest_s(self, instance: str) -> float:
        """Seconds until the load that goes on there is done, as far as can be told; 0: nobody knows."""
        loads = self._loads.get(instance)
        return 0.0 if loads is None else loads.rest_s(self._now())

    def awaits_its_turn(self, instance: str, waiter: LoadWaiter) -> bool:
        """Whether what it waits for has not begun: other models are loaded there first."""
        loads = self._loads.get(instance)
        return loads is not None and loads.awaits_its_turn(waiter)

    @property
    def busy(self) -> bool:
        """Whether anything is being loaded."""
        return any(loads.running is not None for loads in list(self._loads.values()))

    # -- for the mesh

    def shown(self, instances: Sequence[LocalInstance]) -> tuple[LocalInstance, ...]:
        """These with what they load now."""
        return tuple(self._with_loads(one) for one in instances)

    def _with_loads(self, instance: LocalInstance) -> LocalInstance:
        loads = self._loads.get(instance.id)
        running = None if loads is None else loads.running
        if running is None or running.begun is None:
            return instance
        since = self._wall() - (self._now() - running.begun)
        shown = LoadingModel(running.name, round(since, 1), round(running.expected_s, 1))
        return msgspec.structs.replace(instance, loading=(shown,))

    # -- the task

    async def run(self) -> None:
        """Loads what is waited for, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                present = {one.id: one for one in self._instances()}
                for id_, loads in list(self._loads.items()):
                    load = loads.begin(self._now())
                    if load is not None:
                        group.create_task(self._load(id_, present.get(id_), loads, load))
                await self._news.wait()

    async def _load(
        self,
        id_: str,
        instance: LocalInstance | None,
        loads: InstanceLoads[LoadWaiter],
        load: ModelLoad[LoadWaiter],
    ) -> None:
        self.figures.begun += 1
        fault: tuple[Failure, str] | None = (Failure.CUT, "this agent is stopping")
        try:
            self._changed(id_)
            fault = await self._ask(instance, load)
        except Exception:  # the task's root: a fault here must not end the loads of other instances
            log.exception("model_load_failed", instance=id_, model=load.name)
            fault = Failure.CUT, f"this agent failed while it had {load.name} loaded; its log says why"
        finally:
            waiters = loads.ended(self._now(), loaded=fault is None)
            self._tell(id_, load, waiters, fault)

    def _tell(
        self,
        id_: str,
        load: ModelLoad[LoadWaiter],
        waiters: tuple[LoadWaiter, ...],
        fault: tuple[Failure, str] | None,
    ) -> None:
        took_s = round(self._now() - (load.begun or 0.0), 3)
        if fault is None:
            self.figures.done += 1
            self.figures.left_behind += not waiters
            event = "model_load_refused" if load.refused else "model_loaded"
            log.info(event, instance=id_, model=load.name, took_s=took_s, waited=len(waiters))
        else:
            self.figures.failed += 1
            log.warning("model_not_loaded", instance=id_, model=load.name, took_s=took_s, reason=fault[1])
        loop = asyncio.get_running_loop()
        for waiter in waiters:  # each by itself: one's fault must not leave the others waiting
            if fault is None:
                loop.call_soon(waiter.loaded)
            else:
                loop.call_soon(waiter.load_failed, *fault)
        self._news.set()
        self._changed(id_)

    async def _ask(
        self, instance: LocalInstance | None, load: ModelLoad[LoadWaiter]
    ) -> tuple[Failure, str] | None:
        """Has it loaded; why that failed, in words for those who wait."""
        if instance is None or not instance.port:
            return Failure.CONNECT, "the engine is gone"
        engine = self._connect(instance)
        try:
            async with asyncio.timeout(load.longest_s):
                await engine.load(load.name, options=load.options, embedding=load.embedding)
            if not load.waiters:  # else the first of them has it do its first work
                await warmed_up(engine, load.name, embedding=load.embedding)
        except EngineFault as fault:
            if fault.status < 500:
                load.refused = True
                return None  # each request is told so by the engine itself, in its protocol's words
            refused = fault.status == 503
            return (Failure.REFUSED if refused else Failure.NOT_LOADED), fault.reason
        except ConnectFailed as fault:
            return Failure.CONNECT, fault.message
        except TimeoutError:
            return Failure.TIMEOUT, f"{load.name} was not in memory within {load.longest_s:.0f} s"
        except BridgeError as fault:
            return Failure.CUT, f"the engine's answer broke off while it loaded {load.name}: {fault}"
        finally:
            await engine.close()
        return None
