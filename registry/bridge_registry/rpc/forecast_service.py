"""What admins ask of forecasts."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from bridge_registry.alerts.desk import AlertDesk
from bridge_registry.forecasts.series import Forecast
from bridge_registry.rpc.gate import Context, Gate
from bridge_wire.v1 import forecast_pb2 as pb
from bridge_wire.v1 import forecast_pb2_grpc as rpc

MOST: Final = 4096
"""Series that one answer has."""


class ForecastService(rpc.ForecastsServicer):
    """See forecast.proto.

    Args:
        gate: Admits calls.
        desk: Has the forecasts.
        check_serving: Raises Unavailable when another registry leads: nodes report there.
    """

    def __init__(self, gate: Gate, desk: AlertDesk, check_serving: Callable[[], None]) -> None:
        self._gate = gate
        self._desk = desk
        self._check_serving = check_serving

    async def Forecast(self, request: pb.ForecastRequest, context: Context) -> pb.ForecastResponse:
        """See forecast.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            self._check_serving()
            found = self._desk.forecasts(request.node)
            shown = [one for one in found if request.node or request.all or _concerns(one)]
            return pb.ForecastResponse(series=map(_series, shown[:MOST]), watched=len(found))


def _concerns(one: Forecast) -> bool:
    return one.raised or math.isfinite(one.likely_s)


def _series(one: Forecast) -> pb.SeriesForecast:
    place = one.place
    low, likely, high = one.hour
    return pb.SeriesForecast(
        figure=one.figure,
        node=place.node,
        instance=place.instance,
        of=place.of,
        value=one.value,
        limit=one.limit,
        hourly=one.hourly,
        hour_low=low,
        hour_likely=likely,
        hour_high=high,
        earliest_seconds=_told(one.earliest_s),
        likely_seconds=_told(one.likely_s),
        latest_seconds=_told(one.latest_s),
        raised=one.raised,
        watched_seconds=one.watched_s,
        seasonal=one.seasonal,
        says=one.says if one.limit > 0.0 else "",
    )


def _told(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
