"""Moves rollouts on, while this registry leads: measures, decides, saves; the publisher does the rest.

A position takes effect when the store has it and the watch brought it back, so a new leader goes on
from exactly what agents act on. While the store is away nothing moves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from bridge_core import keyspace
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.snapshot import Snapshot
from bridge_core.store.api import Delete, Put, Store, Unchanged
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.records import encode
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


class Office(Protocol):
    """Whether this registry leads; see `bridge_registry.leadership`."""

    def leads(self) -> bool:
        """Whether it leads now."""

    def fence(self) -> Unchanged:
        """The condition of its writes. Raises Unavailable when it does not lead."""


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
        # Positions ahead of the store by what was measured since, and the revision they come from.
        self._ahead: dict[str, tuple[RolloutPosition, int]] = {}
        self._saved_at: dict[str, float] = {}
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
            self._ahead.clear()
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
            current = self._position(plan)
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
            found = self._position(plan)
            yield plan, found[0] if found else RolloutPosition(plan.identity)

    async def _move(self, plan: RolloutPlan, seconds: float) -> None:
        stable, canary = (self._load.take(plan.route, key) for key in (plan.stable, plan.canary))
        current = self._position(plan)
        if current is None:
            position, effects = begin(plan, self._clock())
            await self._save(plan, position, 0, effects)
            return
        event = Ticked(seconds, stable, canary, self._instances(plan), self._probed(plan))
        position, effects = decide(plan, current[0], event, self._clock())
        due = (
            position != current[0] and self._monotonic() - self._saved_at.get(plan.name, 0.0) > _SAVE_EVERY_S
        )
        if effects or due:
            await self._save(plan, position, current[1], effects)
        else:
            self._ahead[plan.name] = (position, current[1])

    def _position(self, plan: RolloutPlan) -> tuple[RolloutPosition, int] | None:
        """The position to go on from; one that is stored stands over one that was made from an older."""
        stored = self._table.positions.get(plan.name)
        ahead = self._ahead.get(plan.name)
        if ahead is not None and (stored is None or ahead[1] >= stored[1]):
            return ahead
        return stored

    async def _save(
        self, plan: RolloutPlan, position: RolloutPosition, revision: int, effects: Iterable[Effect]
    ) -> None:
        key = keyspace.ROLLOUTS + plan.name
        conditions = [Unchanged(key, revision), self._leadership.fence()]
        try:
            outcome = await self._store.commit([Put(key, encode(position))], if_=conditions)
        except BridgeError:
            self._ahead.pop(plan.name, None)  # it may be stored or not: the watch will tell
            raise
        if not outcome.committed:
            self._ahead.pop(plan.name, None)
            raise Unavailable(f"the rollout {plan.name} changed meanwhile", hint="try again")
        self._ahead[plan.name] = (position, outcome.revision)
        self._saved_at[plan.name] = self._monotonic()
        for effect in effects:
            if isinstance(effect, Tell):
                log.info("rollout", name=plan.name, phase=position.phase, what=effect.what)

    async def _forget(self, name: str) -> None:
        await self._store.commit([Delete(keyspace.ROLLOUTS + name)], if_=[self._leadership.fence()])
        self._ahead.pop(name, None)
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
