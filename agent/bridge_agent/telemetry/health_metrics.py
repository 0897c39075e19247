"""Metrics of instances' health. Labels are this node's instances, and words that the code knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from bridge_core.gauges import Gauge
from bridge_core.verdicts import ASPECTS, LEVELS, Verdict, worst


def health_metrics(verdicts: Iterable[Verdict], gauges: Iterable[Gauge]) -> Iterator[Metric]:
    """All of them, at this moment."""
    health = GaugeMetricFamily(
        "bridge_instance_health",
        "How an instance is: 0 well, 1 degraded, 2 failing; by infrastructure, service and business.",
        labels=["instance", "aspect"],
    )
    out = GaugeMetricFamily(
        "bridge_instance_out", "1 while no request goes there, as its answers are wrong.", labels=["instance"]
    )
    for verdict in verdicts:
        for aspect in ASPECTS:
            level = worst(one.level for one in verdict.reasons if one.aspect == aspect)
            health.add_metric([verdict.instance, aspect], float(LEVELS.index(level)))
        out.add_metric([verdict.instance], float(verdict.out))
    yield from (health, out)
    families: dict[str, GaugeMetricFamily] = {}
    for one in gauges:
        for name, value in (
            (f"bridge_node_{one.name}", one.value),
            (f"bridge_node_{one.name}_limit", one.limit),
        ):
            if value == one.limit == 0.0 and name.endswith("_limit"):
                continue
            family = families.setdefault(
                name, GaugeMetricFamily(name, "See bridge_core.gauges.", labels=["of"])
            )
            family.add_metric([one.of], value)
    yield from families.values()
