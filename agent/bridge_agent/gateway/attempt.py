"""One try of a request at one instance: admitted, sent, timed, and its answer passed to the client."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final, NamedTuple

from bridge_agent.batching.batching_rules import alone
from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.forwarding import before_body, forwarded_head, with_body, with_stream
from bridge_agent.gateway.loading_words import loading_line, waited_in
from bridge_agent.gateway.ports import ModelLoading, SharedRequest
from bridge_agent.gateway.replies import by_route
from bridge_agent.gateway.routes import Framing, Kind
from bridge_agent.gateway.stream_filter import EndlessLine, Renaming, StreamFilter
from bridge_agent.loading.load_options import LoadOptions, load_options
from bridge_agent.peers.hop import LOAD, LOADING, OURS, OVERHEAD, REFUSED, REQUEST_ID, Hop, lines_of
from bridge_agent.routing.admission_answers import ADMITTED, AdmissionRefused
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import Hold, Phase, Try
from bridge_agent.routing.resume import tracker_for
from bridge_agent.tracing.context_rules import FIELDS as TRACE_FIELDS
from bridge_core.bounds import MAX_PATIENCE_S, OVERHEAD_DIGITS, WORK_DIGITS, number
from bridge_core.errors import BridgeError
from bridge_core.http1 import (
    BadHeader,
    ClientExchange,
    ConnectFailed,
    PoolBusy,
    PoolClosed,
    ResponseHead,
    ResponseSink,
    UpstreamError,
    lines,
)
from bridge_core.large_json import LARGE

if TYPE_CHECKING:
    from bridge_agent.gateway.request import RoutedRequest

SESSION: Final = b"x-bridge-session"
# What stays here of a client's head: credentials, origins (an engine would answer 403), what only
# the gateway reads, and codings that nobody asked the engine for.
_KEPT_BACK: Final = frozenset(
    {
        b"accept-encoding",
        b"access-control-request-headers",
        b"access-control-request-method",
        b"api-key",
        b"authorization",
        b"cookie",
        b"origin",
        b"referer",
        b"x-api-key",
        REQUEST_ID,
        SESSION,
        b"x-bridge-node",
        b"x-bridge-priority",
        b"x-bridge-timeout",
        *OURS,
    }
)
# Where this node has a span of its own, that is the parent of what comes after it.
_KEPT_BACK_TRACED: Final = _KEPT_BACK | TRACE_FIELDS
_ADDED: Final = frozenset({REQUEST_ID, b"x-bridge-node", b"x-bridge-attempts", LOADING, *OURS})
_RETRIED: Final = frozenset({404, 500, 501, 502, 503})
# What an engine says of itself, not of the request: full, its model was deleted a moment ago, or it cannot
# render and read this one.
_ELSEWHERE: Final = frozenset({404, 501, 503})
# A 502 is an engine that failed behind the hop; a 500 may be the request's own fault, and the others
# only say "not here, not now".
_FAILURES: Final = {500: Failure.ANSWERED_500, 502: Failure.SERVER_ERROR}
_ANY_QUEUE: Final = 1 << 30  # for whom the queue had taken before
_TELL_EVERY_S: Final = 0.5
# An nginx in between would keep a stream back until it is whole.
_ACCEL: Final = b"x-accel-buffering"
_UNBUFFERED: Final = _ACCEL + b": no\r\n"
_STREAMED: Final = (b"application/x-ndjson", b"text/event-stream")


class Fault(NamedTuple):
    """Why a try failed before it was sent."""

    failure: Failure
    detail: str


class Attempt(ResponseSink):
    """One try, and the only sink of what comes from there.

    Attributes:
        tried: What the request's life knows of it.
        upstream: The request there, its own or one with others; None before it was sent.
    """

    __slots__ = ("_held_up", "_load_s", "_load_since", "_request", "_timer", "tried", "upstream")

    def __init__(self, request: RoutedRequest, tried: Try) -> None:
        self._request = request
        self.tried = tried
        self.upstream: ClientExchange | SharedRequest | None = None
        self._held_up = False
        self._load_since = 0.0  # it waits for a load since then; 0: it does not
        self._load_s = 0.0  # it waited for one
        self._timer: asyncio.TimerHandle | None = None

    @property
    def request(self) -> RoutedRequest:
        """Whose try it is."""
        return self._request

    # -- to the instance

    def begin(self) -> Fault | None:
        """Sends it, or has it wait for a slot; how it failed where that cannot be."""
        request, target = self._request, self.tried.target
        state = request.state
        state.counters.begin(target.id)
        if not target.local or request.route.kind is not Kind.INFER:
            return self._forward()
        if state.admission.take(target.id):
            request.life.admitted(self.tried, state.now())
        elif not self._needs_no_slot():
            return self._enter()
        return self._send()

    def let_go(self) -> None:
        """Lets go of the instance: its count, its slot or its place in the queue; what it sent has ended."""
        tried = self.tried
        sent, self.upstream = self.upstream is not None, None  # whose sink this is
        state, instance = self._request.state, tried.target.id
        if self._load_since:
            self._leave_load()
        state.counters.end(instance)
        if self._held_up:
            self._held_up = False
            state.counters.hold_up(instance, -1)
        if self._timer is not None:
            self._timer.cancel()
        if tried.hold is Hold.SLOT:
            tried.hold = Hold.NOTHING
            state.admission.give_back(instance, state.now() - tried.since, suspect=tried.suspect and sent)
        elif tried.hold is Hold.PLACE:
            self._leave_place(state.now())

    def cancel(self) -> None:
        """Gives it up; nothing more comes from there."""
        if self.upstream is not None:
            self.upstream.cancel()

    def _needs_no_slot(self) -> bool:
        """Whether it would wait for a slot that it does not need: nothing is generated.

        A model is unloaded, or a prompt rendered: the rest of a stream that died begins with that, and must
        not queue twice.
        """
        state, asked, target = self._request.state, self._request.asked, self.tried.target
        if asked.slotless:
            return True
        full = state.admission.work(target.id) >= target.slots
        return full and asked.renders_only(state.config.max_body)

    def _enter(self, *, bounded: bool = True) -> Fault | None:
        """Asks for a slot, or a place in the queue; without `bounded` however many wait."""
        request, tried = self._request, self.tried
        state, arrival, life = request.state, request.arrival, request.life
        admission = request.decision.policy.admission
        now = state.now()
        answer = state.admission.enter(
            tried.target,
            self,
            arrival.client,
            arrival.priority,
            queue_per_slot=admission.queue_per_slot if bounded else _ANY_QUEUE,
            now=now,
            deadline=life.deadline,
        )
        if answer is ADMITTED:
            life.admitted(tried, now)
            return self._send()
        if isinstance(answer, AdmissionRefused):
            state.counters.refused["queue_full"] += 1
            request.retry_after = answer.retry_after_s
            return Fault(Failure.REFUSED, answer.reason)
        life.queued(tried, now)
        if state.gathering is not None and request.route.action == "embed":
            state.gathering.queued(self)
        longest = admission.max_wait_s
        self._timer = asyncio.get_running_loop().call_later(longest, self._waited_out, longest)
        return None

    def proceed(self) -> None:
        """See `Waiter`."""
        request = self._request
        if self.tried.hold is not Hold.PLACE:
            return
        if self._timer is not None:
            self._timer.cancel()
        request.waited += request.life.admitted(self.tried, request.state.now())
        gathering = request.state.gathering
        if gathering is not None and request.route.action == "embed" and gathering.departs(self):
            return
        fault = self._send()
        if fault is not None:
            request.failed(self, *fault)

    def lose_place(self) -> None:
        """See `Waiter`."""
        request = self._request
        request.waited += request.life.left(self.tried, request.state.now())
        if request.state.gathering is not None:
            request.state.gathering.left(self)
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().call_soon(self._displaced)

    def _leave_place(self, now: float) -> None:
        """It waits in the queue no longer, of its own accord."""
        request = self._request
        state, arrival = request.state, request.arrival
        if state.gathering is not None:
            state.gathering.left(self)
        request.waited += request.life.left(self.tried, now)
        state.admission.leave(self.tried.target.id, self, arrival.client, arrival.priority)

    def _displaced(self) -> None:
        request = self._request
        if request.life.tries(self.tried):
            request.state.counters.refused["displaced"] += 1
            request.failed(self, Failure.REFUSED, "server busy: more urgent requests came")

    def _waited_out(self, longest: float) -> None:
        request = self._request
        if self.tried.hold is Hold.PLACE:
            request.state.counters.refused["waited_out"] += 1
            request.failed(self, Failure.REFUSED, f"server busy: no slot was free within {longest:g} s")

    # -- with others in one request (`batching`)

    def rides(self, shared: SharedRequest, now: float) -> None:
        """It went with others: its slot, where it has one, is theirs; its place in the queue is free."""
        request, tried = self._request, self.tried
        state = request.state
        if tried.hold is Hold.PLACE:
            self._leave_place(now)
        tried.hold = Hold.NOTHING
        if self._timer is not None:
            self._timer.cancel()
        self.upstream = shared
        request.sent_at = now
        if not state.health.quiet:
            state.health.began(tried.target.id, now)
        limit = request.decision.policy.retries.per_try_timeout_s
        if limit is not None:
            self._timer = asyncio.get_running_loop().call_later(limit, self._too_slow, limit)

    def asks_alone(self) -> None:
        """It goes with no others any more, here or elsewhere: it may be what an engine fails at."""
        asked = self._request.asked
        asked.body = alone(asked.body)

    def asks_again(self, has_slot: bool) -> None:
        """What it went with was not answered: it asks for itself, with that slot or queued anew."""
        request, tried = self._request, self.tried
        self.upstream = None
        if self._timer is not None:
            self._timer.cancel()
        if has_slot:
            request.life.admitted(tried, request.state.now())
            fault = self._send()
        else:
            fault = self._enter(bounded=False)
        if fault is not None:
            request.failed(self, *fault)

    def _send(self) -> Fault | None:
        """Sends it to an own engine once the model is in memory.

        What is loaded for one client alone would go with it.
        """
        request = self._request
        loading = request.state.loading
        if loading is not None:
            target = self.tried.target
            if request.asked.slotless:
                loading.unloaded(target.id, request.serving.model)
            elif request.serving.model not in target.loaded and self._awaits_load(loading):
                return None
        return self._forward()

    def _awaits_load(self, loading: ModelLoading) -> bool:
        """Has it wait for its model's load; False where there is nothing to wait for."""
        request, asked, instance = self._request, self._request.asked, self.tried.target.id
        state, name = request.state, request.serving.model
        target = state.view.index.targets.get(instance)  # as it is now: it may have waited for a slot
        copy = state.view.index.copies(name).get(instance)
        if target is None or copy is None or name in target.loaded:
            return False
        options = LoadOptions() if asked.packed else load_options(asked.body)
        if options is None:
            return False
        embedding = request.route.action == "embed"
        if not loading.wait(instance, copy.model, options, self, embedding=embedding):
            return False
        self._load_since = state.now()
        longest, limit = state.config.load_wait_s, request.policy.retries.per_try_timeout_s
        timer = asyncio.get_running_loop().call_later
        if limit is not None and limit < longest:
            self._timer = timer(limit, self._too_slow, limit)
        else:
            self._timer = timer(longest, self._load_waited_out, longest)
        return True

    def loaded(self) -> None:
        """See `LoadWaiter`."""
        if not self._load_since:
            return
        self._leave_load()
        fault = self._forward()
        if fault is not None:
            self._request.failed(self, *fault)

    def load_failed(self, failure: Failure, detail: str) -> None:
        """See `LoadWaiter`."""
        if self._load_since:
            self._leave_load()
            self._request.failed(self, failure, detail)

    def _load_waited_out(self, longest: float) -> None:
        request, instance = self._request, self.tried.target.id
        loading = request.state.loading
        if self._load_since and loading is not None:
            rest_s = loading.rest_s(instance)
            request.retry_after = max(1, min(MAX_PATIENCE_S, math.ceil(rest_s)))
            request.state.counters.refused["load_waited_out"] += 1
            words = f"the model was not in memory within {longest:g} s; its load at {instance} goes on"
            if loading.awaits_its_turn(instance, self):
                words = (
                    f"the model's load at {instance} did not begin within {longest:g} s: others come first"
                )
            request.failed(self, Failure.REFUSED, words)

    def _leave_load(self) -> None:
        """It waits no longer for a load, which is done or goes on without it."""
        request = self._request
        state = request.state
        waited = state.now() - self._load_since
        self._load_since, self._load_s = 0.0, waited
        request.waited += waited
        request.loading += waited
        if self._timer is not None:
            self._timer.cancel()
        if state.loading is not None:
            state.loading.leave(self.tried.target.id, self)

    def _forward(self) -> Fault | None:
        request, target = self._request, self.tried.target
        state = request.state
        asked = request.exchange.request
        try:
            pool = state.upstreams.pool(target)
            extra, body = (b"", request.asked.body) if target.local else self._over_hop()
            now = state.now()
            if request.life.rival is None:
                request.sent_at = now
            if not state.health.quiet:
                state.health.began(target.id, now)
            trace = request.arrival.trace
            if trace is None:
                head = forwarded_head(asked, pool.host, _KEPT_BACK)
            else:
                head = forwarded_head(asked, pool.host, _KEPT_BACK_TRACED)
                extra += trace.lines()
            stream = asked.stream
            if stream is None and len(body) < LARGE:
                self.upstream = pool.send(with_body(head, extra, body), self)
            elif stream is None:
                self.upstream = pool.send(before_body(head, extra, len(body)), self, body=body)
            else:
                data, chunked = with_stream(head, extra, asked.headers)
                upstream = self.upstream = pool.send(data, self, more=True, chunked=chunked)
                stream.attach(upstream.write, upstream.finish, self._on_upload_failed)
        except ConnectFailed as fault:
            return Fault(Failure.CONNECT, state.upstreams.unreachable(target, fault.message))
        except (PoolBusy, PoolClosed) as refused:
            return Fault(Failure.REFUSED, refused.message)
        except BadHeader as wrong:
            return Fault(Failure.SERVER_ERROR, f"the request cannot be forwarded: {wrong}")
        policy = request.decision.policy
        limit = policy.retries.per_try_timeout_s
        if limit is not None:
            rest = max(0.0, limit - self._load_s)  # the limit is for both
            self._timer = asyncio.get_running_loop().call_later(rest, self._too_slow, limit)
        if policy.hedge_after_s is not None:
            request.expect_hedge(policy.hedge_after_s)
        return None

    def _over_hop(self) -> tuple[bytes, bytes]:
        """Header lines to add for a peer, and the body to send it."""
        request = self._request
        state, arrival = request.state, request.arrival
        body = request.asked.body
        packed = request.asked.for_peer()
        deadline = request.life.deadline
        hop = Hop(
            state.config.node,
            arrival.caller.principal,
            arrival.request_id,
            None if deadline is None else max(0.001, deadline - state.now()),
            packed is not None,
            self.tried.target.id if request.route.kind is Kind.INFER else "",
            arrival.priority,
            request.decision.route,
            arrival.caller.proof,
        )
        return lines_of(hop), body if packed is None else packed

    def _too_slow(self, limit: float) -> None:
        """It took too long for itself."""
        request = self._request
        if request.life.phase is Phase.TRYING:
            self.cancel()
            request.failed(self, Failure.TIMEOUT, f"no answer within {limit:g} s")

    # -- from the instance

    def on_whole(self, head: ResponseHead, body: bytes) -> bool:
        """See `ResponseSink`: an answer that is no stream is one write."""
        request = self._request
        if head.status != 200:
            return False
        kind = head.headers.get(b"content-type")
        if kind is not None and kind.startswith(_STREAMED):
            return False
        request.answered(self)
        fields = self._fields(head)
        renaming = request.asked.renaming
        if renaming is not None:
            body = renaming.whole(body)
        if request.ticket is not None:
            request.ticket.answer.whole(body)
        request.settle(200, Outcome.OK, more=len(body))  # before the client can ask for more
        request.exchange.respond(200, fields, body, forwarded=True)
        return True

    def on_head(self, head: ResponseHead) -> None:
        """See `ResponseSink`: a refusal is tried elsewhere where that can do better."""
        request, target = self._request, self.tried.target
        if head.status in _RETRIED and self._declines(head):
            failure = _FAILURES.get(head.status, Failure.REFUSED)
            words = "does not take it at present" if failure is Failure.REFUSED else f"answered {head.status}"
            self.cancel()
            request.failed(self, failure, f"node {target.node} {words}")
            return
        request.answered(self)
        renaming, length = request.asked.renaming, head.length
        kind = head.headers.get(b"content-type")
        framing = request.route.framing
        streamed = kind is not None and kind.startswith(_STREAMED)
        if streamed and head.status == 200 and framing is not Framing.NONE:
            self._begin_stream(framing, renaming)
        if renaming is not None:
            length = None
        exchange = request.exchange
        exchange.on_writable = self._on_client_writable
        fields = self._fields(head)
        if request.stream is not None and _ACCEL not in head.headers:
            fields += _UNBUFFERED
        exchange.start(head.status, fields, length, cork=head.more, forwarded=True)

    def _begin_stream(self, framing: Framing, renaming: Renaming | None) -> None:
        request = self._request
        route, keeper = request.route, request.state.keeper
        watched = keeper is not None and route.kind is Kind.INFER and not request.arrival.over_hop
        tracker = tracker_for(route.path) if watched else None
        stream = StreamFilter(framing, renaming, tracker)
        stream.told_at = request.head_at
        if request.ticket is not None:
            stream.answer = request.ticket.answer
        request.began_stream(stream, watched=watched)

    def on_data(self, data: bytes) -> None:
        """See `ResponseSink`."""
        request = self._request
        stream, renaming = request.stream, request.asked.renaming
        if stream is not None:
            now = request.state.now()
            if now - stream.told_at >= _TELL_EVERY_S:
                stream.told_at = now
                self._tell_progress()
            try:
                data = stream.take(data)
            except EndlessLine as fault:
                self.cancel()
                request.stream_broke(self, fault.message)
                return
        else:
            if request.ticket is not None:
                request.ticket.answer.part(data)
            if renaming is not None:
                data = renaming.take(data)
        if data:
            request.exchange.write(data)
        else:
            request.exchange.flush()

    def on_end(self) -> None:
        """See `ResponseSink`."""
        request = self._request
        if request.stream is not None:
            request.stream_ended(self, request.stream)
            return
        exchange, renaming = request.exchange, request.asked.renaming
        rest = b"" if renaming is None else renaming.rest()
        status = exchange.status
        request.settle(status, Outcome.OK if status < 500 else Outcome.ENGINE_ERROR, more=len(rest))
        exchange.finish(rest)

    def on_error(self, error: UpstreamError) -> None:
        """See `ResponseSink`: the next try before an answer, the protocol's error within one."""
        request = self._request
        if request.life.phase is Phase.TRYING:
            if not isinstance(error, ConnectFailed):
                request.failed(self, Failure.CUT, error.message)
                return
            target, words = self.tried.target, error.message
            if not target.local:
                words = request.state.upstreams.unreachable(target, words)
            request.failed(self, Failure.CONNECT, words)
        else:
            request.answer_failed(self, error.message)

    def on_writable(self, writable: bool) -> None:
        """See `ResponseSink`: the instance reads slowly, so the upload waits."""
        stream = self._request.exchange.request.stream
        if stream is not None:
            if writable:
                stream.resume()
            else:
                stream.pause()

    def _on_client_writable(self, writable: bool) -> None:
        if self.upstream is not None:
            if self.tried.hold is Hold.SLOT and self._held_up is writable:
                self._held_up = not writable
                self._request.state.counters.hold_up(self.tried.target.id, 1 if self._held_up else -1)
            if writable:
                self.upstream.resume()
            else:
                self.upstream.pause()

    def _on_upload_failed(self, failure: BridgeError) -> None:  # the server's side answers the client
        self.cancel()

    def _declines(self, head: ResponseHead) -> bool:
        """Whether another instance may do better than this answer.

        A 500 before a byte is most often a runner that died under the request; a request that is
        itself to blame gets the same answer from the next one.
        """
        request, tried = self._request, self.tried
        state, life = request.state, request.life
        self._note_patience(head)
        failure = _FAILURES.get(head.status, Failure.REFUSED)
        if not life.may_move(tried, failure, allowed=state.retry_allowed(request.decision.policy)):
            return False
        if life.rival is not None:
            return True
        if head.status == 500:
            return request.route.kind is Kind.INFER
        if tried.target.local:
            return head.status in _ELSEWHERE
        return REFUSED in head.headers

    def _note_patience(self, head: ResponseHead) -> None:
        """An engine's own Retry-After keeps others away from it; a peer's full queue shows in its load."""
        after = number(head.headers.get(b"retry-after"), MAX_PATIENCE_S) if head.status == 503 else None
        if after is None:
            return
        request = self._request
        request.retry_after = max(1, after)
        if REFUSED not in head.headers:
            state = request.state
            state.health.asked_for_patience(self.tried.target.id, float(after), state.now())

    def _fields(self, head: ResponseHead) -> bytes:
        """The fields to answer with: the engine's, and ours in place of any by their names."""
        request, target = self._request, self.tried.target
        arrival, state = request.arrival, request.state
        overhead_us = int((request.sent_at - arrival.began - request.waited) * 1e6)
        if target.local:
            if arrival.hop is not None:
                refused = b"x-bridge-refused: 1\r\n" if head.status in _ELSEWHERE else b""
                return b"%bx-bridge-overhead-us: %d\r\nx-bridge-load: %d\r\n%b%b" % (
                    head.headers.block(_ADDED),
                    overhead_us,
                    state.work(target.id),
                    refused,
                    loading_line(request.loading) if request.loading else b"",
                )
        else:
            # In place and by their digits: every answer of a peer has these two.
            behind = head.headers.get(OVERHEAD)
            if behind is not None and len(behind) <= OVERHEAD_DIGITS and behind.isdigit():
                overhead_us += int(behind)
            load = head.headers.get(LOAD)
            if load is not None and len(load) <= WORK_DIGITS and load.isdigit():
                state.loads.heard(target.id, int(load), request.head_at)
        added = (
            f"x-request-id: {arrival.request_id}\r\nx-bridge-node: {target.node}\r\n"
            f"x-bridge-attempts: {request.life.count}\r\nx-bridge-overhead-us: {overhead_us}\r\n"
        )
        fields = head.headers.block(_ADDED) + added.encode()
        if request.loading:
            fields += loading_line(request.loading)
        elif not target.local and (waited := waited_in(head.headers.get(LOADING))):
            fields += loading_line(waited)
        if request.decision.route:
            fields += lines(by_route(request.serving))
        if request.ticket is not None and state.meter is not None:
            fields += state.meter.lines(request.ticket, request.route.path)
        return fields + lines(arrival.cors) if arrival.cors else fields

    def _tell_progress(self) -> None:
        """Tells now and then that a long answer goes on: its model, or its node, is well."""
        request, target = self._request, self.tried.target
        state = request.state
        if not target.local:
            if state.node_spoke is not None:
                state.node_spoke(target.node)
        elif state.on_progress is not None:
            state.on_progress(target.id, request.asked.model)
