"""`bridgectl explain`, `bridgectl replay`: why requests went where they went, and where else they might."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bridge_cli.output import JsonOption, print_json, say_aside
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.errors import BridgeError, Fatal

if TYPE_CHECKING:
    from bridge_cli.agents import Said
    from bridge_core.explanation import HopReport

_SNAPSHOT: Final = "/bridge/snapshot"
_PAST: Final = "/bridge/past"


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.command("explain")(explain_command)
    app.command("replay")(replay_command)


@asks_registry
def explain_command(
    *,
    request_id: Annotated[
        str, typer.Argument(help="X-Request-Id of the answer, or of the client's request.")
    ],
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Say why a request went where it went: who was asked, who was not and why, and how long it took."""

    def work() -> None:
        import asyncio
        from urllib.parse import quote

        from rich.console import Console

        from bridge_cli.agents import ask_agents
        from bridge_core.command.explanation_text import print_explanation
        from bridge_core.explanation import PATH

        to = where.access()
        said = asyncio.run(ask_agents(to, f"{PATH}?id={quote(request_id, safe='')}"))
        hops = [hop for body in said.bodies.values() for hop in _hops(body)]
        hops.sort(key=lambda hop: bool(hop.via))  # the entry's first
        _tell_silent(said)
        if not hops:
            raise Fatal(
                f"no node remembers a request {request_id}",
                hint="the id is in X-Request-Id of the answer; nodes remember their last requests only",
            )
        if as_json:
            print_json(hops)
        else:
            print_explanation(hops, Console(highlight=False))

    guarded(work)


@asks_registry
def replay_command(
    *,
    folder: Annotated[
        Path, typer.Option("--with", help="A folder of mesh_config documents.", exists=True, file_okay=False)
    ],
    hours: Annotated[float, typer.Option("--hours", help="How far back.", min=0.01, max=168.0)] = 1.0,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Say where the mesh's last requests would have gone with another mesh_config. Changes nothing."""

    def work() -> int:
        import asyncio
        import subprocess

        import msgspec

        from bridge_cli.agents import ask_agents
        from bridge_cli.parts import command

        to = where.access()
        snapshot = asyncio.run(ask_agents(to, _SNAPSHOT, first=True))
        past = asyncio.run(ask_agents(to, f"{_PAST}?seconds={max(1, round(hours * 3600))}"))
        _tell_silent(past)
        if not snapshot.bodies or not past.bodies:
            raise BridgeError("no node answers", hint="`bridgectl status` says what runs")
        collected = {
            "snapshot": msgspec.Raw(next(iter(snapshot.bodies.values()))),
            "nodes": {name: msgspec.Raw(body) for name, body in past.bodies.items()},
        }
        argv = [command("bridge-agent"), "replay", "--collected", "--with", str(folder.absolute())]
        argv += ["--json"] if as_json else []
        return subprocess.run(argv, input=msgspec.json.encode(collected), check=False).returncode

    raise SystemExit(guarded(work))


def _hops(body: bytes) -> list[HopReport]:
    import msgspec

    from bridge_core.explanation import HopReport

    try:
        return msgspec.json.decode(body, type=list[HopReport])
    except msgspec.DecodeError as fault:
        raise BridgeError(
            f"a node's answer does not decode: {fault}", hint="is it another version?"
        ) from fault


def _tell_silent(said: Said) -> None:
    for node, why in sorted(said.silent.items()):
        say_aside(f"bridgectl: {node} is left out: {why}")
