"""Keeps the mesh's alerts, while this registry leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Final

import structlog

from bridge_core.snapshot import Snapshot
from bridge_registry.alerts.alert_rules import Alert, Seen, settle
from bridge_registry.health.keeper import HealthKeeper

log = structlog.get_logger()

TICK_S: Final = 1.0


class AlertDesk:
    """See the module; `run` is its one task.

    Args:
        keeper: Has the verdicts and what nodes report.
        snapshot: The published one.
        leads: Whether this registry leads.
        moving: Rollouts that are under way.
        now: Unix seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        keeper: HealthKeeper,
        snapshot: Callable[[], Snapshot],
        leads: Callable[[], bool],
        moving: Callable[[], Collection[str]],
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._keeper = keeper
        self._snapshot = snapshot
        self._leads = leads
        self._moving = moving
        self._now = now
        self._clock = clock
        self._alerts: dict[str, Alert] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._leads():
                self.look()

    def look(self) -> None:
        """Looks once."""
        now, clock = self._now(), self._clock()
        self._keeper.settle(clock)
        snapshot = self._snapshot()
        drained = {one.name for one in snapshot.nodes.values() if one.state != "active"}
        before = self._alerts
        self._alerts = settle(before, self._seen(clock), drained=drained, moving=self._moving(), now=now)
        for id_, alert in self._alerts.items():
            old = before.get(id_)
            if not alert.ended and (old is None or old.ended):
                log.warning("alert", alert=id_, severity=alert.seen.severity, summary=alert.seen.summary)
            elif alert.ended and old is not None and not old.ended:
                log.info("alert_over", alert=id_)

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Those that last first, the newest before the older."""
        return tuple(
            sorted(self._alerts.values(), key=lambda one: (one.ended > 0.0, -(one.ended or one.since)))
        )

    def _seen(self, now: float) -> Iterator[Seen]:
        """Everything that is wrong at monotonic time `now`."""
        for verdict in self._keeper.verdicts():
            node = verdict.instance.partition("/")[0]
            for reason in verdict.reasons:
                severity = "critical" if reason.level == "failing" else "warning"
                out = "; it takes no requests" if verdict.out and reason.aspect == "business" else ""
                summary = f"{verdict.instance}: {reason.text}{out}"
                yield _seen(reason.code, severity, node, verdict.instance, summary)
        for node, heard in self._keeper.heard.items():
            if not self._keeper.reports(node, now):
                summary = f"node {node} has not reported for {now - heard.at:.0f} s"
                yield _seen("node-away", "critical", node, "", summary)


def _seen(name: str, severity: str, node: str, instance: str, summary: str) -> Seen:
    return Seen(name, severity, node, instance, summary, f"bridgectl health {node}", f"{instance or node} ok")
