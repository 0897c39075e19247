"""A mesh in one process and in virtual time, for requests: tenth of a second by tenth of a second.

What decides is the product's own, at the entry (choice, health, pulse, attempts, resumption), at the
owner (slots and queue) and in the control plane (`control_plane`). Simulated are the clock, the wires
and the engines: a prefill, then a token a tick, the n-th token of every text being "n". So a text that
was continued elsewhere can be held against the one that it should be.

What goes over a cut wire waits and comes in its order when the wire is whole, as TCP does it, if then
anybody still wants it; what goes to a process that is gone is refused at once.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter as Tally
from collections.abc import Callable, Iterator

import msgspec

from bridge_agent.engines.view import LocalInstance
from bridge_agent.routing import resume
from bridge_agent.routing.admission_answers import Admitted, Queued
from bridge_agent.routing.admission_rules import Priority, SlotQueue
from bridge_agent.routing.choose import Decision, Load, choose, node_subject
from bridge_agent.routing.health_rules import Failure, HealthBook, retry_allowed
from bridge_agent.routing.load_rules import LoadBook
from bridge_agent.routing.pulse_rules import Pulse
from bridge_agent.routing.request_rules import GiveUp, RequestLife, Step, Try
from bridge_agent.routing.resume import Continuation
from bridge_agent.routing.resume.places import ContinuationPlace, places
from bridge_agent.routing.strategies import Turns
from bridge_agent.routing.view import Index, Target
from bridge_core import keyspace
from bridge_core.counts import Counter
from bridge_core.errors import BridgeError
from bridge_core.names import canonical
from bridge_core.snapshot import Instance, MemberModel, Snapshot, Version, encode_entry
from bridge_core.store.api import Delete, Put
from bridge_core.traffic import Retries
from bridge_registry.membership.load_book import NodeLoadReport
from bridge_registry.records import NodeRecord, encode
from tests.scenarios.control_plane import ControlPlane

TICK = 0.1
TTL_S = 5.0  # of leases
PREFILL = 3  # ticks
SLOTS = 4
PATIENCE_S = 10.0  # for the rest of a stream
ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: chat}
spec:
  backends: [{model: old, weight: %d}, {model: new, weight: %d}]
  strategy: ring_hash
  slowStart: 0s
  admission: {queuePerSlot: 2}
"""


class Job:
    """One streamed request of a client at `entry`."""

    def __init__(self, number: int, entry: Agent, tokens: int, key: bytes, priority: Priority) -> None:
        self.number, self.entry, self.tokens, self.key, self.priority = number, entry, tokens, key, priority
        body = {"model": "chat", "prompt": "", "raw": True, "options": {"num_predict": tokens}}
        self.request = resume.request_of("/api/generate", msgspec.json.encode(body))
        tracker = resume.tracker_for("/api/generate")
        assert tracker is not None
        self.tracker = tracker
        self.life = RequestLife((), None, Retries())
        self.decision = Decision("", (), known=True)
        self.owner: Agent | None = None
        self.place = 0  # which stay at an owner: what an earlier one still sends is nobody's
        self.continuation: Continuation | None = None
        self.resumed = 0
        self.avoid: dict[str, float] = {}
        self.lost_at: float | None = None
        self.began = entry.world.now
        self.first_at: float | None = None
        self.result = ""

    @property
    def text(self) -> str:
        """What the client has of it."""
        self.tracker.settle()
        return self.tracker.text


class Stay:
    """A job at an owner: what the engine works on, or what waits for it."""

    def __init__(self, job: Job, said: int, left: int) -> None:
        self.job, self.place, self.said, self.left = job, job.place, said, left
        self.prefill = PREFILL
        self.since = 0.0
        self.cancelled = False


