"""Metrics of forecasts: when the first of a node's disks, GPUs, queues and streams hits its limit.

A series for each node and figure that is forecast to, within a day: bounded by four times the nodes. And how
full what is fullest of a node is now, and will be in an hour, of its disks, GPUs and queues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge_registry.forecasts.series import Forecast

_MOST: Final = 4096
_WHEN: Final = ("now", "hour", "hour_most")


class ForecastFigures(Collector):
    """Reads them when they are asked for.

    Args:
        forecasts: Of series that hit their limit, the first before the others; none where another registry
            leads.
        fullest: By figure and node, as `Series.fullest` says.
    """

    def __init__(
        self,
        forecasts: Callable[[], Iterable[Forecast]],
        fullest: Callable[[], Mapping[str, Mapping[str, tuple[float, float, float]]]],
    ) -> None:
        self._forecasts = forecasts
        self._fullest = fullest

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
        used = GaugeMetricFamily(
            "bridge_mesh_forecast_used_ratio",
            "How much of its limit a node's fullest series of this figure uses: now, likely in an hour, and "
            "then at the upper end of the interval.",
            labels=["node", "figure", "when"],
        )
        for figure, nodes in sorted(self._fullest().items()):
            for node, ratios in sorted(nodes.items())[:_MOST]:
                for when, ratio in zip(_WHEN, ratios, strict=True):
                    used.add_metric([node, figure, when], ratio)
        yield used
