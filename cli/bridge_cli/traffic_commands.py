"""`bridgectl rollout …`, `bridgectl drain`, `bridgectl revoke`: moving traffic, taking nodes out of it."""

from __future__ import annotations

import datetime as dt
import sys
import time
from typing import Annotated, Any, Final

import typer

from bridge_cli.output import JsonOption, plain, print_json, say
from bridge_cli.where import Where, asks_registry
from bridge_core.errors import BridgeError

_TIMEOUT_S: Final = 15.0
_LOOK_S: Final = 0.5
rollouts = typer.Typer(
    help="Rollouts: what the Rollout documents that are applied have come to.", no_args_is_help=True
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The Rollout document's name.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.add_typer(rollouts, name="rollout")
    app.command("drain")(drain_command)
    app.command("revoke")(revoke_command)


@rollouts.command("status")
@asks_registry
def rollout_status(
    *,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only this one.")] = "",
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Say where rollouts stand and why, what both sides did in this step, and what happened so far."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        return await stub.Rollouts(wire.RolloutsRequest(name=name), timeout=_TIMEOUT_S)

    found = where.call(work).rollouts
    if as_json:
        print_json([plain(one) for one in found])
        return
    if not found:
        say("No rollout is applied.")
    for one in found:
        _print(one)


def _command(verb: str, says: str) -> None:
    @asks_registry
    def run(
        *,
        name: NameArgument,
        as_json: JsonOption = False,
        where: Where,
    ) -> None:
        async def work(stub: Any) -> Any:
            from bridge_wire.v1 import registry_pb2 as wire

            request = wire.CommandRolloutRequest(name=name, verb=verb)
            return await stub.CommandRollout(request, timeout=_TIMEOUT_S)

        one = where.call(work)
        if as_json:
            print_json(plain(one))
        else:
            say(f"{one.name} is {one.phase}.")

    rollouts.command(verb, help=says)(run)


for _verb, _says in {
    "pause": "Hold a rollout where it is. Its guards stay on.",
    "resume": "Let a paused rollout go on.",
    "promote": "Give everything to the canary at once.",
    "abort": "Give everything back to the stable side at once, also after the end.",
    "restart": "Begin again at the first step.",
}.items():
    _command(_verb, _says)


@asks_registry
def drain_command(
    *,
    node: Annotated[str, typer.Argument(help="The node's name.")],
    undo: Annotated[bool, typer.Option("--undo", help="Put it back into service.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.0, help="Seconds to wait for what runs there; 0: do not wait.")
    ] = 300.0,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Send no new requests to a node, and say when it is safe to stop. Exits 1 when it is not yet."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import registry_pb2 as wire

        await stub.Drain(wire.DrainRequest(node_name=node, drained=not undo), timeout=_TIMEOUT_S)
        return None if undo else await _until_safe(stub, node, timeout, quiet=as_json)

    found = where.call(work)
    if as_json:
        print_json({"name": node, "drained": not undo} if found is None else plain(found))
        raise SystemExit(0 if found is None or found.safe_to_stop or not timeout else 1)
    if found is None:
        say(f"{node} is back in service.")
    elif found.safe_to_stop:
        say(f"{node} is drained: safe to stop.")
    elif not timeout:
        say(f"{node} takes no new requests; {_left(found)}.")
    else:
        raise SystemExit(f"bridgectl: {node} is not safe to stop after {timeout:g} s: {_left(found)}")


@asks_registry
def revoke_command(
    *,
    node: Annotated[str, typer.Argument(help="The node's name.")],
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Throw a node out: nobody accepts its certificates any more, and it gets no other."""

    async def work(stub: Any) -> None:
        from bridge_wire.v1 import registry_pb2 as wire

        await stub.Revoke(wire.RevokeRequest(node_name=node), timeout=_TIMEOUT_S)

    where.call(work)
    if as_json:
        print_json({"name": node, "state": "revoked"})
        return
    say(f"{node} is revoked. `bridgectl token create --node {node}` lets a machine join in its place.")


async def _until_safe(stub: Any, node: str, timeout_s: float, *, quiet: bool) -> Any:
    import asyncio

    from bridge_wire.v1 import registry_pb2 as wire

    deadline = time.monotonic() + timeout_s
    said = ""
    while True:
        status = await stub.Status(wire.StatusRequest(), timeout=_TIMEOUT_S)
        found = next((one for one in status.nodes if one.name == node), None)
        if found is None:
            raise BridgeError(f"{node} has left the mesh")
        if found.safe_to_stop or time.monotonic() >= deadline:
            return found
        if not quiet and (now := _left(found)) != said:
            said = now
            say(f"{node}: {now} …")
        await asyncio.sleep(_LOOK_S)


def _left(found: Any) -> str:
    if found.in_flight:
        return f"{found.in_flight} request{'s' if found.in_flight > 1 else ''} in flight"
    return "not every agent knows yet" if found.reports else "it does not say what runs there"


def _print(one: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    say(
        f"{one.name}: {one.phase}, step {one.step + 1} of {one.steps}, "
        f"{one.elapsed_seconds:.0f} of {one.hold_seconds:.0f} s" + (f" ({one.reason})" if one.reason else "")
    )
    table = Table("side", "backend", "share", "requests", "errors", "in stream", "TTFT p50/p95", "tokens/s")
    for name, side in (("stable", one.stable), ("canary", one.canary)):
        table.add_row(
            name,
            side.backend,
            f"{side.share:.1%}",
            str(side.requests),
            f"{side.error_rate:.1%}",
            f"{side.stream_error_rate:.1%}",
            f"{side.ttft_p50:.3f} / {side.ttft_p95:.3f} s",
            f"{side.tokens_per_second:.1f}",
        )
    Console(highlight=False, soft_wrap=True).print(table)
    for event in one.events:
        at = dt.datetime.fromtimestamp(event.at_unix, dt.UTC).astimezone().isoformat(" ", "seconds")
        say(f"  {at}  {event.what}")
    if after := _what_next(one):
        say(after)
    sys.stdout.flush()


def _what_next(one: Any) -> str:
    """What is to be done about a rollout that is over: its document goes on to hold the route."""
    if one.phase == "complete":
        return (
            f"It is over: as long as its document is applied, {one.canary.backend} has everything that "
            f"{one.stable.backend} had. To end it, write the final weights into the ModelRoute {one.route} "
            f"and remove the Rollout document in the same apply. `bridgectl rollout abort {one.name}` "
            "switches back at once."
        )
    if one.phase in {"rolled-back", "aborted"}:
        return (
            f"It is over: everything stays with {one.stable.backend}. Remove the Rollout document, or "
            f"begin it anew with `bridgectl rollout restart {one.name}`."
        )
    return ""