class Agent:
    """A node: the sidecar that clients call, the one that owns an engine, and that engine."""

    def __init__(self, world: TrafficWorld, name: str) -> None:
        self.world, self.name, self.instance = world, name, f"{name}/0"
        self.alive = True
        self.lease_until = 0.0
        self.served = self.starts = 0
        self.snapshot = Snapshot(Version(), {})
        self.start()

    def start(self) -> None:
        """The process begins: of what it knew it has its snapshot alone."""
        self.alive = True
        self.starts += 1
        self.counters: dict[tuple[str, str], Counter] = {}
        models = (MemberModel("old"), MemberModel("new"))
        self.own = LocalInstance(self.instance, "127.0.0.1", 1, "ready", models, ("old", "new"), SLOTS)
        self.in_flight: Tally[str] = Tally()
        self.health, self.pulse, self.turns = HealthBook(), Pulse(), Turns()
        self.loads = LoadBook(self.in_flight)
        self.queue: SlotQueue[Stay] = SlotQueue(SLOTS)
        self.running: list[Stay] = []
        self.stays: dict[tuple[int, int], Stay] = {}  # those that wait, or did
        self.jobs: list[Job] = []
        self.take(self.snapshot)

    def take(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.index = Index(self.name, snapshot, (self.own,))
        self.health.forget({*self.index.targets, *self.world.names})

    # -- as the entry

    def load(self) -> Load:
        now, health = self.world.now, self.health
        return Load(
            dict(self.loads.work(now)),
            lambda subject: health.ejected(subject, now),
            lambda subject: health.down(subject, now),
            {},
            self.turns,
            self.world.chance.getrandbits(44),
        )

    def begin(self, job: Job) -> None:
        """A client's request came."""
        self.jobs.append(job)
        job.decision = choose(self.index, canonical("chat"), job.key, self.load())
        job.life = RequestLife(job.decision.candidates, None, job.decision.policy.retries)
        self.follow(job, job.life.start(self.world.now))

    def follow(self, job: Job, step: Step) -> None:
        while isinstance(step, Try):
            failure, detail = self.send(job, step.target)
            if failure is None:
                return
            step = self.after(job, step.target, failure, detail)
        if isinstance(step, GiveUp):
            self.end(job, f"refused ({step.status})" if step.status == 503 else f"failed: {step.message}")

    def after(self, job: Job, target: Target, failure: Failure, detail: str) -> Step:
        """Notes a failure of the running attempt."""
        now, retries = self.world.now, job.decision.policy.retries
        away = failure is Failure.CONNECT
        self.health.failed(node_subject(target.node) if away else target.id, failure, now)
        allowed = retry_allowed(self.in_flight.total(), 0, retries.budget, retries.budget_floor)
        tried = job.life.running
        assert tried is not None
        return job.life.failed(tried, failure, detail, now, allowed=allowed)

    def send(self, job: Job, target: Target) -> tuple[Failure | None, str]:
        """Sends it there; how it failed when it did at once."""
        owner = self.world.agents[target.node]
        if not owner.alive:
            return Failure.CONNECT, f"{owner.name} refuses connections"
        job.owner = owner
        job.place += 1
        self.in_flight[target.id] += 1
        if not self.world.linked(self, owner):
            place = job.place
            self.world.post(self, owner, lambda: self._arrives(job, place))
            return None, ""
        refusal = owner.admit(job)
        if refusal:
            self.leave(job)
            return Failure.REFUSED, refusal
        return None, ""

    def _arrives(self, job: Job, place: int) -> None:
        """What was sent over a wire that was cut is there now."""
        if job.owner is None or job.place != place or job.result:
            return
        target, refusal = self.index.targets[job.owner.instance], job.owner.admit(job)
        if refusal:
            self.leave(job)
            if job.first_at is None:
                self.follow(job, self.after(job, target, Failure.REFUSED, refusal))
            else:
                job.lost_at = self.world.now

    def hang_up(self, job: Job) -> None:
        """Closes the connection to the job's owner."""
        owner, place = job.owner, job.place
        if owner is not None:
            self.leave(job)
            self.world.post(self, owner, lambda: owner.drop(job, place))

    def leave(self, job: Job) -> None:
        """The job is no longer at its owner, as far as this node can say."""
        if job.owner is not None:
            self.in_flight[job.owner.instance] -= 1
            job.owner = None

    def died(self, job: Job, failure: Failure) -> None:
        """What was sent there will not be answered from there."""
        assert job.owner is not None
        target = self.index.targets.get(job.owner.instance)
        job.avoid[job.owner.instance] = self.world.now + 1.0
        self.hang_up(job)
        if job.first_at is None and target is not None:
            self.follow(job, self.after(job, target, failure, "cut"))
            return
        if target is not None:
            self.health.failed(target.id, failure, self.world.now)
        job.tracker.settle()
        resume.check(job.request, job.tracker)
        job.lost_at = self.world.now
        self.seek(job)

    def seek(self, job: Job) -> None:
        """Asks for the rest of a stream elsewhere; the next tick tries again when there is nobody."""
        now = self.world.now
        avoided = [id_ for id_, until in job.avoid.items() if until > now]
        sought = ContinuationPlace(job.decision.model, "", "chat", job.decision.backend)
        for target in places(self.index, sought, self.load(), avoided):
            job.continuation = Continuation(
                job.request, job.tracker, resumed=job.resumed + 1, spent_ns=0, decoded_ns=0
            )
            if self.send(job, target)[0] is None:
                job.resumed += 1
                job.lost_at = None
                return
        if job.lost_at is not None and now - job.lost_at > PATIENCE_S:
            self.end(job, "told an error in the stream")

    def hear(self, job: Job, place: int, token: str, *, last: bool) -> None:
        """A record of the engine's came."""
        if job.result or job.place != place or job.owner is None:
            return
        self.pulse.alive(job.owner.name, self.world.now)
        if job.first_at is None:
            job.first_at = self.world.now
            assert job.life.running is not None
            job.life.answered(job.life.running)
        record = {"model": "chat", "created_at": "", "response": token, "done": last}
        record |= {"eval_count": 1} if last else {}
        if job.continuation is not None:
            job.continuation.take(record)
        else:
            job.tracker.feed(msgspec.json.encode(record) + b"\n")
        if last:
            self.health.succeeded(job.owner.instance, self.world.now)
            job.owner.served += 1
            self.leave(job)
            self.end(job, "done")

    def end(self, job: Job, result: str) -> None:
        job.result = result
        counter = self.counters.setdefault(("chat", job.decision.backend), Counter())
        lost = any(one.failure is not Failure.REFUSED for one in job.life.failed_attempts)
        if lost or "fail" in result:
            counter.failed()
        elif result == "done" and job.first_at is not None:
            spent = self.world.now - job.first_at
            wait = job.first_at - job.began
            counter.answered(wait, tokens=job.tokens, generating_s=spent, broken=False)
        self.jobs.remove(job)
        self.world.ended.append(job)

    def cancel(self, job: Job) -> None:
        """The client went away."""
        self.hang_up(job)
        self.end(job, "cancelled")

    def told(self, other: Agent, work: int) -> None:
        """Another node says that it is there, and what work its instance has."""
        self.pulse.answered(other.name)
        self.health.spoke(other.name, self.world.now)
        self.loads.heard(other.instance, work, self.world.now)

    def watch(self) -> None:
        """One tick of the questions between nodes, and of streams that seek their rest."""
        world = self.world
        in_use = [one.owner.name for one in self.jobs if one.owner not in {None, self}]
        verdicts = self.pulse.tick([name for name in world.names if name != self.name], in_use, world.now)
        for name in verdicts.ask:
            other = world.agents[name]
            if not other.alive:
                self.pulse.failed(name)
            else:
                world.post(self, other, lambda other=other: other.tells(self))
        for name in verdicts.silent:
            self.health.silent(name)
        for job in [one for one in self.jobs if one.owner is not None and one.owner.name in verdicts.cut]:
            self.died(job, Failure.CUT)
        for job in [one for one in self.jobs if one.lost_at is not None]:
            self.seek(job)

    # -- as the owner

    def tells(self, other: Agent) -> None:
        """Answers another's question."""
        work = self.queue.work
        self.world.post(self, other, lambda: other.told(self, work))

    def admit(self, job: Job) -> str:
        """Why it does not take the job; empty: it runs or waits."""
        said = job.text.count(" ")
        left = job.request.left(job.tracker.tokens)
        stay = Stay(job, said, 1 if left is None else left)
        bound = job.decision.policy.admission.queue_per_slot * SLOTS
        answer = self.queue.offer(stay, job.entry.name, job.priority, bound=bound, now=self.world.now)
        if isinstance(answer, Admitted):
            self._run(stay)
        elif isinstance(answer, Queued):
            self.stays[job.number, job.place] = stay
            if isinstance(answer.displaced, Stay):
                out = answer.displaced.job
                target = out.entry.index.targets[self.instance]
                out.entry.leave(out)
                out.entry.follow(out, out.entry.after(out, target, Failure.REFUSED, "more urgent ones came"))
        else:
            return answer.reason
        return ""

    def drop(self, job: Job, place: int) -> None:
        """The job's connection was closed: its place in the queue goes, or its slot."""
        if self.queue.leave(self._waiting(job, place), job.entry.name, job.priority):
            return
        for stay in [one for one in self.running if one.job is job and one.place == place]:
            held = self.world.now - stay.since
            if stay.prefill > 0:
                stay.cancelled = True  # the engine finishes a prefill that nobody wants
                self.queue.give_back(held, suspect=True)
            else:
                self.running.remove(stay)
                self._admit(self.queue.give_back(held))

    def _waiting(self, job: Job, place: int) -> Stay:
        return self.stays.pop((job.number, place), Stay(job, 0, 0))

    def _admit(self, stays: list[Stay]) -> None:
        for stay in stays:
            self._run(stay)

    def _run(self, stay: Stay) -> None:
        stay.since = self.world.now
        self.running.append(stay)

    def work(self) -> None:
        """One tick of the engine."""
        for stay in list(self.running):
            job = stay.job
            stay.prefill -= 1
            if stay.prefill >= 0:
                if stay.prefill == 0 and stay.cancelled:
                    self.running.remove(stay)
                    self._admit(self.queue.clear())
                continue
            stay.left -= 1
            token, stay.said = f"{stay.said} ", stay.said + 1
            self.world.post(self, job.entry, self._told(stay, token))
            if stay.left <= 0:
                self.running.remove(stay)
                self._admit(self.queue.give_back(self.world.now - stay.since))

    @staticmethod
    def _told(stay: Stay, token: str) -> Callable[[], None]:
        job, place, last = stay.job, stay.place, stay.left <= 0
        return lambda: job.entry.hear(job, place, token, last=last)

    # -- what it tells the registry, and its lease

    def report(self) -> NodeLoadReport:
        """What its requests came to."""
        counts = {key: counter.counts for key, counter in self.counters.items()}
        return NodeLoadReport(self.starts, len(self.jobs), self.snapshot.version, counts)

    def renew(self) -> None:
        """What keeps its record in etcd; the store ends it when nobody does."""
        etcd, now = self.world.etcd, self.world.now
        key = keyspace.MEMBERS + self.instance
        if not etcd.available:
            return
        if now > self.lease_until and key in etcd.items:
            etcd.apply([Delete(key)])
        elif self.alive:
            self.lease_until = now + TTL_S
            if key not in etcd.items:
                models, loaded = self.own.models, self.own.loaded
                record = Instance(self.instance, self.name, slots=SLOTS, models=models, loaded=loaded)
                etcd.apply([Put(key, encode_entry(record))])


class TrafficWorld(ControlPlane):
    """See the module.

    Attributes:
        ended: Every job that is over.
        rate: New requests a second, over all agents that live.
        urgent: Every how many-th of them is of high priority; 0: none.
        said: What an admin was told last.
    """

    def __init__(self, *, seed: int = 1) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.names = ("n1", "n2", "n3")
        self.agents = {name: Agent(self, name) for name in self.names}
        self.ended: list[Job] = []
        self.cut: set[frozenset[str]] = set()
        self.held_up: list[tuple[Agent, Callable[[], None]]] = []
        self.rate, self.tokens, self.urgent = 0.0, 5, 0
        self.said = ""
        self._due = 0.0
        self._ticks = 0
        self._number = 0
        self.etcd.apply(
            [Put(keyspace.NODES + name, encode(NodeRecord(name, f"{name}:1"))) for name in self.names]
        )
        self.write_config({"ModelRoute/chat": ROUTE % (70, 30)})
        for _ in range(3):
            self.tick()

    def linked(self, one: Agent, other: Agent) -> bool:
        """Whether what one sends reaches the other."""
        return one is other or frozenset((one.name, other.name)) not in self.cut

    def post(self, sender: Agent, to: Agent, arrives: Callable[[], None]) -> None:
        """`arrives` happens at `to`: now, or when the wire is whole again."""
        if not self.linked(sender, to):
            self.held_up.append((to, arrives))
        elif to.alive:
            arrives()

    def heal(self) -> None:
        """Every wire is whole again, and what it held up arrives in its order."""
        self.cut.clear()
        held_up, self.held_up = self.held_up, []
        for to, arrives in held_up:
            if to.alive:
                arrives()

    def tick(self) -> None:
        """A tenth of a second for everybody."""
        self.now += TICK
        self.wall += TICK
        for agent in self.agents.values():
            agent.renew()
        for registry in self.registries.values():
            registry.refresh()
        leader = self.leader
        for agent in self.agents.values():
            if agent.alive and leader is not None and leader.snapshot.version > agent.snapshot.version:
                agent.take(leader.snapshot)
        self._due += self.rate * TICK
        while self._due >= 1.0:
            self._due -= 1.0
            self.ask(1, self.tokens)
        for agent in self.agents.values():
            if agent.alive:
                agent.work()
        for agent in self.agents.values():
            if agent.alive:
                agent.watch()

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.tick()
            self._ticks += 1
            if self._ticks % 10 == 0:
                await self._second()

    async def _second(self) -> None:
        """What happens once a second: reports, and the rollouts' controllers."""
        leader = self.leader
        for agent in self.agents.values():
            if agent.alive and leader is not None:
                leader.load.take_report(agent.name, agent.report(), self.now)
        for registry in self.registries.values():
            if registry.alive:
                # Its position could not be saved: it stays where it was.
                with contextlib.suppress(BridgeError):
                    await registry.controller.tick(1.0)

    def ask(self, count: int, tokens: int) -> None:
        """New requests of 300 conversations, at one living agent after the other."""
        entries = [agent for agent in self.agents.values() if agent.alive]
        for _ in range(count):
            self._number += 1
            number = self._number
            urgent = self.urgent and number % self.urgent == 0
            priority = Priority.HIGH if urgent else Priority.NORMAL
            entry = entries[number % len(entries)]
            entry.begin(Job(number, entry, tokens, b"%d" % self.chance.randrange(300), priority))

    def kill(self, name: str) -> None:
        """The node's process dies, with its engine; its own clients are lost with it."""
        victim = self.agents[name]
        victim.alive = False
        for job in list(victim.jobs):
            victim.leave(job)
            victim.end(job, "lost with its entry")
        for agent in self.agents.values():
            for job in [one for one in agent.jobs if one.owner is victim]:
                agent.died(job, Failure.CUT)

    def cancel(self, count: int, *, oldest: bool) -> None:
        """The clients of the newest requests go away, or of the oldest."""
        for job in sorted(self.live, key=lambda job: job.number, reverse=not oldest)[:count]:
            job.entry.cancel(job)

    @property
    def live(self) -> Iterator[Job]:
        """Every job under way."""
        return (job for agent in self.agents.values() for job in agent.jobs)

    @property
    def results(self) -> Tally[str]:
        """What became of the jobs that are over."""
        return Tally(job.result for job in self.ended)

    def check(self) -> None:
        """No text has a gap, a repetition or a wrong end, however often it moved; no slot is lost."""
        for job in [*self.ended, *self.live]:
            said = job.text.count(" ")
            assert job.text == "".join(f"{n} " for n in range(said)), job.text
            assert job.result != "done" or said == job.tokens, (job.number, job.text)
        for agent in self.agents.values():
            queue = agent.queue
            assert queue.running + queue.suspect == len(agent.running) <= SLOTS
