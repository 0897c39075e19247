"""What the agent's metrics say of quotas. Labels are quotas' names and what they count, never callers'."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from bridge_agent.telemetry.sources import QuotaFigures


def quota_metrics(figures: QuotaFigures) -> Iterator[Metric]:
    """All of them, at this moment."""
    meter = figures.meter
    refused = CounterMetricFamily(
        "bridge_quota_refused", "Requests refused for want of quota.", labels=["quota", "resource"]
    )
    for (quota, resource), count in list(meter.refused.items()):
        refused.add_metric([quota, resource], count)
    yield refused
    shadowed = CounterMetricFamily(
        "bridge_quota_shadowed", "Requests that a quota in shadow would have refused.", labels=["quota"]
    )
    for quota, count in list(meter.shadowed.items()):
        shadowed.add_metric([quota], count)
    yield shadowed
    used: dict[tuple[str, str], tuple[int, int, int]] = {}
    for cell in meter.book.cells:
        of: tuple[str, str] = (cell.bucket.quota, cell.bucket.resource)
        count, claimed, limit = used.get(of, (0, 0, 0))
        used[of] = (count + 1, claimed + cell.claimed, limit + cell.limit)
    families = (
        ("bridge_quota_buckets", "Buckets that this node keeps."),
        ("bridge_quota_claimed", "Used and reserved of them at this node, in the windows that are now."),
        ("bridge_quota_granted", "What this node may use of them."),
    )
    for at, (name, help_) in enumerate(families):
        family = GaugeMetricFamily(name, help_, labels=["quota", "resource"])
        for labels, counts in used.items():
            family.add_metric(list(labels), counts[at])
        yield family
    yield GaugeMetricFamily(
        "bridge_quota_leased", "1 while a registry answers.", value=float(figures.leased())
    )
