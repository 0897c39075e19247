"""What every request of one gateway shares."""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Final
from typing import Protocol as Interface

from bridge_agent.gateway.admission import Admission
from bridge_agent.gateway.config import Authorize, Caller, GatewayConfig, ListenerKind, Outcome, RequestRecord
from bridge_agent.gateway.counters import GatewayCounters
from bridge_agent.gateway.routes import HttpRoute, Protocol, protocol_of
from bridge_agent.gateway.shapes import error_body
from bridge_agent.peers.hop import REFUSED, REQUEST_ID, Hop
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.admission_rules import Priority
from bridge_agent.routing.choose import Load
from bridge_agent.routing.health_rules import HealthBook, retry_allowed
from bridge_agent.routing.load_rules import LoadBook
from bridge_agent.routing.strategies import Turns
from bridge_agent.routing.unheard import Unheard
from bridge_agent.routing.view import Index, MeshView, Target
from bridge_core.http1 import Exchange, Pair
from bridge_core.snapshot import RoutePolicy

if TYPE_CHECKING:
    from bridge_agent.gateway.answer import Answer, Rest

_FRESH_S: Final = 5.0  # a model that was just made is listed by then, here and in the snapshot
_GIVEN_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
NODE: Final = b"x-bridge-node"


class Resume(Interface):
    """Who continues streams that died; made by the gateway, for `Answer`."""

    def opened(self, answer: Answer) -> None:
        """A stream began."""

    def closed(self, answer: Answer) -> None:
        """A stream is over."""

    def take_over(self, answer: Answer, target: Target, reason: str) -> Rest | None:
        """Has the rest of a stream that died at `target` generated; None where that cannot be."""


class Unload(Interface):
    """Has a model unloaded wherever it lies; made by the gateway, for `Inference`."""

    def __call__(self, arrival: Arrival, route: HttpRoute, model: str, /) -> None:
        """Answers the request, which asks for nothing else."""


