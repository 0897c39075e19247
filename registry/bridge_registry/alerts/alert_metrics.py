"""Metrics of alerts and of their delivery. A registry that does not lead shows none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge_registry.alerts.courier import Courier
from bridge_registry.alerts.desk import AlertDesk

_SEVERITIES: Final = ("warning", "critical")


class AlertFigures(Collector):
    """Reads them when they are asked for.

    Args:
        desk: Has the alerts.
        courier: Knows what was told.
    """

    def __init__(self, desk: AlertDesk, courier: Courier) -> None:
        self._desk = desk
        self._courier = courier

    def describe(self) -> Iterable[Metric]:
        """See prometheus_client: named at collection."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        if not self._desk.term:
            return
        lasting = GaugeMetricFamily(
            "bridge_alerts", "Alerts that last and are not silenced.", labels=["severity"]
        )
        found = Counter(
            one.seen.severity for one in self._desk.known.values() if not one.ended and not one.silenced
        )
        for severity in _SEVERITIES:
            lasting.add_metric([severity], found[severity])
        yield lasting
        waiting = GaugeMetricFamily(
            "bridge_alerts_waiting", "Alerts that a receiver is still to be told of.", labels=["receiver"]
        )
        messages = CounterMetricFamily(
            "bridge_alert_messages", "Messages to a receiver.", labels=["receiver", "outcome"]
        )
        dropped = CounterMetricFamily(
            "bridge_alerts_dropped", "Alerts that a receiver will never be told of.", labels=["receiver"]
        )
        for name, told in sorted(self._courier.tellings.items()):
            waiting.add_metric([name], len(told.waiting))
            messages.add_metric([name, "delivered"], told.delivered)
            messages.add_metric([name, "failed"], told.failed)
            dropped.add_metric([name], told.dropped)
        yield from (waiting, messages, dropped)
