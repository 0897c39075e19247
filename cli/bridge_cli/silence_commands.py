"""`bridgectl alerts silence | silences | unsilence`: what people want nobody to be told of for a while."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from bridge_cli.alerting_commands import TIMEOUT_S, asked
from bridge_cli.health_commands import alerts
from bridge_cli.output import JsonOption, columns, plain, print_json, say_line, when
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.errors import Fatal
from bridge_core.quantities import parse_duration, say_span


def register(_app: typer.Typer) -> None:
    """Adds the commands to `bridgectl alerts`."""
    alerts.command("silence")(silence_command)
    alerts.command("silences")(silences_command)
    alerts.command("unsilence")(unsilence_command)


@asks_registry
def silence_command(
    matchers: Annotated[
        list[str],
        typer.Argument(
            metavar="MATCHER...",
            help="Which alerts: a word is an alert's name, node=n1, severity!=critical, 'of=~models|audit', "
            "'node=~gpu.*'; an alert has to fit them all. Labels: alertname, severity, node, instance, of, "
            "mesh, and those of AlertRules.",
        ),
    ],
    *,
    lasts: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 7d.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever is on call next.")],
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Have nobody told of some alerts for a while. They are still shown, with who, until when and why."""
    seconds = guarded(lambda: _seconds(lasts))
    answer = asked(
        where,
        lambda desk, wire: desk.Silence(
            wire.SilenceRequest(matchers=matchers, seconds=seconds, reason=reason), timeout=TIMEOUT_S
        ),
    )
    if as_json:
        print_json(plain(answer.silence))
        return
    one = answer.silence
    say_line(f"Silence {one.id}: until {when(int(one.ends_unix))} nobody is told of {_meant(one)}.")
    say_line(f"{_count(one.silences)} now. `bridgectl alerts unsilence {one.id}` ends it.")


@asks_registry
def silences_command(*, as_json: JsonOption = False, where: Where) -> None:
    """List the silences that last: what they are about, who made them, until when and why."""
    answer = asked(
        where, lambda desk, wire: desk.Silences(wire.SilencesRequest(), timeout=TIMEOUT_S)
    ).silences
    if as_json:
        print_json([plain(one) for one in answer])
        return
    for line in silence_lines(answer, time.time()):
        say_line(line)


@asks_registry
def unsilence_command(
    silence: Annotated[str, typer.Argument(metavar="ID", help="As `bridgectl alerts silences` lists it.")],
    *,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """End a silence: what it was about is told again."""
    answer = asked(
        where, lambda desk, wire: desk.Unsilence(wire.UnsilenceRequest(id=silence), timeout=TIMEOUT_S)
    )
    if as_json:
        print_json(plain(answer.silence))
        return
    say_line(f"Silence {answer.silence.id} is over: {_meant(answer.silence)} is told again.")


def silence_lines(silences: Iterable[Any], now: float) -> Iterable[str]:
    """Silences for people."""
    rows = [("SILENCE", "ENDS IN", "SILENT NOW", "BY", "WHAT", "WHY")]
    rows += [
        (one.id, say_span(one.ends_unix - now), str(one.silences), one.by, _meant(one), one.reason)
        for one in silences
    ]
    if len(rows) == 1:
        yield "Nothing is silenced by hand."
        return
    yield from columns(rows)


def _meant(one: Any) -> str:
    return " ".join(one.matchers)


def _count(silent: int) -> str:
    return f"It silences {silent or 'no'} alert{'s' if silent > 1 else ''}"


def _seconds(text: str) -> float:
    try:
        return parse_duration(text.strip())
    except ValueError as fault:
        raise Fatal(f"--for {text[:40]!r}: {fault}", hint="30m, 2h, 7d") from None
