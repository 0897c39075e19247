"""A whole agent: what it keeps in memory, and how soon a machine is part of a mesh.

`python -m bench agent` starts a mesh of three nodes as `bridgectl up` does, with models and all, and ends it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from bench import results
from tests.cluster.fourth_node import Newcomer, newcomer, token
from tests.cluster.mesh_bed import ASK, GREEDY, NODES, TALKER, Mesh, call
from tests.support import eventually

IDLE_S = 12.0
MEMORY_MIB, FIRST_ANSWER_S = 80, 2  # budgets


def agent(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `agent`."""
    mesh = Mesh(folder / "mesh")
    try:
        mesh.up()
        rows = [*_memory(mesh), *asyncio.run(_a_fourth(mesh))]
        mesh.run("down")
    finally:
        mesh.kill_everything()
    text = (
        f"A mesh of three (`bridgectl up`) after one request of `{TALKER}`; memory is what "
        f"`/proc/PID/smaps_rollup` says of each agent {IDLE_S:g} s later.\n\n"
    )
    text += results.table(("what", "measured", "budget"), rows)
    results.record("agent", "A whole agent", command, versions, text)


def _memory(mesh: Mesh) -> list[tuple[str, str, str]]:
    _ask(mesh.address(NODES[0]))
    time.sleep(IDLE_S)
    kept = [_kept(mesh.pid(node)) for node in NODES]
    return [
        ("resident memory of an agent", _range([one["Rss"] for one in kept]), f"{MEMORY_MIB} MiB"),
        ("with its share of what the three have in common", _range([one["Pss"] for one in kept]), ""),
        (
            "its own alone",
            _range([one["Private_Clean"] + one["Private_Dirty"] for one in kept]),
            "",
        ),
    ]


async def _a_fourth(mesh: Mesh) -> list[tuple[str, str, str]]:
    ticket = token(mesh)
    async with newcomer(mesh, "node4") as node:
        began = time.monotonic()
        code, said = await node.join(ticket)
        if code:
            raise RuntimeError(said)
        joined = time.monotonic() - began
        node.seed("tiny")
        began = time.monotonic()
        node.run()
        await eventually(lambda: _answers(node), 30)
        first = time.monotonic() - began
        await node.command("leave")
    return [
        ("`bridge-agent join` of a fourth node", f"{joined:.1f} s", ""),
        (
            "`bridge-agent run` to its first answer through a peer",
            f"{first:.1f} s",
            f"{FIRST_ANSWER_S} s",
        ),
    ]


async def _answers(node: Newcomer) -> bool:
    try:
        return await asyncio.to_thread(_ask, node.address()) == 200
    except OSError:
        return False


def _ask(address: tuple[str, int]) -> int:
    """A chat with a model that only the first three nodes have."""
    body: dict[str, Any] = {"model": TALKER, "messages": ASK, "stream": False}
    return call(address, "POST", "/api/chat", body | {"options": {**GREEDY, "num_predict": 4}})[0]


def _kept(pid: int) -> dict[str, int]:
    """KiB by what /proc calls them."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0])
    return found


def _range(kib: list[int]) -> str:
    return f"{min(kib) / 1024:.1f} to {max(kib) / 1024:.1f} MiB"
