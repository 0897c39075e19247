"""What every request of one gateway shares."""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from bridge_agent.gateway.config import Authorize, Caller, GatewayConfig, ListenerKind, Outcome, Record
from bridge_agent.gateway.counters import GatewayCounters
from bridge_agent.gateway.routes import Protocol, Route, protocol_of
from bridge_agent.gateway.shapes import error_body
from bridge_agent.peers.hop import REFUSED, REQUEST_ID, Hop
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.choose import Load
from bridge_agent.routing.health_rules import HealthBook
from bridge_agent.routing.view import MeshView
from bridge_core.http1 import Exchange, Pair

_GIVEN_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
NODE: Final = b"x-bridge-node"


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
        self.health = HealthBook(config.health)
        self.records: deque[Record] = deque(maxlen=config.explained)
        self.on_record: Callable[[Record], None] | None = None
        self.draining = False
        self.node = config.node.encode()
        self._prefix = secrets.token_hex(6)
        self._sequence = 0
        self._idle_load = Load(self.counters.in_flight)

    def request_id(self, given: bytes | None) -> str:
        """The client's own id where it is a sane one, else a new one."""
        if given is not None and _GIVEN_ID.fullmatch(given):
            return given.decode()
        self._sequence += 1
        return f"{self._prefix}{self._sequence:08x}"

    def load(self, now: float) -> Load:
        """What a choice at this moment takes into account."""
        if self.health.quiet:
            return self._idle_load
        return Load(
            self.counters.in_flight,
            lambda subject: self.health.ejected(subject, now),
            self.view.current.mesh.bounded_load,
        )

    def settle(self, record: Record) -> None:
        """A request is over."""
        counters = self.counters
        # `_value_` is what `value` gives, without the descriptor's Python call.
        counters.requests[record.path, record.status, record.caller.listener._value_] += 1
        counters.outcomes[record.outcome._value_] += 1
        began = record.began
        counters.duration.observe(record.ended - began)
        if record.head:
            counters.first_byte.observe(record.head - began)
            counters.overhead.observe(record.sent - began)
        self.records.append(record)
        if self.on_record is not None:
            self.on_record(record)

    def note(self, arrival: Arrival, path: str, outcome: Outcome) -> None:
        """Writes the record of a request that went to no instance: a list, or a refusal."""
        exchange = arrival.exchange
        now = self.now()
        self.settle(
            Record(
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

    def refuse(self, arrival: Arrival, path: str, status: int, message: str) -> None:
        """Answers with an error and writes the record."""
        self.respond_error(arrival.exchange, status, message, arrival.request_id, extra=arrival.cors)
        self.note(arrival, path, Outcome.REFUSED)

    def admits(self, arrival: Arrival, route: Route, names: tuple[str, ...] = ("",)) -> bool:
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
    """

    __slots__ = ("began", "caller", "cors", "deadline", "exchange", "hop", "request_id")

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
    ) -> None:
        self.cors = cors
        self.exchange = exchange
        self.caller = caller
        self.hop = hop
        self.began = began
        self.request_id = request_id
        self.deadline = deadline

    @property
    def over_hop(self) -> bool:
        """Whether it was forwarded by another agent, and so is answered here or not at all."""
        return self.caller.listener is ListenerKind.PEER
