"""Forecasts as lines of the log, for who looks at them beside what happened: now and then, and few.

A line for each node and figure of which a limit is likely to be hit within a day: that of the series which
hits its limit first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import structlog

from bridge_registry.forecasts.forecaster import Forecaster
from bridge_registry.forecasts.series import Forecast

log = structlog.get_logger()

EVERY_S: Final = 300.0
MOST: Final = 100  # lines at a time: the first to hit their limits


class ForecastLog:
    """See the module; one task feeds it."""

    def __init__(self) -> None:
        self._told = float("-inf")

    def look(self, forecaster: Forecaster, clock: float) -> None:
        """Tells, where it is time to at monotonic time `clock`."""
        if clock - self._told < EVERY_S:
            return
        first = firsts(forecaster.forecasts(hit=True))
        if first:
            self._told = clock
        for one in first[:MOST]:
            latest = {"forecast_latest_s": one.latest_s} if math.isfinite(one.latest_s) else {}
            log.info(
                "forecast",
                reason=one.says,
                forecast_node=one.place.node,
                forecast_figure=one.figure,
                forecast_of=one.place.instance or one.place.of,
                forecast_value=one.value,
                forecast_limit=one.limit,
                forecast_likely_s=one.likely_s,
                forecast_earliest_s=one.earliest_s,
                **latest,
            )


def firsts(forecasts: Iterable[Forecast]) -> list[Forecast]:
    """Of each node and figure the one that hits its limit first; the first of these first."""
    found = dict[tuple[str, str], Forecast]()
    for one in forecasts:
        key = one.place.node, one.figure
        if math.isfinite(one.likely_s) and (key not in found or one.likely_s < found[key].likely_s):
            found[key] = one
    return sorted(found.values(), key=lambda one: (one.likely_s, one.place, one.figure))
