"""Rollouts through outages, against golden transcripts (tests/scenarios/transcripts/rollout-*.txt).

A line that begins with > is done, what follows is how everything stood then. To write the
transcripts anew after a wanted change: BRIDGE_WRITE_TRANSCRIPTS=1 pytest THIS_FILE, and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.rollout_world import PROBE, Behaviour, World

FOLDER = Path(__file__).parent / "transcripts"
SPECS = {"plain": ", every: 1m, increment: 30", "probed": ", every: 1m, increment: 30" + PROBE}
CANARIES = {"good": Behaviour(), "failing": Behaviour(error=0.2), "wrong": Behaviour(answer="5")}


async def do(world: World, words: list[str]) -> None:
    verb, *rest = words
    if verb == "apply":
        world.apply(SPECS[rest[0]])
    elif verb == "run":
        for _ in range(int(rest[0].removesuffix("s"))):
            await world.second()
    elif verb == "canary":
        world.behaviours["new"] = CANARIES[rest[0]]
    elif verb == "etcd":
        world.etcd.pause() if rest[0] == "paused" else world.etcd.resume()
    elif verb == "clock":
        world.wall += float(rest[0].removesuffix("s"))
    elif verb == "registry":
        world.registries[rest[0]].alive = rest[1] == "started"
    elif verb == "leader":
        world.elect(rest[0])
    elif verb == "partition":
        for agent in world.agents:
            agent.cut_off = agent.name in rest
    elif verb == "restart":
        for agent in world.agents:
            if agent.name == rest[0]:
                agent.began += 100
                agent.counters.clear()
    else:
        assert verb in {"pause", "resume", "promote", "abort"}, words
        assert world.leader is not None
        await world.leader.controller.command("roll", verb, "ann")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("rollout-*.txt")), ids=lambda path: path.stem)
async def test_the_transcript_is_as_written(path: Path) -> None:
    world, lines = World(), []
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            await do(world, line[1:].split())
            lines += [line, world.line()]
        elif line.startswith("#"):
            lines.append(line)
    lines.append(f"requests {sum(agent.served for agent in world.agents)}, failed {world.failed}")
    if os.environ.get("BRIDGE_WRITE_TRANSCRIPTS"):
        path.write_text("\n".join(lines) + "\n")
    assert path.read_text().splitlines() == lines
