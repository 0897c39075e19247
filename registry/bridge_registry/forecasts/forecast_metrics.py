"""Metrics of forecasts: when the first of a node's disks, GPUs, queues and streams hits its limit.

A series for each node and figure that is forecast to, within a day: bounded by four times the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge_registry.forecasts.series import Forecast

_MOST: Final = 4096


class ForecastFigures(Collector):
    """Reads them when they are asked for.

    Args:
        forecasts: Of series that hit their limit, the first before the others; none where another registry
            leads.
    """

    def __init__(self, forecasts: Callable[[], Iterable[Forecast]]) -> None:
        self._forecasts = forecasts

    def describe(self) -> Iterable[Metric]:
        """See prometheus_client: named at collection."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        hit = GaugeMetricFamily(
            "bridge_mesh_forecast_limit_seconds",
            "Until the first series of this figure at this node is likely to hit its limit; "
            "absent: not within a day.",
            labels=["node", "figure"],
        )
        first = dict[tuple[str, str], float]()
        for one in self._forecasts():
            if math.isfinite(one.likely_s) and len(first) < _MOST:
                key = one.place.node, one.figure
                first[key] = min(one.likely_s, first.get(key, math.inf))
        for (node, figure), seconds in sorted(first.items()):
            hit.add_metric([node, figure], seconds)
        yield hit
