"""`bridgectl forecast`: when disks, GPUs' memory and queues will be full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer

from bridge_cli.output import JsonOption, columns, plain, print_json, say_line
from bridge_cli.where import Where, asks_registry
from bridge_core import gauges

_TIMEOUT_S: Final = 15.0
_NOTHING: Final = "No limit is forecast to be hit within a day."  # the registry's alerts quote it
_WORDS: Final = {
    gauges.DISK: "disk",
    gauges.VRAM: "VRAM",
    gauges.QUEUE: "queue",
    gauges.TOKENS: "tokens/s",
}
_BYTES: Final = frozenset({gauges.DISK, gauges.VRAM})


def register(app: typer.Typer) -> None:
    """Adds the command to the command `bridgectl`."""
    app.command("forecast")(forecast_command)


@asks_registry
def forecast_command(
    *,
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="All series of this node alone.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Also those that hit no limit.")] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Say when disks, GPUs' memory, queues and streams hit their limits. Exits 1 where there is an alert."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import forecast_pb2 as wire
        from bridge_wire.v1.forecast_pb2_grpc import ForecastsStub

        forecasts = ForecastsStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        return await forecasts.Forecast(wire.ForecastRequest(node=node, all=everything), timeout=_TIMEOUT_S)

    answer = where.call(work)
    if as_json:
        print_json(plain(answer))
    else:
        for line in forecast_lines(answer):
            say_line(line)
    raise SystemExit(1 if any(one.raised for one in answer.series) else 0)


def forecast_lines(answer: Any) -> Iterable[str]:
    """A ForecastResponse for people."""
    if not answer.watched:
        yield "Nothing is known yet: a series is watched for a quarter of an hour before anything is said."
        return
    if not any(one.HasField("likely_seconds") or one.raised for one in answer.series):
        yield _NOTHING
    if answer.series:
        yield from columns(
            [("WHERE", "WHAT", "OF", "NOW", "LIMIT", "AN HOUR", "IN AN HOUR", "AT ITS LIMIT", "WATCHED")]
            + [_row(one) for one in answer.series]
        )
    if len(answer.series) < answer.watched:
        yield f"{answer.watched} series are watched; --all shows them, and a node's name all of that node."


def _row(one: Any) -> tuple[str, ...]:
    from bridge_core.quantities import say_span

    low, high = _said(one.figure, one.hour_low), _said(one.figure, one.hour_high)
    sign = "-" if one.hourly < 0 else "+"
    return (
        one.instance or one.node,
        _WORDS.get(one.figure, one.figure),
        one.of,
        _said(one.figure, one.value),
        _said(one.figure, one.limit) if one.limit else "",
        sign + _said(one.figure, abs(one.hourly)),
        f"{low} to {high}",
        _until(one) + (", alert" if one.raised else ""),
        say_span(one.watched_seconds) + (", with its day" if one.seasonal else ""),
    )


def _until(one: Any) -> str:
    from bridge_core.quantities import say_span

    if not one.limit:
        return "has none"
    if not one.HasField("likely_seconds"):
        return "not within a day"
    if one.likely_seconds <= 0:
        return "now"
    latest = say_span(one.latest_seconds) if one.HasField("latest_seconds") else "never"
    return f"in {say_span(one.likely_seconds)} ({say_span(one.earliest_seconds)} to {latest})"


def _said(figure: str, value: float) -> str:
    from bridge_core.quantities import say_size

    return say_size(int(value)) if figure in _BYTES else f"{value:.3g}"
