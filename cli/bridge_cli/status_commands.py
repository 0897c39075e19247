"""`bridgectl status` and `bridgectl nodes`: the whole mesh, from any admin's machine."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from bridge_cli.output import JsonOption, columns, print_json, say, when
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.errors import BridgeError


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.command("status")(status_command)
    app.command("nodes")(nodes_command)


@asks_registry
def status_command(*, as_json: JsonOption = False, where: Where) -> None:
    """Say how the mesh is. Exits 1 when nobody leads, etcd is away, or what `up` started here is not well."""

    def work() -> int:
        import asyncio

        local, mesh, fault = asyncio.run(_look(where))
        well = mesh is not None and not mesh.broken and _well(local)
        if as_json:
            print_json({**(local or {}), "mesh": mesh, "fault": fault})
            return 0 if well else 1
        if local is not None:
            _print_local(local)
        if mesh is None:
            say(f"! {fault}")
        else:
            from bridge_cli.mesh_report import summary

            for line in summary(mesh, time.time()):
                say(line)
            for trouble in mesh.troubles:
                say(f"! {trouble}")
        return 0 if well else 1

    raise SystemExit(guarded(work))


@asks_registry
def nodes_command(
    *,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Only these, in full.")] = None,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """List the mesh's nodes: state, since when, version, certificate, models, requests in flight."""

    def work() -> None:
        import asyncio

        from bridge_cli.connection import status_of
        from bridge_cli.mesh_report import report_of

        mesh = report_of(asyncio.run(status_of(where.access())), time.time())
        known = {node.name: node for node in mesh.nodes}
        if missing := [name for name in names or () if name not in known]:
            raise BridgeError(f"there is no node {missing[0]!r}", hint="`bridgectl nodes` lists them")
        nodes = [known[name] for name in names or known]
        if as_json:
            print_json(nodes)
        elif names:
            for node in nodes:
                _print_node(node)
        elif nodes:
            _print_nodes(nodes)
        else:
            say("No node has joined yet. `bridgectl token create` makes a token for one.")

    guarded(work)


async def _look(where: Where) -> tuple[dict[str, Any] | None, Any, str]:
    """What runs on this machine, what the registry says, and why that is nothing."""
    from bridge_cli.access import mesh_here

    to = where.access()
    local = None
    if (here := mesh_here(where.flags, to)) is not None:
        from bridge_cli.down import report

        local = await report(here[0])
    try:
        from bridge_cli.connection import status_of
        from bridge_cli.mesh_report import report_of
        from bridge_core.tls import check_files

        status = await status_of(to)
        return local, report_of(status, time.time(), check_files(to.cert, to.key, to.ca).not_after), ""
    except BridgeError as fault:
        if local is None:
            raise
        return local, None, fault.message


def _well(local: dict[str, Any] | None) -> bool:
    if local is None:
        return True
    parts = all(agent["alive"] and agent["ready"] for agent in local["agents"])
    ours = all(local[part]["alive"] for part in ("registry", "guard"))
    return parts and ours and local["etcd"]["alive"] in {True, None}


def _print_local(local: dict[str, Any]) -> None:
    """What `up` started on this machine."""
    rows = [("PART", "ALIVE", "PROCESS", "WHERE")]
    for agent in local["agents"]:
        alive = "ready" if agent["ready"] else "not ready" if agent["alive"] else "no"
        rows.append((agent["name"], alive, str(agent["pid"] or ""), f"http://{agent['http']}"))
    registry, guard, etcd = local["registry"], local["guard"], local["etcd"]
    rows.append(("registry", _yes(registry["alive"]), str(registry["pid"] or ""), registry["grpc"]))
    rows.append(("store guard", _yes(guard["alive"]), str(guard["pid"] or ""), guard["listener"]))
    rows.append(("etcd", _yes(etcd["alive"]), str(etcd["pid"] or ""), ", ".join(etcd["endpoints"])))
    for line in columns(rows):
        say(line)
    for agent in local["agents"]:
        if agent["alive"] and agent["reason"]:
            say(f"! {agent['name']}: {agent['reason']}")
        for concern in agent["concerns"]:
            say(f"! {agent['name']}: {concern}")
    say("")


def _yes(alive: bool | None) -> str:
    return "not ours" if alive is None else "yes" if alive else "no"


def _print_nodes(nodes: list[Any]) -> None:
    from bridge_cli.mesh_report import few
    from bridge_core.quantities import say_span

    now = time.time()
    rows = [("NAME", "STATE", "SINCE", "VERSION", "CERTIFICATE", "REQUESTS", "ADDRESS", "MODELS")]
    for node in nodes:
        left = node.expires_unix - now
        rows.append(
            (
                node.name,
                node.state,
                say_span(now - node.since_unix) if node.since_unix else "",
                node.version,
                "" if node.state == "revoked" else say_span(left) if left > 0 else "EXPIRED",
                str(node.in_flight) if node.reports else "",
                node.address,
                few(node.models),
            )
        )
    for line in columns(rows):
        say(line)


def _print_node(node: Any) -> None:
    said = {
        "state": node.state,
        "since": when(node.since_unix) if node.since_unix else "",
        "version": node.version,
        "certificate": f"until {when(node.expires_unix)}" if node.expires_unix else "",
        "address": node.address,
        "instances": ", ".join(node.instances),
        "models": ", ".join(node.models),
        "requests": f"{node.in_flight} in flight",
        "cannot reach": ", ".join(f"{peer} since {when(at)}" for peer, at in node.silent_to.items()),
        "refused": node.rejected,
        "safe to stop": "yes" if node.safe_to_stop else "",
    }
    say(node.name)
    for what, value in said.items():
        if value:
            say(f"  {what:<12} {value}")
