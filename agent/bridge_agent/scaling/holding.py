"""Loads and unloads models of this node's own instances as the mesh's holders say (`holding_rules`).

One instance at a time: loads of one node share its disk. A load may take minutes; it is given up when its
time is over, and the registry, which waits for the model to be in memory, asks somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from bridge_agent.engines.client import ResidentModel
from bridge_agent.engines.view import LocalInstance
from bridge_agent.loading.model_loads import WarmedUp, warmed_up
from bridge_agent.scaling.holding_rules import PAUSE_S, Step, step
from bridge_core.errors import BridgeError
from bridge_core.holders import ModelHolders
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Snapshot

log = structlog.get_logger()

_LOOK_S: Final = 1.0
_ASK_S: Final = 10.0
_LOAD_S: Final = 600.0
_USUALLY: Final = "5m"
_KEEP_ALIVE: Final[dict[Step, str | int]] = {"load": -1, "unload": 0, "unpin": _USUALLY}


class Holding(WarmedUp, Protocol):
    """An engine that holds models."""

    async def loaded(self) -> tuple[ResidentModel, ...]:
        """The models in its memory. Raises BridgeError."""

    async def load(self, model: str, *, keep_alive: str | int | None = None) -> None:
        """Loads a model, or with 0 lets go of it. Raises BridgeError."""

    async def close(self) -> None:
        """Lets go of its connections."""


class ModelHolding:
    """See the module.

    Args:
        snapshot: The current one.
        instances: This node's, as they are now.
        connect: Opens an engine's API.
        changed: Told of an instance whose models in memory changed.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        instances: Callable[[], tuple[LocalInstance, ...]],
        connect: Callable[[LocalInstance], Holding],
        *,
        changed: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._snapshot = snapshot
        self._instances = instances
        self._connect = connect
        self._changed = changed
        self._clock = clock
        self._ours: set[tuple[str, str]] = set()  # instance and canonical name
        self._faults: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Brings every instance one step nearer to what is wanted of it."""
        holders = self._snapshot().holders
        if not holders and not self._ours:
            return
        for instance in self._instances():
            if instance.state == "ready" and instance.port:
                await self._look_at(instance, holders)

    async def _look_at(self, instance: LocalInstance, holders: tuple[ModelHolders, ...]) -> None:
        models = {canonical_or_same(one.name): one.name for one in instance.models}
        held = {
            canonical_or_same(one.model): instance.id in one.active or instance.id in one.held
            for one in holders
        }
        ours = {name for id_, name in self._ours if id_ == instance.id}
        looked_at = [name for name in {*held, *ours} if name in models]
        if not looked_at:
            return
        engine = self._connect(instance)
        try:
            async with asyncio.timeout(_ASK_S):
                now = datetime.now(UTC)
                resident = {
                    canonical_or_same(one.name): one.expires_in_s(now) for one in await engine.loaded()
                }
            # What is in memory no more is nobody's to let go of.
            self._ours -= {(instance.id, name) for name in ours if name not in resident}
            for name in sorted(looked_at):
                await self._step(
                    engine,
                    instance.id,
                    name,
                    models[name],
                    step(
                        held=held.get(name, False),
                        scaled=name in held,
                        ours=name in ours,
                        expires_in_s=resident.get(name),
                        since_fault_s=self._clock() - self._faults.get((instance.id, name), -PAUSE_S),
                    ),
                )
        except (BridgeError, TimeoutError) as fault:
            log.info("holders_not_seen", instance=instance.id, reason=str(fault) or "no answer")
        finally:
            await engine.close()

    async def _step(self, engine: Holding, instance: str, name: str, model: str, what: Step) -> None:
        key = (instance, name)
        if not what:
            return
        log.info("model_holding", instance=instance, model=model, step=what)
        try:
            async with asyncio.timeout(_LOAD_S):
                await engine.load(model, keep_alive=_KEEP_ALIVE[what])
        except (BridgeError, TimeoutError) as fault:
            reason = str(fault) or f"not done within {_LOAD_S:.0f} s"
            self._faults[key] = self._clock()
            log.warning("model_not_held", instance=instance, model=model, step=what, reason=reason)
            return
        self._faults.pop(key, None)
        if what == "load":
            self._ours.add(key)
            await warmed_up(engine, model)
        else:
            self._ours.discard(key)
        self._changed(instance)
