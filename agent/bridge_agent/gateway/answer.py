"""The answer to one inference request, from the upstream's head to the client's last byte.

The upstream's callbacks come here. What they ask of the request's own side (`Inference`) are the
abstract methods at the end: the next step after a failure, and settling.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Final

from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.core import Arrival, Core
from bridge_agent.gateway.routes import Framing, Kind, Route
from bridge_agent.gateway.shapes import stream_error
from bridge_agent.gateway.watch import StreamWatch, Verdict
from bridge_agent.peers.hop import LOAD, OURS, OVERHEAD, REFUSED, REQUEST_ID
from bridge_agent.routing.attempts import Attempts, Step
from bridge_agent.routing.choose import node_subject
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.view import Target
from bridge_core.http1 import ConnectFailed, Pair, UpstreamError
from bridge_core.http1.client import ResponseHead
from bridge_core.http1.heads import lines
from bridge_core.http1.relay import Relay

_ADDED: Final = frozenset({REQUEST_ID, b"x-bridge-node", b"x-bridge-attempts", *OURS})
_RETRIED: Final = frozenset({404, 500, 502, 503})
_TELL_EVERY_S: Final = 1.0
_STREAMED: Final = (b"application/x-ndjson", b"text/event-stream")


class Answer(Relay):
    """Takes the answer of the running attempt and passes it to the client.

    Attributes:
        route: The route that the request came by.
    """

    __slots__ = (
        "_alias",
        "_arrival",
        "_core",
        "_head_at",
        "_held",
        "_model",
        "_policy",
        "_retry_after",
        "_sent_at",
        "_target",
        "_told_at",
        "_torn",
        "_waited",
        "_watch",
        "route",
    )

    def __init__(self, core: Core, arrival: Arrival, route: Route) -> None:
        super().__init__(arrival.exchange)
        self.route = route
        self._core = core
        self._arrival = arrival
        self._target: Target | None = None
        self._watch: StreamWatch | None = None
        self._alias: tuple[bytes, bytes] | None = None
        self._held: list[bytes] | None = None
        self._torn = b""
        self._model = ""
        self._sent_at = 0.0
        self._head_at = 0.0
        self._told_at = 0.0
        self._waited = 0.0
        self._retry_after = 1
        self._policy = core.view.index.defaults

    def on_head(self, head: ResponseHead) -> None:
        """See `ResponseSink`: a refusal is tried elsewhere where that can do better."""
        target = self._target
        # A 502 is an engine that failed behind the hop; a 500 may be the request's own fault, and
        # the others only say "not here, not now".
        failure = Failure.SERVER_ERROR if head.status == 502 else Failure.REFUSED
        if target is None or head.status == 200 or not self._declined(head, failure):
            super().on_head(head)
            return
        step = self._next(failure, f"node {target.node} does not take it at present")
        self.cancel()
        self._follow(step)

    def response_head(self, head: ResponseHead) -> Iterable[Pair] | bytes | None:
        """See `Relay`: adds what tells the client who answered."""
        core, target, arrival = self._core, self._target, self._arrival
        if target is None:
            return None
        now = self._head_at = self._told_at = core.now()
        if not core.health.quiet:
            core.health.succeeded(target.id, now)
            core.health.succeeded(node_subject(target.node), now)
        if head.status == 200 and self.route.framing is not Framing.NONE:
            kind = head.headers.get(b"content-type")
            if kind is not None and kind.startswith(_STREAMED):
                self._watch = StreamWatch(self.route.framing)
        if self._alias is not None and self._watch is None:
            self._held = []
        overhead_us = int((self._sent_at - arrival.began - self._waited) * 1e6)
        if target.local:
            if arrival.over_hop:
                refused = b"x-bridge-refused: 1\r\n" if head.status == 503 else b""
                return b"%bx-bridge-overhead-us: %d\r\nx-bridge-load: %d\r\n%b" % (
                    head.headers.block(_ADDED),
                    overhead_us,
                    core.work(target.id),
                    refused,
                )
        else:
            behind = head.headers.get(OVERHEAD)
            if behind is not None and behind.isdigit():
                overhead_us += int(behind)
            load = head.headers.get(LOAD)
            if load is not None and load.isdigit():
                core.loads.heard(target.id, int(load), now)
        added = (
            b"x-request-id: %b\r\nx-bridge-node: %b\r\nx-bridge-attempts: %d\r\nx-bridge-overhead-us: %d\r\n"
        )
        fields = head.headers.block(_ADDED) + added % (
            arrival.request_id.encode(),
            target.node.encode(),
            self._tried,
            overhead_us,
        )
        if arrival.cors:
            fields += lines(arrival.cors)
        return fields

    def _declined(self, head: ResponseHead, failure: Failure) -> bool:
        """Whether another candidate may do better than this answer.

        A 500 before a byte is most often a runner that died under the request; a request that is
        itself to blame gets the same answer from the next one.
        """
        core, target = self._core, self._target
        if head.status not in _RETRIED or target is None:
            return False
        self._note_patience(head, target)
        if not (self._tries().may_retry(failure) and core.retry_allowed(self._policy)):
            return False
        if head.status == 500:
            return self.route.kind is Kind.INFER
        if target.local:
            return head.status == 503
        return REFUSED in head.headers

    def _note_patience(self, head: ResponseHead, target: Target) -> None:
        """An engine's own Retry-After keeps others away from it; a peer's full queue shows in its load."""
        after = head.headers.get(b"retry-after")
        if head.status != 503 or after is None or not after.isdigit() or len(after) > 6:
            return
        self._retry_after = max(1, int(after))
        if REFUSED not in head.headers:
            self._core.health.asked_for_patience(target.id, float(after), self._core.now())

    def response_data(self, data: bytes) -> bytes:
        """See `Relay`: follows the stream's records on their way."""
        if self._alias is not None:
            data = data.replace(*self._alias)
            if self._held is not None:
                self._held.append(data)
                return b""
        if self._watch is not None:
            self._tell_progress()
            self._watch.feed(data)
            if self._torn or data[-1:] != b"\n":
                return self._whole_lines(data)
        return data

    def _tell_progress(self) -> None:
        """Tells now and then that a long answer goes on: probes need not disturb its model."""
        core, target = self._core, self._target
        if core.on_progress is None or target is None or not target.local:
            return
        now = core.now()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            core.on_progress(target.id, self._model)

    def _whole_lines(self, data: bytes) -> bytes:
        """Holds back a line that is not whole yet: were it the last, its half would reach the client."""
        data = self._torn + data
        end = data.rfind(b"\n") + 1
        self._torn = data[end:]
        return data[:end]

    def response_end(self) -> bytes | None:
        """See `Relay`: a stream without its terminal record is a failure, whatever its status says."""
        watch = self._watch
        if watch is None:
            held = self._held
            status = self.exchange.status
            self._settle(status, Outcome.OK if status < 500 else Outcome.ENGINE_ERROR)
            return b"".join(held) if held else b""
        verdict = watch.verdict
        if verdict is Verdict.COMPLETE:
            self._settle(200, Outcome.OK)
            return self._torn
        if verdict is Verdict.ENGINE_ERROR:
            self._settle(200, Outcome.ENGINE_ERROR)
            return self._torn
        return self._broken("the engine stopped before the answer was complete")

    def failed(self, error: UpstreamError) -> None:
        """See `Relay`: the next candidate before a byte was delivered, the protocol's error after."""
        exchange = self.exchange
        if exchange.started:
            self._failed_midway(error)
            return
        failure = Failure.CONNECT if isinstance(error, ConnectFailed) else Failure.CUT
        self._follow(self._next(failure, error.message))

    def _failed_midway(self, error: UpstreamError) -> None:
        exchange, watch = self.exchange, self._watch
        if watch is not None and watch.verdict is Verdict.COMPLETE:
            self._settle(200, Outcome.OK)
            exchange.finish(self._torn)
            return
        last = self._broken(error.message) if watch is not None else None
        if last is not None:
            exchange.finish(last)
        else:
            self._settle(exchange.status, Outcome.BROKEN)
            exchange.abort()

    def _broken(self, message: str, status: int = 502) -> bytes | None:
        """Ends a stream that cannot go on; None when it was cut for the entry agent to see."""
        core, target = self._core, self._target
        framing = self.route.framing
        core.counters.streams_broken[framing.value] += 1
        if target is not None:
            core.health.failed(target.id, Failure.CUT, core.now(), self._policy)
        self._settle(200, Outcome.BROKEN)
        if self._arrival.over_hop:
            # The entry agent alone speaks to the client: it must see a cut, not an answer.
            self.exchange.abort()
            return None
        watch = self._watch
        if watch is None:
            return stream_error(framing, status, message, self._arrival.request_id)
        sequence = watch.next_sequence
        return stream_error(framing, status, message, self._arrival.request_id, sequence=sequence)

    # -- the request's side

    @property
    @abstractmethod
    def _tried(self) -> int:
        """Attempts begun."""

    @abstractmethod
    def _tries(self) -> Attempts:
        """The machine of the attempts."""

    @abstractmethod
    def _next(self, failure: Failure, detail: str) -> Step:
        """Notes the failure of the running attempt and asks for the next step."""

    @abstractmethod
    def _follow(self, step: Step) -> None:
        """Takes a step, and the next ones while they fail at once."""

    @abstractmethod
    def _settle(self, status: int, outcome: Outcome) -> None:
        """Releases what the request held and writes its record, once."""
