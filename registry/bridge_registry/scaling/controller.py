"""Moves models on and off instances by their policies, while this registry leads.

It sees, decides (`scaling_rules`) and saves; the publisher tells agents when the watch brought the position
back, so a new leader goes on from exactly what agents act on. While the store is away nothing moves. A new
leader knows nobody's load until agents have reported to it: until then policies hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Snapshot
from bridge_core.store.api import Store
from bridge_registry.complaint import Complaint
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.positions import Office, Positions
from bridge_registry.scaling.plan import ScalingPlan, ScalingPosition, Sight, holders_of
from bridge_registry.scaling.scaling_rules import Tell, begin, decide
from bridge_registry.scaling.sight_rules import Mesh, sight

log = structlog.get_logger()

TICK_S: Final = 1.0
_SAVE_EVERY_S: Final = 30.0  # what a new leader may have to measure again
_LOOKS: Final = 3  # reports that agents have time for before a new leader begins


class Standing(msgspec.Struct, frozen=True):
    """A policy, where it stands and what it saw last."""

    plan: ScalingPlan
    position: ScalingPosition
    sight: Sight


class ScalingController:
    """See the module.

    Args:
        store: etcd.
        leadership: Only the leader decides.
        table: What is applied and stored.
        load: What agents report.
        snapshot: The published one.
        clock: Unix seconds.
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
            keyspace.SCALING,
            lambda: table.scaling,
            monotonic=monotonic,
            every_s=_SAVE_EVERY_S,
        )
        self._sights: dict[str, Sight] = {}
        self._ticks = 0

    async def run(self) -> None:
        """Ticks until cancelled."""
        complaint = Complaint("scaling_tick_failed")
        while True:
            await asyncio.sleep(TICK_S)
            with complaint.of_failure():
                await self.tick()

    async def tick(self) -> None:
        """Every policy decides, whatever becomes of the others.

        Raises:
            BridgeError: a position could not be saved; the former one stays. Of several, the first.
        """
        if not self._acts():
            self._positions.fall_back()
            self._sights.clear()
            self._ticks = 0
            return
        self._ticks += 1
        plans = {plan.name: plan for plan in self._table.scaled}
        mesh = self._mesh()
        first: BridgeError | None = None
        for name in [*plans, *(self._table.scaling.keys() - plans.keys())]:
            try:
                await (self._move(plans[name], plans, mesh) if name in plans else self._forget(name))
            except BridgeError as fault:
                first = first or fault
                if not self._acts():
                    break  # nothing else can be saved either
        if first is not None:
            raise first

    def standings(self) -> Iterable[Standing]:
        """Every policy.

        Raises:
            Unavailable: this registry does not lead, or has not seen enough yet.
        """
        if not self._leadership.leads():
            self._leadership.fence()
            raise Unavailable("no registry leads at present", hint="try again in some seconds")
        if self._ticks <= _LOOKS:
            raise Unavailable("the load is not known yet", hint="try again in some seconds")
        found = []
        for plan in self._table.scaled:
            current, seen = self._position(plan), self._sights.get(plan.name)
            if current is not None and seen is not None:
                found.append(Standing(plan, current[0], seen))
        return found

    def _acts(self) -> bool:
        return self._leadership.leads() and self._store.fault is None

    def _mesh(self) -> Mesh:
        snapshot = self._snapshot()
        return Mesh(
            snapshot.instances.values(),
            snapshot.nodes,
            snapshot.node_classes.values(),
            self._load.nodes,
            self._table.rollouts,
            snapshot.routes,
        )

    async def _move(self, plan: ScalingPlan, plans: dict[str, ScalingPlan], mesh: Mesh) -> None:
        now = self._clock()
        others = {
            name: found[0]
            for name, other in plans.items()
            if name != plan.name and (found := self._position(other)) is not None
        }
        asked = self._load.take_model(canonical_or_same(plan.model))
        seen = self._sights[plan.name] = sight(plan, mesh, asked, others, self._monotonic())
        current = self._position(plan)
        if current is None:
            if self._ticks > _LOOKS:  # members and loads have been read by then
                stored = self._table.scaling.get(plan.name)
                await self._save(plan, begin(plan, seen, now), stored[1] if stored else 0, ())
            return
        position, told = decide(plan, current[0], seen, now)
        changed = holders_of(plan, position) != holders_of(plan, current[0])
        if changed or self._positions.due(plan.name):
            await self._save(plan, position, current[1], told)
        else:
            self._positions.keep(plan.name, position, current[1])

    def _position(self, plan: ScalingPlan) -> tuple[ScalingPosition, int] | None:
        """Where a policy stands; None also where that was for another model."""
        found = self._positions.of(plan.name)
        return found if found is not None and found[0].model == plan.model else None

    async def _save(
        self, plan: ScalingPlan, position: ScalingPosition, revision: int, told: Iterable[Tell]
    ) -> None:
        changed = f"where the policy {plan.name} stands changed meanwhile"
        await self._positions.save(plan.name, position, revision, changed=changed)
        for one in told:
            log.info("scaling", policy=plan.name, model=plan.model, what=one.what)

    async def _forget(self, name: str) -> None:
        await self._positions.forget(name)
        self._sights.pop(name, None)
        log.info("scaling", policy=name, what="its document is gone")
