"""The answer to one inference request, from the upstream's head to the client's last byte.

The upstream's callbacks come here. What they ask of the request's own side (`Inference`) are the
abstract methods at the end: the next step after a failure, and settling.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Final, Protocol

from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.core import Arrival, Core
from bridge_agent.gateway.relay import Relay
from bridge_agent.gateway.routes import Framing, HttpRoute, Kind
from bridge_agent.gateway.shapes import stream_error
from bridge_agent.gateway.watch import StreamVerdict, StreamWatch, error_at
from bridge_agent.peers.hop import LOAD, OURS, OVERHEAD, REFUSED, REQUEST_ID
from bridge_agent.routing.attempts import UNBUDGETED, Attempt, Attempts, Step
from bridge_agent.routing.choose import Decision, node_subject
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.resume import Tracker, tracker_for
from bridge_agent.routing.view import Target
from bridge_core.http1 import ConnectFailed, Pair, UpstreamError
from bridge_core.http1.client import ResponseHead
from bridge_core.http1.heads import lines

_ADDED: Final = frozenset({REQUEST_ID, b"x-bridge-node", b"x-bridge-attempts", *OURS})
_RETRIED: Final = frozenset({404, 500, 502, 503})
# What an engine says of itself, not of the request: full, or its model was deleted a moment ago.
_ELSEWHERE: Final = frozenset({404, 503})
_FAILURES: Final = {500: Failure.ANSWERED_500, 502: Failure.SERVER_ERROR}
# A key, or a value that is nothing else: inside a text its quotes are escaped.
_ERROR: Final = b'"error"'
_TELL_EVERY_S: Final = 0.5
_STREAMED: Final = (b"application/x-ndjson", b"text/event-stream")


class Rest(Protocol):
    """The rest of a stream, while it is sought and generated."""

    def stop(self) -> None:
        """Gives it up, and what it has running."""


class Answer(Relay):
    """Takes the answer of the running attempt and passes it to the client.

    Attributes:
        route: The route that the request came by.
        tracker: What the client has of a stream that may be continued; None where none is.
        part: It is the rest of a stream that died: whoever asked for it speaks to the client.
    """

    part = False

    __slots__ = (
        "_alias",
        "_arrival",
        "_continued_on",
        "_core",
        "_error",
        "_head_at",
        "_held",
        "_model",
        "_policy",
        "_rest",
        "_retry_after",
        "_sent_at",
        "_target",
        "_told_at",
        "_torn",
        "_waited",
        "_watch",
        "rewrites",
        "route",
        "tracker",
    )

    def __init__(self, core: Core, arrival: Arrival, route: HttpRoute) -> None:
        super().__init__(arrival.exchange)
        self.rewrites = False
        self.route = route
        self._core = core
        self._arrival = arrival
        self._target: Target | None = None
        self._watch: StreamWatch | None = None
        self._alias: tuple[bytes, bytes] | None = None
        self._held: list[bytes] | None = None
        self._torn = b""
        self._error = b""
        self._rest: Rest | None = None
        self._continued_on = ""
        self.tracker: Tracker | None = None
        self._model = ""
        self._sent_at = 0.0
        self._head_at = 0.0
        self._told_at = 0.0
        self._waited = 0.0
        self._retry_after = 1
        self._policy = core.view.index.defaults

    def on_whole(self, head: ResponseHead, body: bytes) -> bool:
        """See `ResponseSink`: an answer that is no stream, and passes as it came, is one write."""
        exchange = self.exchange
        if head.status != 200 or self._alias is not None or exchange.disconnected:
            return False
        kind = head.headers.get(b"content-type")
        if kind is not None and kind.startswith(_STREAMED):
            return False
        target = self._target
        if target is None:
            return False
        self._answered(target)
        fields = self._fields(head, target)
        exchange.sent = len(body)
        self._settle(200, Outcome.OK)  # before the client can ask for more
        exchange.respond(200, fields, body, forwarded=True)
        return True

    def on_head(self, head: ResponseHead) -> None:
        """See `ResponseSink`: a refusal is tried elsewhere where that can do better."""
        target = self._target
        # A 502 is an engine that failed behind the hop; a 500 may be the request's own fault, and
        # the others only say "not here, not now".
        failure = _FAILURES.get(head.status, Failure.REFUSED)
        if target is None or head.status == 200 or not self._declined(head, failure):
            super().on_head(head)
            return
        words = "does not take it at present" if failure is Failure.REFUSED else f"answered {head.status}"
        step = self._next(failure, f"node {target.node} {words}")
        self.cancel()
        self._follow(step)

    def response_head(self, head: ResponseHead) -> Iterable[Pair] | bytes | None:
        """See `Relay`: adds what tells the client who answered."""
        core, target, arrival = self._core, self._target, self._arrival
        if target is None:
            return None
        self._answered(target)
        if head.status == 200 and self.route.framing is not Framing.NONE:
            kind = head.headers.get(b"content-type")
            if kind is not None and kind.startswith(_STREAMED):
                self._watch = StreamWatch(self.route.framing)
                if core.resume is not None and self.route.kind is Kind.INFER and not arrival.over_hop:
                    self.tracker = tracker_for(self.route.path)
                    core.resume.opened(self)
        if self._alias is not None and self._watch is None:
            self._held = []
        return self._fields(head, target)

    def _answered(self, target: Target) -> None:
        core = self._core
        now = self._head_at = self._told_at = core.now()
        if not core.health.quiet:
            core.health.succeeded(target.id, now)
            core.health.succeeded(node_subject(target.node), now)

    def _fields(self, head: ResponseHead, target: Target) -> bytes:
        """The fields to answer with: the engine's, and ours in place of any by their names."""
        core, arrival = self._core, self._arrival
        overhead_us = int((self._sent_at - arrival.began - self._waited) * 1e6)
        if target.local:
            if arrival.over_hop:
                refused = b"x-bridge-refused: 1\r\n" if head.status in _ELSEWHERE else b""
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
                core.loads.heard(target.id, int(load), self._head_at)
        added = (
            f"x-request-id: {arrival.request_id}\r\nx-bridge-node: {target.node}\r\n"
            f"x-bridge-attempts: {self._tried}\r\nx-bridge-overhead-us: {overhead_us}\r\n"
        )
        fields = head.headers.block(_ADDED) + added.encode()
        return fields + lines(arrival.cors) if arrival.cors else fields

    def _declined(self, head: ResponseHead, failure: Failure) -> bool:
        """Whether another candidate may do better than this answer.

        A 500 before a byte is most often a runner that died under the request; a request that is
        itself to blame gets the same answer from the next one.
        """
        core, target = self._core, self._target
        if head.status not in _RETRIED or target is None:
            return False
        self._note_patience(head, target)
        if not self._tries().may_retry(failure):
            return False
        if failure not in UNBUDGETED and not core.retry_allowed(self._policy):
            return False
        if head.status == 500:
            return self.route.kind is Kind.INFER
        if target.local:
            return head.status in _ELSEWHERE
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
        if self._held is not None:
            self._held.append(data)
            return b""
        watch = self._watch
        if watch is None:
            return data
        now = self._core.now()
        if now - self._told_at >= _TELL_EVERY_S:
            self._tell_progress(now)
        watch.feed(data)
        if self._torn or data[-1:] != b"\n":
            data = self._whole_lines(data)
        if self._alias is not None:  # in whole lines: the name may have come in two reads
            data = data.replace(*self._alias)
        tracker = self.tracker
        if tracker is not None:
            if self._error or _ERROR in data:
                data = self._before_error(data)
            tracker.feed(data)
        return data

    def _before_error(self, data: bytes) -> bytes:
        """Holds back the engine's own error: the stream may be continued elsewhere."""
        start = 0 if self._error else error_at(self.route.framing, data)
        if start < 0:
            return data
        self._error += data[start:]
        return data[:start]

    def _tell_progress(self, now: float) -> None:
        """Tells now and then that a long answer goes on: its model, or its node, is well."""
        core, target = self._core, self._target
        self._told_at = now
        if target is None:
            return
        if not target.local:
            core.node_spoke(target.node)
        elif core.on_progress is not None:
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
            return self.renamed(b"".join(held)) if held else b""
        verdict = watch.verdict
        if verdict is StreamVerdict.COMPLETE:
            self._settle(200, Outcome.OK)
            return self.renamed(self._torn)
        if verdict is StreamVerdict.ENGINE_ERROR:
            return None if self._continues("engine_error", "the engine's own error") else self._told_error()
        message = "the engine stopped before the answer was complete"
        return None if self._continues("truncated", message) else self._broken(message)

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
        if watch is not None and watch.verdict is StreamVerdict.COMPLETE:
            self._settle(200, Outcome.OK)
            exchange.finish(self.renamed(self._torn))
            return
        if self._continues("cut", error.message):
            return
        last = self._broken(error.message) if watch is not None else None
        if last is not None:
            exchange.finish(last)
        else:
            self._settle(exchange.status, Outcome.BROKEN)
            exchange.abort()

    def _told_error(self) -> bytes | None:
        """Ends a stream with what its engine said of its failure."""
        self._settle(200, Outcome.ENGINE_ERROR)
        if self.part:
            self.exchange.abort()
            return None
        return self._error + self.renamed(self._torn)

    # -- a stream that died

    def stalled(self) -> None:
        """It has been silent for longer than it ever is: it counts as died."""
        message = "the engine went silent in the middle of the answer"
        super().cancel()
        if self._continues("stalled", message):
            return
        last = self._broken(message)
        if last is not None:
            self.exchange.finish(last)

    def _continues(self, reason: str, message: str) -> bool:
        """Has the rest of the stream generated elsewhere; False where that cannot be."""
        core, target, tracker = self._core, self._target, self.tracker
        if core.resume is None or tracker is None or target is None or self.part or self._rest is not None:
            return False
        rest = core.resume.take_over(self, target, reason)
        if rest is None:
            return False
        self._rest = rest
        if self._torn:
            self._torn = b""
            if self._watch is not None:
                self._watch.feed(b"\n")  # what comes next begins a line
        now = core.now()
        self._tries().failed.append(Attempt(target.id, self._sent_at, Failure.CUT, message))
        core.counters.attempts_failed[target.id, Failure.CUT.value] += 1
        core.health.failed(target.id, Failure.CUT, now, self._policy)
        # A silent engine may go on with it for as long as it likes.
        self._release(suspect=reason == "stalled")
        return True

    @property
    def arrival(self) -> Arrival:
        """The request as it came."""
        return self._arrival

    @property
    def model(self) -> str:
        """The model's canonical name, as the client asked for it."""
        return self._model

    @property
    def head_at(self) -> float:
        """When the answer began."""
        return self._head_at

    def renamed(self, data: bytes) -> bytes:
        """Records of the engine with the model's name that the client asked for."""
        return data if self._alias is None else data.replace(*self._alias)

    def continued(self, instance: str) -> None:
        """The rest of the stream comes from there."""
        self._continued_on = instance

    def died_again(self, attempt: Attempt) -> None:
        """A try to have the rest generated failed."""
        self._tries().failed.append(attempt)

    def carry(self, data: bytes) -> None:
        """Passes on what the rest of the stream brought."""
        if self._watch is not None:
            self._watch.feed(data)
        self.exchange.write(data)

    def carried(self) -> None:
        """The rest of the stream came whole."""
        self._settle(200, Outcome.OK)
        self.exchange.finish()

    def given_up(self, message: str) -> None:
        """Nobody could continue the stream."""
        last = self._told_error() if self._error else self._broken(message)
        if last is not None:
            self.exchange.finish(last)

    def cancel(self) -> None:
        """See `Relay`: the rest of a stream that died is given up, too."""
        super().cancel()
        if self._rest is not None:
            self._rest.stop()

    def _broken(self, message: str, status: int = 502) -> bytes | None:
        """Ends a stream that cannot go on; None when it was cut for the entry agent to see."""
        core, target = self._core, self._target
        framing = self.route.framing
        core.counters.streams_broken[framing.value] += 1
        if target is not None:
            core.health.failed(target.id, Failure.CUT, core.now(), self._policy)
        self._settle(200, Outcome.BROKEN)
        if self._arrival.over_hop or self.part:
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
    def decision(self) -> Decision | None:
        """How it was decided where the request goes."""

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
    def what_was_asked(self) -> tuple[str, bytes]:
        """The model in canonical form and the body, as the engine got them, decompressed.

        Raises:
            BridgeError: the body cannot be decompressed.
        """

    @abstractmethod
    def _release(self, *, suspect: bool = False) -> None:
        """Lets go of the running attempt's instance."""

    @abstractmethod
    def _settle(self, status: int, outcome: Outcome) -> None:
        """Releases what the request held and writes its record, once."""