class Core:
    """The gateway's shared state: view, links, counters, health and recent records.

    Owned by the loop that serves the listeners; nothing in it is touched from elsewhere.
    """

    def __init__(
        self,
        config: GatewayConfig,
        view: MeshView,
        upstreams: Upstreams,
        authorize: Authorize,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self.config = config
        self.view = view
        self.upstreams = upstreams
        self.authorize = authorize
        self.now = now
        self.counters = GatewayCounters()
        self.health = HealthBook()
        self.admission = Admission(config.suspect_s)
        self.loads = LoadBook(self.counters.in_flight)
        self.retrying = 0
        self._turns = Turns()
        self._draw = secrets.randbits(64)
        self.records: deque[RequestRecord] = deque(maxlen=config.explained)
        self.on_record: Callable[[RequestRecord], None] | None = None
        self.on_progress: Callable[[str, str], None] | None = None
        self.node_spoke: Callable[[str], None] = lambda _node: None
        self.resume: Resume | None = None
        self.unload: Unload = lambda *_args: None  # the gateway's
        self.draining = False
        self.node = config.node.encode()
        self._made: dict[str, tuple[Target, float]] = {}
        self._prefix = secrets.token_hex(6)
        self._sequence = 0
        self.unheard = Unheard(view.index, now())
        self._follow(view.index)
        view.subscribe(self._follow)

    def request_id(self, given: bytes | None) -> str:
        """The client's own id where it is a sane one, else a new one."""
        if given is not None and _GIVEN_ID.fullmatch(given):
            return given.decode()
        self._sequence += 1
        return f"{self._prefix}{self._sequence:08x}"

    def load(self, now: float) -> Load:
        """What a choice at this moment takes into account."""
        health, loads = self.health, self.loads
        # Any number will do, so long as it is another one for each request.
        self._draw = (self._draw * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        ages = loads.ages(now, self.view.index.slow_start_s)
        draw = self._draw >> 20
        work = loads.work(now)
        suspected = self.admission.suspected()
        if suspected:  # what others know from what this node tells them
            work = {**work, **{id_: work.get(id_, 0) + count for id_, count in suspected.items()}}
        if health.quiet:
            return Load(work, None, None, ages, self._turns, draw)
        return Load(
            work,
            lambda subject: health.ejected(subject, now),
            lambda subject: health.down(subject, now),
            ages,
            self._turns,
            draw,
        )

    def retry_allowed(self, policy: RoutePolicy) -> bool:
        """Whether the retry budget has room: retries must not become a storm of their own."""
        budget = policy.retries
        requests = sum(self.counters.in_flight.values())
        return retry_allowed(requests, self.retrying, budget.budget, budget.budget_floor)

    def work(self, instance: str) -> int:
        """All the work of one of this node's instances, to tell the peers."""
        return max(self.counters.in_flight.get(instance, 0), self.admission.work(instance))

    def nodes_in_use(self) -> set[str]:
        """Nodes that have requests of this agent now."""
        targets = self.view.index.targets
        return {targets[id_].node for id_ in self.counters.in_flight if id_ in targets}

    def peer_answered(self, node: str, work: dict[str, int]) -> None:
        """A node said that it is there, and what work its instances have."""
        now = self.now()
        if not self.health.quiet:
            self.health.spoke(node, now)
        for instance, total in work.items():
            if instance.partition("/")[0] == node:
                self.loads.heard(instance, total, now)

    def _follow(self, index: Index) -> None:
        self.loads.present([target.id for target in index.targets.values() if target.available], self.now())
        self.health.forget({*index.targets, *(target.node for target in index.targets.values())})
        self.admission.follow(index)
        self.unheard.follow(index, self.now())

    def settle(self, record: RequestRecord) -> None:
        """A request is over."""
        counters = self.counters
        # `_value_` is what `value` gives, without the descriptor's Python call.
        counters.requests[record.path, record.status, record.caller.listener._value_] += 1
        counters.outcomes[record.outcome._value_] += 1
        began = record.began
        counters.duration.observe(record.ended - began)
        if record.head:
            counters.first_byte.observe(record.head - began)
            counters.overhead.observe(record.sent - began - record.waited)
        if record.waited:
            counters.wait.observe(record.waited)
        if not self.health.quiet:
            self.health.tidy(record.ended)
        self.records.append(record)
        if self.on_record is not None:
            self.on_record(record)

    def made(self, names: Iterable[str], target: Target) -> None:
        """Models of these canonical names were just made there: who asks next is quicker than lists."""
        now = self.now()
        self._made = {other: entry for other, entry in self._made.items() if entry[1] > now}
        self._made |= dict.fromkeys(names, (target, now + _FRESH_S))

    def maker(self, name: str) -> Target | None:
        """Where a model was made a moment ago; None where none of this name was."""
        target, until = self._made.get(name, (None, 0.0))
        return target if until > self.now() else None

    def note(self, arrival: Arrival, path: str, outcome: Outcome) -> None:
        """Writes the record of a request that went to no instance: a list, or a refusal."""
        exchange = arrival.exchange
        now = self.now()
        self.settle(
            RequestRecord(
                arrival.request_id,
                arrival.caller,
                exchange.request.method,
                path,
                "",
                exchange.status,
                outcome,
                arrival.began,
                now,
                0.0,
                now,
                None,
                "",
                (),
                len(exchange.request.body),
                exchange.sent,
            )
        )

    def refuse(
        self, arrival: Arrival, path: str, status: int, message: str, retry_after: int | None = None
    ) -> None:
        """Answers with an error and writes the record."""
        self.respond_error(
            arrival.exchange, status, message, arrival.request_id, retry_after=retry_after, extra=arrival.cors
        )
        self.note(arrival, path, Outcome.REFUSED)

    def admits(self, arrival: Arrival, route: HttpRoute, names: tuple[str, ...] = ("",)) -> bool:
        """Whether the caller may do this with each of these models; else it was answered."""
        for name in names:
            denial = self.authorize(arrival.caller, route.action, name)
            if denial is not None:
                self.refuse(arrival, route.path, denial.status, denial.message)
                return False
        return True

    def respond_error(
        self,
        exchange: Exchange,
        status: int,
        message: str,
        request_id: str,
        *,
        protocol: Protocol | None = None,
        retry_after: int | None = None,
        refused: bool = False,
        unread: bool = False,
        extra: tuple[Pair, ...] = (),
    ) -> None:
        """Answers with an error in the shape of the path's protocol."""
        content_type, body = error_body(
            protocol or protocol_of(exchange.request.path), status, message, request_id, unread=unread
        )
        pairs: list[Pair] = [
            (b"content-type", content_type),
            (REQUEST_ID, request_id.encode()),
            (NODE, self.node),
            *extra,
        ]
        if retry_after is not None:
            pairs.append((b"retry-after", b"%d" % retry_after))
        if refused:
            pairs.append((REFUSED, b"1"))
        exchange.respond(status, pairs, body)


class Arrival:
    """A request with who sent it and when: what each handler starts from.

    Attributes:
        exchange: The client's exchange.
        caller: Who asks.
        hop: What the entry agent said, when it came over a hop.
        began: When it arrived.
        request_id: The id in logs and answers.
        deadline: When it must be over; None: no limit.
        cors: What an answer to an allowed origin carries.
        priority: How urgent it is.
    """

    __slots__ = ("began", "caller", "cors", "deadline", "exchange", "hop", "priority", "request_id")

    def __init__(
        self,
        exchange: Exchange,
        caller: Caller,
        hop: Hop | None,
        began: float,
        request_id: str,
        *,
        deadline: float | None = None,
        cors: tuple[Pair, ...] = (),
        priority: Priority = Priority.NORMAL,
    ) -> None:
        self.priority = priority
        self.cors = cors
        self.exchange = exchange
        self.caller = caller
        self.hop = hop
        self.began = began
        self.request_id = request_id
        self.deadline = deadline

    @property
    def client(self) -> str:
        """Between whom a queue is fair."""
        caller = self.caller
        if caller.listener is ListenerKind.LOCAL:
            remote = self.exchange.request.remote
            return remote[0] if remote else ""
        return f"{caller.via}/{caller.principal}"

    @property
    def over_hop(self) -> bool:
        """Whether it was forwarded by another agent, and so is answered here or not at all."""
        return self.caller.listener is ListenerKind.PEER
