"""Moves rollouts on, while this registry leads: measures, decides, saves; the publisher does the rest.

A position takes effect when the store has it and the watch brought it back, so a new leader goes on
from exactly what agents act on. While the store is away nothing moves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from bridge_core import keyspace
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.snapshot import Snapshot
from bridge_core.store.api import Store
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.positions import Office, Positions
from bridge_registry.rollouts.effect_rules import eligible
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import (
    Commanded,
    Effect,
    Probed,
    RolloutPosition,
    Tell,
    Ticked,
    begin,
    decide,
)

log = structlog.get_logger()

TICK_S: Final = 1.0
_LONGEST_TICK_S: Final = 3 * TICK_S  # a suspended machine has not held a step meanwhile
_SAVE_EVERY_S: Final = 5.0  # what a new leader may have to measure again


class RolloutController:
    """See the module.

    Args:
        store: etcd.
        leadership: Only the leader decides.
        table: What is applied and stored.
        load: What agents report.
        snapshot: The published one: what agents act on.
        clock: Unix seconds, for the log that people read; nothing is decided by it.
        monotonic: Seconds that only go on.
    """

    def __init__(
        self,
        store: Store,
        leadership: Office,
        table: MeshTable,
        load: LoadReports,
        snapshot: Callable[[], Snapshot],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._table = table
        self._load = load
        self._snapshot = snapshot
        self._clock = clock
        self._monotonic = monotonic
        self._positions = Positions(
            store,
            leadership,
            keyspace.ROLLOUTS,
            lambda: table.positions,
            monotonic=monotonic,
            every_s=_SAVE_EVERY_S,
        )
        self._turn = asyncio.Lock()  # a command waits for the tick that runs, and the other way round

    async def run(self) -> None:
        """Ticks until cancelled."""
        last = self._monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = self._monotonic()
            passed, last = min(now - last, _LONGEST_TICK_S), now
            try:
                await self.tick(passed)
            except BridgeError as fault:
                log.warning("rollout_tick_failed", reason=str(fault))

    async def tick(self, seconds: float) -> None:
        """Every rollout decides; `seconds` went by since the last tick.

        Raises:
            Unavailable, StoreRefused: a position could not be saved; the former one stays.
        """
        if not self._leadership.leads() or self._store.fault is not None:
            self._positions.fall_back()
            return
        async with self._turn:
            plans = {plan.name: plan for plan in self._table.plans}
            for plan in plans.values():
                await self._move(plan, seconds)
            for name in self._table.positions.keys() - plans.keys():
                await self._forget(name)

    async def command(self, name: str, verb: str, by: str) -> RolloutPosition:
        """Does what an admin says; returns the position after it.

        Raises:
            BridgeError: there is no such rollout, or the command makes no sense now.
            Unavailable, StoreRefused: it could not be saved.
        """
        async with self._turn:
            plan = self.plan(name)
            current = self._positions.of(plan.name)
            if current is None:
                raise Unavailable(f"the rollout {name} is just beginning", hint="try again")
            position, effects = decide(plan, current[0], Commanded(verb, by), self._clock())
            await self._save(plan, position, current[1], effects)
            return position

    def plan(self, name: str) -> RolloutPlan:
        """The applied rollout of this name.

        Raises:
            BridgeError: there is none.
        """
        for plan in self._table.plans:
            if plan.name == name:
                return plan
        raise BridgeError(f"there is no rollout {name!r}", hint="`bridgectl rollout status` lists them")

    def positions(self) -> Iterable[tuple[RolloutPlan, RolloutPosition]]:
        """Every rollout and where it stands, the newest measurements included."""
        for plan in self._table.plans:
            found = self._positions.of(plan.name)
            yield plan, found[0] if found else RolloutPosition(plan.identity)

    async def _move(self, plan: RolloutPlan, seconds: float) -> None:
        stable, canary = (self._load.take(plan.route, key) for key in (plan.stable, plan.canary))
        current = self._positions.of(plan.name)
        if current is None:
            position, effects = begin(plan, self._clock())
            await self._save(plan, position, 0, effects)
            return
        event = Ticked(seconds, stable, canary, self._instances(plan), self._probed(plan))
        position, effects = decide(plan, current[0], event, self._clock())
        if effects or (position != current[0] and self._positions.due(plan.name)):
            await self._save(plan, position, current[1], effects)
        else:
            self._positions.keep(plan.name, position, current[1])

    async def _save(
        self, plan: RolloutPlan, position: RolloutPosition, revision: int, effects: Iterable[Effect]
    ) -> None:
        changed = f"the rollout {plan.name} changed meanwhile"
        await self._positions.save(plan.name, position, revision, changed=changed)
        for effect in effects:
            if isinstance(effect, Tell):
                log.info("rollout", name=plan.name, phase=position.phase, what=effect.what)

    async def _forget(self, name: str) -> None:
        await self._positions.forget(name)
        self._load.forget(name)
        log.info("rollout", name=name, what="its document is gone")

    def _instances(self, plan: RolloutPlan) -> tuple[str, ...]:
        snapshot = self._snapshot()
        route = snapshot.routes.get(plan.route)
        canary = [backend for backend in route.backends if backend.key == plan.canary] if route else []
        return eligible(canary[0], snapshot.instances.values(), snapshot.nodes) if canary else ()

    def _probed(self, plan: RolloutPlan) -> tuple[Probed, ...]:
        return tuple(
            Probed(result.instance, result.round, result.passed, result.detail)
            for result in self._load.results(plan.name)
        )
