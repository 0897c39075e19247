"""`bridgectl health`, `bridgectl alerts`: how every instance is and why, and what is wrong now."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

import typer

from bridge_cli.output import JsonOption, columns, plain, print_json, say_line, when
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.errors import Fatal

_TIMEOUT_S = 15.0
_FEW = 12  # instances: so many are all named

alerts = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.command("health")(health_command)
    app.add_typer(alerts, name="alerts")


@asks_registry
def health_command(
    *,
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Only this node, with its figures.")] = "",
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Say how every instance is: machine, service, and whether its answers are right. Exits 1 where not."""
    answer = _asked(
        where, lambda health, wire: health.Instances(wire.InstancesRequest(node=node), timeout=_TIMEOUT_S)
    )
    if node and not answer.instances:
        guarded(lambda: _refuse_unseen(node))
    if as_json:
        print_json(plain(answer))
    else:
        for line in health_lines(answer, time.time(), figures=bool(node)):
            say_line(line)
    raise SystemExit(0 if all(one.level == "ok" for one in answer.instances) else 1)


@alerts.callback()
@asks_registry
def alerts_command(
    *,
    ctx: typer.Context,
    past: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """List what is wrong now: where, since when, what shows more. Exits 1 where anything is."""
    if ctx.invoked_subcommand is not None:
        return
    answer = _asked(
        where, lambda health, wire: health.Alerts(wire.AlertsRequest(past=past), timeout=_TIMEOUT_S)
    )
    if as_json:
        print_json(plain(answer))
    else:
        for line in alert_lines(answer, time.time()):
            say_line(line)
    raise SystemExit(1 if any(not one.ended_unix for one in answer.alerts) else 0)


def _asked(where: Where, call: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """What the registry answers to `call`, told the service's stub and the module of its messages."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import health_pb2
        from bridge_wire.v1.health_pb2_grpc import HealthStub

        health = HealthStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        return await call(health, health_pb2)

    return where.call(work)


def _refuse_unseen(node: str) -> None:
    raise Fatal(
        f"nothing is known of the health of {node!r}: no instance of such a node is in the mesh now",
        hint="`bridgectl nodes` says which nodes there are, and which of them are away",
    )


def health_lines(answer: Any, now: float, *, figures: bool) -> Iterable[str]:
    """An InstancesResponse for people: the instances that are not well, or all of few."""
    from bridge_core.quantities import say_span

    shown = [one for one in answer.instances if one.level != "ok" or len(answer.instances) <= _FEW]
    rows = [("INSTANCE", "HEALTH", "SINCE", "WHY, OR WHAT ITS ANSWERS WERE COMPARED WITH")]
    for one in shown:
        level = f"{one.level}, out" if one.out else one.level
        first = one.reasons[0] if one.reasons else None
        since = say_span(now - first.since_unix) if first is not None and first.since_unix else ""
        rows.append((one.instance, level, since, first.text if first is not None else one.compared))
        rows += [("", "", "", reason.text) for reason in one.reasons[1:]]
    yield from columns(rows)
    well = len(answer.instances) - len(shown)
    if well:
        yield f"{well} more are well."
    for one in answer.nodes if figures else ():
        for gauge in one.gauges:
            of = f" of {gauge.of}" if gauge.of else ""
            limit = f" of {gauge.limit:g}" if gauge.limit else ""
            yield f"  {gauge.name}{of}: {gauge.value:g}{limit}"


def alert_lines(answer: Any, now: float) -> Iterable[str]:
    """An AlertsResponse for people."""
    from bridge_core.quantities import say_span

    if not answer.alerts:
        yield "Nothing is wrong."
    for one in answer.alerts:
        state = f"over since {when(int(one.ended_unix))}" if one.ended_unix else "lasts"
        yield f"{one.severity.upper()}  {one.summary}"
        yield f"    {one.name}, for {say_span(max(0.0, (one.ended_unix or now) - one.since_unix))}, {state}"
        yield f"    more: {one.command}; when all is well it says: {one.well}"
        if one.silenced:
            yield f"    nobody is told: {one.silenced}"
