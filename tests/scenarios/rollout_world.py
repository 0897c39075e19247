"""A mesh in one process and in virtual time, for rollouts: an etcd, two registries, three agents.

Everything that decides is the product's own: the machine, the controller, the table, the builder,
the split. Only the clock, the wires and the requests are simulated, second by second.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from bridge_core import keyspace
from bridge_core.counts import Counter
from bridge_core.errors import BridgeError
from bridge_core.probe import ProbeResult
from bridge_core.snapshot import Instance, MemberModel, Snapshot, Version, encode_entry
from bridge_core.store.api import Put
from bridge_core.traffic import shares, split
from bridge_registry.membership.load_book import NodeLoadReport
from bridge_registry.records import NodeRecord, encode
from bridge_registry.rollouts.rollout_rules import RolloutPosition
from tests.scenarios.control_plane import ControlPlane

ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: chat}
spec: {backends: [{model: old, weight: 100}, {model: new, weight: 0}]}
"""
ROLLOUT = """\
apiVersion: bridge.deepseek.io/v1
kind: Rollout
metadata: {name: roll}
spec: {route: chat, stable: old, canary: new%s}
"""
PROBE = ", probe: {prompts: [{prompt: 2+2, expect: '4'}]}"


class Behaviour(msgspec.Struct):
    """What a backend does to requests."""

    error: float = 0.0
    broken: float = 0.0
    ttft_s: float = 0.2
    speed: float = 50.0
    answer: str = "4"


class Agent:
    """Serves requests by its snapshot and counts what they came to."""

    def __init__(self, name: str, began: int, rng: random.Random) -> None:
        self.name, self.began = name, began
        self.snapshot = Snapshot(Version(), {})
        self.counters: dict[tuple[str, str], Counter] = {}
        self.cut_off = False
        self.failed = self.served = self.to_canary = 0
        self._rng = rng

    def serve(self, requests: int, behaviours: dict[str, Behaviour]) -> None:
        route = self.snapshot.routes.get("chat")
        if route is None:
            return
        for _ in range(requests):
            conversation = b"%d" % self._rng.randrange(1000)
            backend = split(route, conversation)[0].key
            counter = self.counters.setdefault(("chat", backend), Counter())
            how, drawn = behaviours[backend], self._rng.random()
            self.served += 1
            self.to_canary += backend == "new"
            if drawn < how.error:
                self.failed += 1
                counter.failed()
                continue
            broken = drawn < how.error + how.broken
            self.failed += broken
            ttft_s = how.ttft_s * self._rng.uniform(0.7, 1.5)
            counter.answered(ttft_s, tokens=100, generating_s=100 / how.speed, broken=broken)

    def report(self, behaviours: dict[str, Behaviour]) -> NodeLoadReport:
        results = tuple(
            ProbeResult(
                probe.rollout,
                probe.round,
                f"{self.name}/0",
                not any(one.fault(behaviours[probe.model].answer) for one in probe.questions),
                next((one.fault(behaviours[probe.model].answer) for one in probe.questions), ""),
            )
            for probe in self.snapshot.probes
            if probe.questions
        )
        counts = {key: counter.counts for key, counter in self.counters.items()}
        return NodeLoadReport(self.began, 0, self.snapshot.version, counts, results)


class World(ControlPlane):
    """See the module. `rate` is each agent's requests a second."""

    def __init__(self, *, rate: int = 5, seed: int = 1) -> None:
        super().__init__()
        self.rate = rate
        self.behaviours = {"old": Behaviour(), "new": Behaviour()}
        rng = random.Random(seed)
        self.agents = [Agent(f"n{at}", at, rng) for at in range(1, 4)]
        self.faults: list[str] = []
        ops = []
        for agent in self.agents:
            instance = Instance(
                f"{agent.name}/0", agent.name, models=(MemberModel("old"), MemberModel("new"))
            )
            ops.append(Put(f"{keyspace.MEMBERS}{agent.name}/0", encode_entry(instance)))
            ops.append(Put(keyspace.NODES + agent.name, encode(NodeRecord(agent.name))))
        self.etcd.apply(ops)

    def apply(self, spec: str = "") -> None:
        """Applies the route and a rollout."""
        self.etcd.apply(
            [
                Put(keyspace.CONFIG + "ModelRoute/chat", ROUTE.encode()),
                Put(keyspace.CONFIG + "Rollout/roll", (ROLLOUT % spec).encode()),
            ]
        )

    async def second(self) -> None:
        """One second for everybody."""
        self.now += 1.0
        self.wall += 1.0
        for registry in self.registries.values():
            registry.refresh()
        leader = self.leader
        for agent in self.agents:
            if leader is not None and not agent.cut_off and leader.snapshot.version > agent.snapshot.version:
                agent.snapshot = leader.snapshot
            agent.serve(self.rate, self.behaviours)
            if leader is not None and not agent.cut_off:
                leader.load.take_report(agent.name, agent.report(self.behaviours), self.now)
        for registry in self.registries.values():
            if registry.alive:
                try:
                    await registry.controller.tick(1.0)
                except BridgeError as fault:
                    self.faults.append(str(fault))

    async def until(self, done: Callable[[], bool], limit_s: int) -> int:
        """Seconds until `done`, at most `limit_s`."""
        for passed in range(limit_s):
            if done():
                return passed
            await self.second()
        raise AssertionError(f"not within {limit_s} s: {self.line()}")

    @property
    def stored(self) -> RolloutPosition | None:
        """The rollout's position as etcd has it."""
        item = self.etcd.items.get(keyspace.ROLLOUTS + "roll")
        return None if item is None else msgspec.json.decode(item.value, type=RolloutPosition)

    @property
    def phase(self) -> str:
        return "none" if self.stored is None else self.stored.phase

    @property
    def reason(self) -> str:
        return "" if self.stored is None else self.stored.reason

    @property
    def failed(self) -> int:
        """Requests of users that failed."""
        return sum(agent.failed for agent in self.agents)

    def line(self) -> str:
        """How everything stands, for a transcript."""
        found = [one for one in self.registries.values() if one.alive and one.leads()]
        words = "no leader"
        if found:
            plan_and_position = list(found[0].controller.positions())
            words = f"{found[0].name} leads"
            for plan, position in plan_and_position:
                step = f"step {position.step + 1}/{len(plan.steps)} at {position.elapsed_s:.0f} s"
                words += f"; {plan.name} {position.phase}, {step}"
                words += f" ({position.reason})" if position.reason else ""
        seen = []
        for agent in self.agents:
            route = agent.snapshot.routes.get("chat")
            share = f"{shares(route.backends)['new']:.0%}" if route is not None else "-"
            seen.append(f"{agent.name} {share}")
        return f"{words}; canary: {', '.join(seen)}"
