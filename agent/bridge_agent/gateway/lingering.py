"""Slots that requests gave up and engines still work in: free when the engine says so.

Rules:
1. An engine that tells its slots (`GET /bridge/slots`, the embedded one does) is asked again and
   again while a slot is suspect; a slot is free as soon as the engine works in no more of them than
   it has requests. The engine's own count and this agent's are both looked at: either may be the one
   that has not heard of the newest request, or of the end of the last.
2. One that does not tell (a real Ollama) has the time that the configuration gives it.
3. One that does not answer, too: whether it is well is another's question.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from bridge_agent.gateway.admission import Admission
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView, Target
from bridge_core.errors import BridgeError

log = structlog.get_logger()

PATH: Final = "/bridge/slots"
_EVERY_S: Final = 0.025
_ANSWER_S: Final = 5.0
_LONGEST_S: Final = 120.0
_ANSWER_MOST: Final = 1 << 20


class _Slots(msgspec.Struct):
    busy: int
    running: int


class _Answer(msgspec.Struct):
    models: tuple[_Slots, ...] = ()


class Lingering:
    """Watches the suspect slots of this node's instances.

    Args:
        admission: Whose slots; told when they are free.
        view: Where the instances are.
        upstreams: How they are reached.
        group: Where the tasks run.
    """

    def __init__(
        self, admission: Admission, view: MeshView, upstreams: Upstreams, group: asyncio.TaskGroup
    ) -> None:
        self._admission = admission
        self._view = view
        self._upstreams = upstreams
        self._group = group
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._mute: set[str] = set()  # addresses of engines that do not tell
        self._closed = False

    def watch(self, instance: str) -> bool:
        """A slot there became suspect; False where time has to free it."""
        target = self._view.index.targets.get(instance)
        if self._closed or target is None or target.address in self._mute:
            return False
        if instance not in self._tasks:
            self._tasks[instance] = self._group.create_task(self._watch(target), name=f"slots-{instance}")
        return True

    def close(self) -> None:
        """Asks nobody any more."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()

    async def _watch(self, target: Target) -> None:
        try:
            await self._follow(target)
        finally:
            # Here and not when the task is done: a slot that turns suspect in between has its own watcher.
            del self._tasks[target.id]
        self._admission.clear_in_time(target.id)

    async def _follow(self, target: Target) -> None:
        admission = self._admission
        try:
            async with asyncio.timeout(_LONGEST_S):
                while admission.suspects(target.id):
                    lingering = await self._ask(target)
                    if lingering is None:
                        break
                    admission.linger(target.id, lingering)
                    await asyncio.sleep(_EVERY_S)
        except TimeoutError:
            log.warning("slot_stays_busy", instance=target.id, asked_for_s=_LONGEST_S)

    async def _ask(self, target: Target) -> int | None:
        """Slots that the engine works in for nobody; None where it does not say."""
        try:
            pool = self._upstreams.pool(target)
            async with asyncio.timeout(_ANSWER_S), pool.request("GET", PATH, ()) as response:
                body = await response.read(_ANSWER_MOST)
            if response.status != 200:
                self._mute.add(target.address)
                return None
            models = msgspec.json.decode(body, type=_Answer).models
        except (BridgeError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            log.info("slots_not_told", instance=target.id, reason=str(fault) or "timed out")
            return None
        by_engine = sum(max(0, one.busy - one.running) for one in models)
        by_agent = sum(one.busy for one in models) - self._admission.running(target.id)
        return max(by_engine, by_agent, 0)
