"""Alerts, put together."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from pathlib import Path

from bridge_core.snapshot import Snapshot
from bridge_core.store.api import Store
from bridge_registry.alerts import delivery_rules, threshold_rules
from bridge_registry.alerts.alert_store import AlertStore
from bridge_registry.alerts.courier import Courier
from bridge_registry.alerts.delivery_rules import ReceiverPlan
from bridge_registry.alerts.desk import AlertDesk
from bridge_registry.alerts.posting import SECRETS, Answer, post
from bridge_registry.alerts.threshold_rules import RulePlan
from bridge_registry.health.keeper import HealthKeeper
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.positions import Office


class Alerting:
    """The desk that knows the alerts, and the courier that tells of them.

    Args:
        store: etcd.
        leadership: Only the leader alerts.
        table: Has the rules and the receivers.
        keeper: Has the verdicts and what nodes report.
        snapshot: The published one.
        moving: Rollouts that are under way.
        mesh: The trust domain.
        state: The registry's state folder, which has the receivers' secrets.
    """

    def __init__(
        self,
        store: Store,
        leadership: Office,
        table: MeshTable,
        keeper: HealthKeeper,
        *,
        snapshot: Callable[[], Snapshot],
        moving: Callable[[], Collection[str]],
        mesh: str,
        state: Path,
    ) -> None:
        self._table = table
        self._secrets = state / SECRETS
        kept = AlertStore(store, leadership)
        self.desk = AlertDesk(
            keeper,
            kept,
            snapshot,
            self.rules,
            moving,
            now=time.time,
            clock=time.monotonic,
            mesh=mesh,
        )
        self.courier = Courier(
            self.desk,
            kept,
            self.receivers,
            self._send,
            mesh,
            now=time.time,
            rng=random.SystemRandom(),
        )

    def rules(self) -> list[RulePlan]:
        """The AlertRules, as they are followed."""
        return [threshold_rules.plan_of(one) for one in self._table.alert_rules]

    def receivers(self) -> dict[str, ReceiverPlan]:
        """The AlertReceivers, by name."""
        return {one.metadata.name: delivery_rules.plan_of(one) for one in self._table.alert_receivers}

    async def _send(self, plan: ReceiverPlan, body: bytes) -> Answer:
        return await post(plan, body, self._secrets)
