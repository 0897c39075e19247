"""Traffic through outages, against golden transcripts (tests/scenarios/transcripts/<topic>-<fault>.txt).

Each topic is a script with a place where a fault begins and one where it ends; every fault is put into
every topic. A line that begins with > is done, what follows is how everything stood then. To write
the transcripts anew after a wanted change: BRIDGE_WRITE_TRANSCRIPTS=1 pytest THIS_FILE, and read the
diff. Which fault of which topic is tested where is in tests/scenarios/README.md.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge_core.errors import BridgeError
from bridge_core.traffic import shares
from tests.scenarios.traffic_world import ROUTE, SLOTS, Job, TrafficWorld

FOLDER = Path(__file__).parent / "transcripts"
FAULTS = {
    "etcd-paused": (["etcd paused"], ["etcd resumed"]),
    "registry-killed": (["registry r1 killed"], ["registry r1 started"]),
    "leader-failover": (["registry r1 killed", "leader r2"], ["registry r1 started"]),
    "partition": (["partition n1 n3"], ["heal"]),
    "clock-jump": (["clock +86400"], ["clock -172800"]),
}
TOPICS = {
    "shares": """\
# An admin changes the weights in the middle: who hears of it, when, and that no request fails.
load 6
run 20
FAULT
run 5
weights 50 50
run 15
MENDED
weights 50 50
run 20
""",
    "survival": """\
# Streams under way; the node of some of them dies, comes back, and more streams come all the time.
load 3
streams 6 tokens 60
run 2
FAULT
run 1
kill n2
run 1
run 9
MENDED
start n2
run 10
load 0
run 10
""",
    "canary": """\
# A healthy rollout goes its steps; no request fails, and it reaches everything.
load 12
run 3
rollout
run 15
FAULT
run 15
MENDED
run 45
load 0
run 5
""",
    "overload": """\
# Ten times what three nodes of four slots can do; every twentieth request is urgent.
load 150 urgent 20
run 5
FAULT
run 10
MENDED
run 5
load 0
run 5
""",
    "cancel": """\
# Clients go away while they wait, in the prefill, and while their answer is spoken.
streams 24 tokens 30
run 0.2
FAULT
cancel 4 oldest
cancel 8 newest
run 0.1
run 0.1
streams 6 tokens 30
run 1
cancel 4 oldest
run 0.1
MENDED
run 10
""",
    "drain": """\
