"""A mesh in one process and in virtual time, for rollouts: an etcd, two registries, three agents.

Everything that decides is the product's own: the machine, the controller, the table, the builder,
the split. Only the clock, the wires and the requests are simulated, second by second.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from bridge_core.counts import Counter
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.probe import ProbeResult
from bridge_core.snapshot import Instance, Model, Snapshot, Version, encode_entry
from bridge_core.store.api import Delete, Put, Unchanged
from bridge_core.traffic import shares, split
from bridge_registry import keyspace
from bridge_registry.membership.load_book import LoadBook, Report
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.publication.builder import entries, next_version
from bridge_registry.records import NodeRecord, encode
from bridge_registry.rollouts.controller import RolloutController
from bridge_registry.rollouts.rollout_rules import Position
from tests.fakes.store import FakeEtcd, FakeStore

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
LEADER_KEY = keyspace.LEADER + "1"


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

    def report(self, behaviours: dict[str, Behaviour]) -> Report:
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
        return Report(self.began, 0, self.snapshot.version, counts, results)


class Registry:
    """One registry's deciding parts on its own view of the store."""

    def __init__(self, world: World, name: str) -> None:
        self.name, self._world = name, world
        self.store = FakeStore(world.etcd)
        self.table = MeshTable(())
        self.load = LoadBook()
        self.snapshot = Snapshot(Version(), {})
        self.alive = True
        self.controller = RolloutController(
            self.store,
            self,
            self.table,
            self.load,
            lambda: self.snapshot,
            clock=lambda: world.wall,
            monotonic=lambda: world.now,
        )

    def leads(self) -> bool:
        item = self._world.etcd.items.get(LEADER_KEY)
        return self.alive and item is not None and item.value == self.name.encode()

    def fence(self) -> Unchanged:
        if not self.leads():
            raise Unavailable("another registry leads")
        return Unchanged(LEADER_KEY, self._world.etcd.items[LEADER_KEY].mod_revision)

    def refresh(self) -> None:
        """What the watch and the publisher do."""
        if not self.alive or not self.store.reachable():
            return
        self.table.apply(self._world.etcd.listing(keyspace.ROOT), self._world.now)
        if not self.leads():
            return
        made = entries(
            trust_domain="m",
            spec=None,
            routes=self.table.routes,
            nodes=self.table.nodes,
            members=self.table.membership.members.values(),
            revoked=(),
            rollouts=self.table.rollouts,
        )
        if made != self.snapshot.entries:
            epoch = self._world.etcd.items[LEADER_KEY].create_revision
            self.snapshot = Snapshot(next_version(self.snapshot.version, epoch, self.table.revision), made)


class World:
    """See the module. `rate` is each agent's requests a second."""

    def __init__(self, *, rate: int = 5, seed: int = 1) -> None:
        self.etcd = FakeEtcd()
        self.now, self.wall, self.rate = 1000.0, 1_800_000_000.0, rate
        self.behaviours = {"old": Behaviour(), "new": Behaviour()}
        rng = random.Random(seed)
        self.agents = [Agent(f"n{at}", at, rng) for at in range(1, 4)]
        self.faults: list[str] = []
        ops = []
        for agent in self.agents:
            instance = Instance(f"{agent.name}/0", agent.name, models=(Model("old"), Model("new")))
            ops.append(Put(f"{keyspace.MEMBERS}{agent.name}/0", encode_entry(instance)))
            ops.append(Put(keyspace.NODES + agent.name, encode(NodeRecord(agent.name))))
        self.etcd.apply(ops)
        self.registries = {name: Registry(self, name) for name in ("r1", "r2")}
        self.elect("r1")

    def apply(self, spec: str = "") -> None:
        """Applies the route and a rollout."""
        self.etcd.apply(
            [
                Put(keyspace.CONFIG + "ModelRoute/chat", ROUTE.encode()),
                Put(keyspace.CONFIG + "Rollout/roll", (ROLLOUT % spec).encode()),
            ]
        )

    def elect(self, name: str) -> None:
        """A new leader: the key of the old one is gone."""
        self.etcd.apply([Delete(LEADER_KEY)])
        self.etcd.apply([Put(LEADER_KEY, name.encode())])

    @property
    def leader(self) -> Registry | None:
        return next((one for one in self.registries.values() if one.leads()), None)

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
    def stored(self) -> Position | None:
        """The rollout's position as etcd has it."""
        item = self.etcd.items.get(keyspace.ROLLOUTS + "roll")
        return None if item is None else msgspec.json.decode(item.value, type=Position)

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
