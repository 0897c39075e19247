"""`bridgectl alerting`: what AlertRules look at, and whether AlertReceivers take what they are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Final

import typer

from bridge_cli.output import JsonOption, columns, plain, print_json, say_aside, say_line
from bridge_cli.where import Where, asks_registry

TIMEOUT_S: Final = 15.0
_ORDER: Final = ("raised", "silent", "beyond", "ok")
_NOT_TAKEN: Final = 1

alerting = typer.Typer(help="Rules for alerts, and who is told of them.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.add_typer(alerting, name="alerting")


@alerting.command("status")
@asks_registry
def status_command(*, as_json: JsonOption = False, where: Where) -> None:
    """Show every AlertRule with how much it watches, and every AlertReceiver with what became of messages."""
    answer = asked(
        where, lambda desk, wire: desk.AlertingStatus(wire.AlertingStatusRequest(), timeout=TIMEOUT_S)
    )
    if as_json:
        print_json(plain(answer))
        return
    if not answer.rules and not answer.receivers:
        say_aside(
            "No AlertRule and no AlertReceiver is applied: mesh_config/alerts.yaml shows what they look like."
        )
        return
    for line in status_lines(answer):
        say_line(line)


@alerting.command("explain")
@asks_registry
def explain_command(
    rule: Annotated[str, typer.Argument(help="The AlertRule's name.")],
    *,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Show everything that a rule looks at, with its value now. Exits 1 where something is raised."""
    if not rule:  # to a registry that is all of them
        raise typer.BadParameter("the name of an AlertRule; `bridgectl alerting status` lists them")
    (found,) = asked(
        where,
        lambda desk, wire: desk.AlertingStatus(wire.AlertingStatusRequest(rule=rule), timeout=TIMEOUT_S),
    ).rules
    if as_json:
        print_json(plain(found))
    else:
        for line in explanation(found):
            say_line(line)
    raise SystemExit(1 if found.raised else 0)


@alerting.command("test")
@asks_registry
def try_command(
    receiver: Annotated[str, typer.Argument(help="The AlertReceiver's name.")],
    *,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Send a made-up alert (BridgeTest) to a receiver now, and say what it answered. Exits 1 if not taken."""
    answer = asked(
        where,
        lambda desk, wire: desk.TryReceiver(wire.TryReceiverRequest(receiver=receiver), timeout=TIMEOUT_S),
    )
    if as_json:
        print_json(plain(answer))
    else:
        took = "took the test alert" if answer.taken else "did not take the test alert"
        said = f": {answer.says}" if answer.says else ""
        say_line(f"{receiver} {took}, it answered {answer.status}{said}")
    raise SystemExit(0 if answer.taken else _NOT_TAKEN)


def asked(where: Where, call: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """What the registry answers to `call`, told the service's stub and the module of its messages."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import alerting_pb2 as wire
        from bridge_wire.v1.alerting_pb2_grpc import AlertingStub

        desk = AlertingStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        return await call(desk, wire)

    return where.call(work)


def status_lines(answer: Any) -> Iterable[str]:
    """An AlertingStatusResponse for people."""
    if answer.rules:
        rows: list[tuple[str, ...]] = [("RULE", "FIGURE", "WRONG", "SEVERITY", "WATCHED", "RAISED")]
        rows += [
            (
                one.name,
                one.figure,
                _wrong(one),
                one.severity,
                "paused" if one.paused else str(one.watched),
                str(one.raised),
            )
            for one in answer.rules
        ]
        yield from columns(rows)
    if answer.receivers:
        yield from ("",) if answer.rules else ()
        rows = [("RECEIVER", "TYPE", "WHERE", "DELIVERED", "FAILED", "WAITING", "DROPPED")]
        rows += [
            (one.name, one.type, one.where, *map(str, (one.delivered, one.failed, one.waiting, one.dropped)))
            for one in answer.receivers
        ]
        yield from columns(rows)
        yield from (f"{one.name}: {one.reason}" for one in answer.receivers if one.reason)


def explanation(rule: Any) -> Iterable[str]:
    """A rule with its series for people: the worst first."""
    from bridge_core.quantities import say_span

    paused = "; it is paused" if rule.paused else ""
    yield f"{rule.name}: {rule.severity} where {rule.figure} is {_wrong(rule)}{paused}"
    if not rule.series:
        yield "Nothing is watched: no node that it is about reports this figure, or enough requests."
        return
    rows = [("  WHERE", "OF", "NOW", "IS", "SINCE")]
    for one in sorted(rule.series, key=lambda each: (_rank(each.state), each.node, each.instance, each.of)):
        state = "raised, not heard of" if one.state == "silent" else one.state
        since = say_span(one.beyond_seconds) if one.beyond_seconds else ""
        rows.append((f"  {one.instance or one.node}", one.of, one.says, state, since))
    yield from columns(rows)


def _rank(state: str) -> int:
    return _ORDER.index(state) if state in _ORDER else len(_ORDER)


def _wrong(rule: Any) -> str:
    from bridge_core.quantities import say_duration

    lasting = f" for {say_duration(rule.lasting_seconds)}" if rule.lasting_seconds else ""
    return f"{rule.threshold}{lasting}"