# A node is taken out of service, and put back.
load 6
run 10
FAULT
drain n2
run 8
MENDED
drain n2
run 5
undrain n2
run 10
""",
}
# What else may have become of a request; a "done" is whole, which `TrafficWorld.check` sees to.
ALLOWED = {
    "shares": set[str](),
    "survival": {"lost with its entry"},
    "canary": set[str](),
    "overload": {"refused (503)", "failed: cut"},  # the latter: sent into the cut wire, all others full
    "cancel": {"cancelled", "refused (503)"},
    "drain": set[str](),
}


ROLLOUT = """\
apiVersion: bridge.deepseek.io/v1
kind: Rollout
metadata: {name: roll}
spec: {route: chat, stable: old, canary: new, every: 10s, increment: 45, guards: {minRequests: 10}}
"""


class Story:
    """A script that is played, and what is said of each step."""

    def __init__(self) -> None:
        self.world = TrafficWorld()
        self.seen = 0  # jobs that an earlier line has told of
        self.places: dict[bytes, str] = {}

    async def do(self, words: list[str]) -> None:
        world, (verb, *rest) = self.world, words
        if verb == "run":
            await world.run(float(rest[0]))
        elif verb == "load":
            world.rate, world.urgent = float(rest[0]), int(rest[2]) if len(rest) > 1 else 0
        elif verb == "streams":
            world.ask(int(rest[0]), int(rest[2]))
        elif verb == "cancel":
            world.cancel(int(rest[0]), oldest="oldest" in rest)
        elif verb == "kill":
            world.kill(rest[0])
        elif verb == "start":
            world.agents[rest[0]].start()
        elif verb == "etcd":
            world.etcd.pause() if rest[0] == "paused" else world.etcd.resume()
        elif verb == "registry":
            world.registries[rest[0]].alive = rest[1] == "started"
        elif verb == "leader":
            world.elect(rest[0])
        elif verb == "clock":
            world.wall += float(rest[0])
        elif verb == "partition":
            world.cut.add(frozenset(rest))
        elif verb == "heal":
            world.heal()
        else:
            await self.command(verb, rest)

    async def command(self, verb: str, rest: list[str]) -> None:
        """What an admin asks of the registry that leads."""
        world = self.world
        leader = world.leader
        try:
            if leader is None:
                world.said = "no registry answers"
            elif verb in {"weights", "rollout"}:
                text = ROUTE % tuple(map(int, rest)) if rest else ROLLOUT
                applied = await leader.config.apply([("a.yaml", text)], prune=False, author="ann")
                assert not applied.faults
                world.said = f"applied as revision {applied.revision}"
            else:
                assert verb in {"drain", "undrain"}, verb
                await leader.mark(rest[0], "drained" if verb == "drain" else "active")
                world.said = "done"
        except BridgeError as fault:
            world.said = str(fault)

    def line(self) -> str:
        """How everything stands, and what became of requests since the last line."""
        world = self.world
        leader = world.leader
        head = f"{leader.name} leads" if leader is not None else "no leader"
        for plan, position in leader.controller.positions() if leader is not None else ():
            head += f"; {plan.name} {position.phase}, step {position.step + 1}/{len(plan.steps)}"
            head += f" ({position.reason})" if position.reason else ""
        if world.said:
            head, world.said = f"{head}; the admin hears: {world.said}", ""
        nodes = ", ".join(map(self.node, world.names))
        ended, self.seen = world.ended[self.seen :], len(world.ended)
        return f"{head}; {nodes}; {self.became(ended)}"

    def node(self, name: str) -> str:
        agent = self.world.agents[name]
        if not agent.alive:
            return f"{name} dead"
        queue = agent.queue
        words = f"{name} {queue.running}+{queue.waiting}"
        words += f"+{queue.suspect} suspect" if queue.suspect else ""
        open_ = sum(target.available for target in agent.index.targets.values())
        passed = [other for other in self.world.names if agent.health.down(other, self.world.now)]
        words += f" sees {open_}" + (f" but not {' '.join(passed)}" if passed else "")
        return f"{words}, new {shares(agent.snapshot.routes['chat'].backends)['new']:.0%}"

    def became(self, ended: list[Job]) -> str:
        results = Counter(job.result for job in ended)
        words = ", ".join(f"{count} {result}" for result, count in sorted(results.items())) or "nothing ended"
        done = [job for job in ended if job.result == "done"]
        if done:
            share = sum(job.decision.backend == "new" for job in done) / len(done)
            first = [job.first_at - job.began for job in done if job.first_at is not None]
            words += f" ({share:.0%} by new; first token {statistics.median(first):.1f} s"
            words += f", {max(first):.1f} at most"
            urgent = [
                job.first_at - job.began for job in done if job.first_at is not None and not job.priority
            ]
            words += f", urgent ones {max(urgent):.1f}" if urgent else ""
            words += ")"
        resumed = sum(job.resumed for job in ended)
        return f"{words}; {resumed} resumed" if resumed else words


def script(topic: str, fault: str) -> list[str]:
    begins, ends = FAULTS[fault]
    lines: list[str] = []
    for line in TOPICS[topic].splitlines():
        lines += begins if line == "FAULT" else ends if line == "MENDED" else [line]
    return lines


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("topic", TOPICS)
async def test_the_transcript_is_as_written(topic: str, fault: str) -> None:
    path, story, lines = FOLDER / f"{topic}-{fault}.txt", Story(), list[str]()
    for line in script(topic, fault):
        if line.startswith("#"):
            lines.append(line)
            continue
        await story.do(line.split())
        story.world.check()
        lines += [f"> {line}", story.line()]
    results = story.world.results
    assert results.keys() - {"done"} <= ALLOWED[topic], results
    PROMISES.get(topic, lambda _: None)(story.world)
    if os.environ.get("BRIDGE_WRITE_TRANSCRIPTS"):
        path.write_text("\n".join(lines) + "\n")
    assert path.read_text().splitlines() == lines


def everything_was_carried(world: TrafficWorld) -> None:
    """Whose entry lived lost nothing, and some streams had to move."""
    assert not list(world.live)
    assert sum(job.resumed for job in world.ended) > 0


def capacity_was_used(world: TrafficWorld) -> None:
    """Over the twenty seconds: goodput at nine tenths of what the engines can do, urgent ones soon."""
    per_request_s = (3 + 5) * 0.1
    done = sum(job.result == "done" for job in world.ended)
    assert done >= 0.9 * 20 * 3 * SLOTS / per_request_s
    urgent = [job for job in world.ended if not job.priority]
    assert {job.result for job in urgent} == {"done"}


def it_arrived(world: TrafficWorld) -> None:
    assert world.leader is not None
    ((_, position),) = world.leader.controller.positions()
    assert position.phase == "complete", position.reason


def no_slot_is_left_behind(world: TrafficWorld) -> None:
    for agent in world.agents.values():
        assert (agent.queue.running, agent.queue.waiting, agent.queue.suspect) == (0, 0, 0)


PROMISES: dict[str, Callable[[TrafficWorld], None]] = {
    "survival": everything_was_carried,
    "canary": it_arrived,
    "overload": capacity_was_used,
    "cancel": no_slot_is_left_behind,
}
