"""Agents and registries that share a quota, message by message, in any order: never more than the quota."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge_agent.quotas.quota_rules import QuotaBook, Refusal, Reservation
from bridge_agent.quotas.stream_rules import QuotaStream
from bridge_agent.quotas.usage_rules import UsageBook
from bridge_core.identity.principal import Principal
from bridge_core.quotas import LEASE_S, Bucket, Quota
from bridge_registry.quotas.lease_rules import LeaseBook

WHO = Principal("client", "ann", "spiffe://m/client/ann")
MODEL = "registry.ollama.ai/library/m:latest"
NODES = ("a", "b", "c")
AMOUNT = 20
NOW_MS = 1_800_000_000_000


class Agent:
    """One node, and its stream to the registry with what is under way on it."""

    def __init__(self, name: str) -> None:
        self.name, self.began = name, 1
        self.book, self.usage = QuotaBook(name), UsageBook()
        self.stream: QuotaStream | None = None
        self.up: deque[Any] = deque()
        self.down: deque[Any] = deque()
        self.heard_first = False
        self.running: list[tuple[Reservation, int]] = []


class Mesh(RuleBasedStateMachine):
    """Everybody in contact, or back within the lease: no overshoot at all."""

    resource: Any = "requests"

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.settled = False  # everything was exchanged since the registry began to lead
        self.quota = Quota("q", window_s=3600.0, **{self.resource: AMOUNT})
        self.agents = {name: Agent(name) for name in NODES}
        self.registry = LeaseBook(self.now)
        self.registry.follow([self.quota], NODES)
        for agent in self.agents.values():
            agent.book.follow([self.quota], NODES)

    @initialize()
    def connect_all(self) -> None:
        for agent in self.agents.values():
            self._connect(agent)

    def _connect(self, agent: Agent) -> None:
        agent.stream = QuotaStream(agent.book, agent.usage)
        agent.up.clear()
        agent.down.clear()
        agent.heard_first = False
        self.registry.opened(agent.name, self.now)

    @property
    def now_ms(self) -> int:
        return NOW_MS + int(self.now * 1000)

    @property
    def bucket(self) -> Bucket:
        begins = self.quota.begins(self.resource, self.now_ms)
        return Bucket("q", WHO.text, begins, self.resource)

    # -- requests

    @rule(name=st.sampled_from(NODES), amount=st.integers(1, 9))
    def ask(self, name: str, amount: int) -> None:
        agent = self.agents[name]
        got = agent.book.reserve(WHO, MODEL, amount, amount, now=self.now, now_ms=self.now_ms)
        if not isinstance(got, Refusal):
            assert got is not None
            agent.running.append((got, amount))

    @rule(name=st.sampled_from(NODES), amount=st.integers(1, 9))
    def ask_until_refused_and_say_so(self, name: str, amount: int) -> None:
        agent, before = self.agents[name], -1
        while before != len(agent.running):
            before = len(agent.running)
            self.ask(name, amount)
        self.report(name)

    @rule(name=st.sampled_from(NODES), share=st.floats(0, 1), data=st.data())
    def settle(self, name: str, share: float, data: st.DataObject) -> None:
        agent = self.agents[name]
        if agent.running:
            which = data.draw(st.integers(0, len(agent.running) - 1))
            reservation, amount = agent.running.pop(which)
            for _ in range(2):  # the second time changes nothing
                reservation.settle(int(amount * share), int(amount * share))

    @rule(name=st.sampled_from(NODES))
    def cancel(self, name: str) -> None:
        agent = self.agents[name]
        if agent.running:
            agent.running.pop()[0].give_back()

    # -- messages

    @rule(name=st.sampled_from(NODES))
    def report(self, name: str) -> None:
        agent = self.agents[name]
        if agent.stream is not None:
            agent.up.append(agent.stream.report(self.now, self.now_ms))

    @rule(name=st.sampled_from(NODES))
    def arrive(self, name: str) -> None:
        agent = self.agents[name]
        if agent.stream is None or not agent.up:
            return
        report = agent.up.popleft()
        self.registry.report(
            name,
            report.cells,
            began=agent.began,
            acknowledged=report.acknowledged,
            first=not agent.heard_first,
            now=self.now,
            now_ms=self.now_ms,
        )
        agent.heard_first = True
        agent.down.append((*self.registry.grants(name), report.sequence))
        self.tell()

    def tell(self) -> None:
        """What the registry has to say is on its way at once."""
        for name in NODES:
            if self.agents[name].heard_first and self.registry.due(name):
                self.agents[name].down.append((*self.registry.grants(name), 0))

    @rule(name=st.sampled_from(NODES))
    def hear(self, name: str) -> None:
        agent = self.agents[name]
        if agent.stream is not None and agent.down:
            sequence, limits, answered = agent.down.popleft()
            agent.stream.take(sequence, answered, limits, self.now_ms)

    @rule()
    def exchange(self) -> None:
        """Everybody reports, and everything arrives."""
        self.settled = True
        for name in NODES:
            self.report(name)
        for name in NODES:
            while self.agents[name].up:
                self.arrive(name)
        for name in NODES:
            while self.agents[name].down:
                self.hear(name)

    # -- faults

    @rule(name=st.sampled_from(NODES))
    def cut_and_come_back(self, name: str) -> None:
        agent = self.agents[name]
        self.registry.closed(name)
        self._connect(agent)

    @precondition(lambda self: self.settled)
    @rule()
    def another_registry_leads(self) -> None:
        self.registry = LeaseBook(self.now)
        self.registry.follow([self.quota], NODES)
        for agent in self.agents.values():
            self._connect(agent)
        self.settled = False

    @rule()
    def tick(self) -> None:
        self.registry.tick(self.now, self.now_ms)
        self.tell()

    # -- what always holds

    def used(self) -> int:
        return sum(cell.claimed for one in self.agents.values() for cell in one.book.cells)

    @invariant()
    def never_more_than_the_quota(self) -> None:
        assert self.used() <= AMOUNT

    @invariant()
    def limits_never_add_up_to_more(self) -> None:
        limits = 0
        for name, agent in self.agents.items():
            cells = {cell.bucket: cell for cell in agent.book.cells}
            share = AMOUNT // 3 + (NODES.index(name) < AMOUNT % 3)
            limits += (
                max(cells[self.bucket].limit, cells[self.bucket].claimed) if self.bucket in cells else share
            )
        assert limits <= AMOUNT
        if all(agent.heard_first for agent in self.agents.values()):
            assert limits <= self.registry.claims(self.bucket, self.now) <= AMOUNT

    def teardown(self) -> None:
        """Whoever asks alone gets all of it in the end, if it takes some rounds."""
        for agent in self.agents.values():
            while agent.running:
                agent.running.pop()[0].give_back()
        self.now += LEASE_S / 2
        left = AMOUNT - self.used()
        agent = self.agents["b"]
        for _ in range(40):
            self.now += 1.0 if self.registry._lends_from > self.now else 0.0
            self.exchange()
            self.registry.tick(self.now, self.now_ms)
            got = agent.book.reserve(WHO, MODEL, 1, 1, now=self.now, now_ms=self.now_ms)
            if not isinstance(got, Refusal):
                left -= 1
        assert left <= 0


class Tokens(Mesh):
    resource = "output_tokens"


class Concurrency(Mesh):
    resource = "concurrency"


_FEW = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestRequests = Mesh.TestCase
TestRequests.settings = _FEW
TestTokens = Tokens.TestCase
TestTokens.settings = _FEW
TestConcurrency = Concurrency.TestCase
TestConcurrency.settings = _FEW
