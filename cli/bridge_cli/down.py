"""`bridgectl down` and `bridgectl status`: ending exactly what `up` started, and saying what runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from bridge_cli.access import read_mesh
from bridge_cli.layout import Layout
from bridge_cli.parts import agent_state
from bridge_cli.processes import DetachedProcess, ProcessTable, end, family, load_records
from bridge_cli.progress import Progress
from bridge_cli.up import load_layout, load_table
from bridge_core.errors import Fatal

_AGENT_GRACE_S = 30.0  # an agent finishes the streams that run
_OTHER_GRACE_S = 10.0


async def take_down(state: Path, progress: Progress, *, grace_s: float = _AGENT_GRACE_S) -> int:
    """Ends the mesh in `state`: agents first, so that they can take their leases back.

    Returns:
        How many processes were running.

    Raises:
        Fatal: there is no mesh there.
    """
    layout = load_layout(state)
    if layout is None:
        raise Fatal(f"no mesh in {state}", hint="--state-dir (or BRIDGE_STATE_DIR) names another place")
    table = load_table(state)
    running = len(family(_roots(layout, table, (*layout.names, "registry", "guard", "etcd"))))
    for what, members, grace in (
        ("agents and their engines", layout.names, grace_s),
        ("registry", ["registry"], _OTHER_GRACE_S),
        ("store guard", ["guard"], _OTHER_GRACE_S),
        ("etcd", ["etcd"], _OTHER_GRACE_S),
    ):
        roots = _roots(layout, table, members)
        if family(roots):
            with progress.step(f"ended: {what}"):
                killed = await end(roots, grace)
            if killed:
                progress.say(f"  had to kill {len(killed)} of them: {[record.pid for record in killed]}")
    return running


def _roots(
    layout: Layout, table: ProcessTable, members: list[str] | tuple[str, ...]
) -> list[DetachedProcess]:
    """The processes of parts, and the engines that agents noted: those outlive an agent killed hard."""
    known = [record for record in map(table.known, members) if record is not None]
    engines = [
        record
        for name in members
        for record in load_records(layout.node_state(name).glob("engines/*/process.json"))
    ]
    return known + engines


async def report(state: Path) -> dict[str, object]:
    """What mesh.json says, each part with whether it is alive, each agent with whether it is ready.

    Raises:
        Fatal: there is no mesh there.
    """
    mesh = read_mesh(state / "mesh.json")
    table = load_table(state)
    states = await asyncio.gather(*(agent_state(agent.admin) for agent in mesh.agents))
    agents = [
        {
            **_alive(msgspec.to_builtins(agent), table, agent.name),
            "ready": found.ready,
            "instances_seen": found.instances,
            "reason": "" if found.ready else found.reason,
            "concerns": found.concerns,
        }
        for agent, found in zip(mesh.agents, states, strict=True)
    ]
    etcd = _alive(msgspec.to_builtins(mesh.etcd), table, "etcd")
    if not mesh.etcd.pid and table.known("etcd") is None:
        etcd["alive"] = None  # somebody else's
    return {
        "agents": agents,
        "registry": _alive(msgspec.to_builtins(mesh.registry), table, "registry"),
        "guard": _alive(msgspec.to_builtins(mesh.guard), table, "guard"),
        "etcd": etcd,
        "ca": mesh.ca,
        "client": msgspec.to_builtins(mesh.client),
    }


def _alive(entry: dict[str, object], table: ProcessTable, part: str) -> dict[str, object]:
    record = table.get(part)
    return {**entry, "pid": record.pid if record else 0, "alive": record is not None}
