"""One summary of the mesh for Prometheus, at the registry that leads: who scrapes it need not scrape nodes.

Series are bounded by what the mesh has: its nodes, their instances, its models and one for all other names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge_core.counts import BOUNDS, Counts
from bridge_core.mesh_picture import MeshPicture
from bridge_core.names import display_or_same
from bridge_registry.console.feed import Feed
from bridge_registry.console.traffic_rules import TrafficBook

STATES: Final = ("serving", "drained", "away", "no engine", "revoked")
_EVERY: Final = 4  # of the fine bounds that rollouts compare by: a bucket doubles, about


def mesh_metrics(picture: MeshPicture | None, totals: Mapping[str, Counts]) -> Iterator[Metric]:
    """The summary; nothing before the first picture, or where another registry leads and hears the reports.

    Args:
        picture: The newest.
        totals: By model, since this registry began.
    """
    if picture is None or not picture.registry.leads:
        return
    nodes = GaugeMetricFamily("bridge_mesh_nodes", "Nodes in each state.", labels=["state"])
    states = Counter(one.state for one in picture.nodes)
    for state in STATES:
        nodes.add_metric([state], states[state])
    yield nodes
    up = GaugeMetricFamily("bridge_mesh_node_up", "1 while it serves or is drained.", labels=["node"])
    for node in picture.nodes:
        up.add_metric([node.name], float(node.state in {"serving", "drained"}))
    yield up
    yield from _engines(picture)
    yield from _models(totals)


def _engines(picture: MeshPicture) -> Iterator[Metric]:
    busy = GaugeMetricFamily("bridge_mesh_in_flight", "Requests at an instance.", labels=["instance"])
    waiting = GaugeMetricFamily("bridge_mesh_waiting", "Requests that wait for a slot.", labels=["instance"])
    slots = GaugeMetricFamily("bridge_mesh_slots", "Requests it decodes at a time.", labels=["instance"])
    for one in (engine for node in picture.nodes for engine in node.instances):
        busy.add_metric([one.id], one.in_flight)
        waiting.add_metric([one.id], one.queued)
        slots.add_metric([one.id], one.slots)
    yield from (busy, waiting, slots)


def _models(totals: Mapping[str, Counts]) -> Iterator[Metric]:
    requests = CounterMetricFamily("bridge_mesh_requests", "Requests that ended.", labels=["model"])
    failed = CounterMetricFamily(
        "bridge_mesh_requests_failed", "Of them, those that failed.", labels=["model"]
    )
    tokens = CounterMetricFamily("bridge_mesh_tokens", "Generated in streams.", labels=["model"])
    first = HistogramMetricFamily(
        "bridge_mesh_first_byte_seconds", "From request to first byte.", labels=["model"]
    )
    for name, counts in list(totals.items()):
        label = [display_or_same(name)]
        requests.add_metric(label, counts.requests)
        failed.add_metric(label, counts.failed)
        tokens.add_metric(label, counts.tokens)
        first.add_metric(label, list(_buckets(counts)), sum_value=counts.ttft_s)
    yield from (requests, failed, tokens, first)


def _buckets(counts: Counts) -> Iterator[tuple[str, float]]:
    seen = 0
    for at, bound in enumerate(BOUNDS):
        seen += counts.ttft[at] if at < len(counts.ttft) else 0
        if at % _EVERY == 0:
            yield str(bound), seen
    yield "+Inf", sum(counts.ttft)


class MeshFigures(Collector):
    """Reads the summary when it is asked for.

    Args:
        feed: Has the newest picture.
        traffic: Has the totals.
    """

    def __init__(self, feed: Feed, traffic: TrafficBook) -> None:
        self._feed = feed
        self._traffic = traffic

    def describe(self) -> Iterable[Metric]:
        """See prometheus_client: named at collection."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        return mesh_metrics(self._feed.picture, self._traffic.totals)
