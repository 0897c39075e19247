"""The attempts of one request: sent at once or after a wait for a slot, hedged, timed, let go.

What it asks of the request's own side (`Inference`) are the abstract methods at the end.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Final

from bridge_agent.gateway.admission import Waiter
from bridge_agent.gateway.answer import Answer
from bridge_agent.gateway.core import Arrival, Core
from bridge_agent.gateway.hedge import Hedge, Hedged
from bridge_agent.gateway.peek import Peek
from bridge_agent.gateway.routes import HttpRoute, Kind
from bridge_agent.peers.hop import OURS, REQUEST_ID, Hop, compress, lines_of
from bridge_agent.routing.admission_rules import ADMITTED, AdmissionAnswer, AdmissionRefused
from bridge_agent.routing.attempts import Attempts, GiveUp, Step
from bridge_agent.routing.choose import Decision, node_subject
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.resume import renders_only
from bridge_agent.routing.view import Target
from bridge_core.errors import BridgeError
from bridge_core.http1 import BadHeader, PoolBusy, PoolClosed
from bridge_core.http1.client import ResponseHead

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


class Attempting(Answer, Waiter, Hedged):
    """Has a request answered by one of its candidates."""

    __slots__ = (
        "_attempts",
        "_body",
        "_candidates",
        "_deadline",
        "_decision",
        "_hedge",
        "_hedge_timer",
        "_hedged",
        "_kept",
        "_queued",
        "_queued_at",
        "_retrying",
        "_settled",
        "_slot_at",
        "_slotless",
        "_streams",
        "_timer",
        "_try_timer",
        "_turned",
        "_wait_timer",
    )

    def __init__(self, core: Core, arrival: Arrival, route: HttpRoute) -> None:
        super().__init__(core, arrival, route)
        self._attempts: Attempts | None = None
        self._candidates: tuple[Target, ...] = ()
        self._deadline: float | None = None
        self._decision: Decision | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body = b""
        self._settled = False
        self._retrying = False
        self._queued = False
        self._queued_at = 0.0
        self._slot_at: float | None = None
        self._slotless = False
        self._try_timer: asyncio.TimerHandle | None = None
        self._wait_timer: asyncio.TimerHandle | None = None
        self._streams = True
        self._hedged = False
        self._hedge: Hedge | None = None
        self._hedge_timer: asyncio.TimerHandle | None = None
        self._kept: tuple[Peek, bytes] | None = None  # as the client sent it, for another backend
        self._turned = False

    def _tries(self) -> Attempts:
        """The machine of the attempts, made when there is more than one to decide about."""
        if self._attempts is None:
            decision = self._decision
            spare = None if decision is None else decision.spare
            self._attempts = Attempts(
                self._candidates,
                self._deadline,
                self._policy.retries,
                () if spare is None else spare.candidates,
            )
            self._attempts.start(self._arrival.began)
        return self._attempts

    @property
    def decision(self) -> Decision | None:
        """See `Answer`."""
        decision = self._decision
        return decision.spare if self._turned and decision is not None else decision

    @property
    def _tried(self) -> int:
        return 1 + self._hedged if self._attempts is None else self._attempts.count

    def _follow(self, step: Step) -> None:
        """Takes a step, and the next ones while they fail at once."""
        while not isinstance(step, GiveUp):
            if step.spare:
                self._turned = True
                self._turn()
            failure = self._send(step.target)
            if failure is None:
                return
            step = self._next(*failure)
        self._give_up(step)

    def _send(self, target: Target) -> tuple[Failure, str] | None:
        """Sends it there, or has it wait for a slot; how it failed when it failed at once."""
        core = self._core
        if target.local and self.route.kind is Kind.INFER:
            if core.admission.take(target.id):
                self._slot_at = core.now()
            elif not self._needs_no_slot(target):
                answer = self._enter(target)
                if answer is not ADMITTED:
                    if not isinstance(answer, AdmissionRefused):
                        self._wait(target)
                        return None
                    core.counters.refused["queue_full"] += 1
                    self._retry_after = answer.retry_after_s
                    return Failure.REFUSED, answer.reason
                self._slot_at = core.now()
        self._target = target
        core.counters.begin(target.id)
        failure = self._dispatch(target)
        if failure is not None:
            self._release()
        return failure

    def _enter(self, target: Target) -> AdmissionAnswer:
        core, arrival = self._core, self._arrival
        return core.admission.enter(
            target,
            self,
            arrival.client,
            arrival.priority,
            queue_per_slot=self._policy.admission.queue_per_slot,
            now=core.now(),
            deadline=self._deadline,
        )

    def _needs_no_slot(self, target: Target) -> bool:
        """Whether it would wait for a slot that it does not need: nothing is generated.

        A model is unloaded, or a prompt rendered: the rest of a stream that died begins with that, and must
        not queue twice.
        """
        if self._slotless:
            return True
        if self._core.admission.work(target.id) < target.slots:
            return False
        try:
            return renders_only(self.what_was_asked()[1])
        except BridgeError:
            return False

    def _dispatch(self, target: Target) -> tuple[Failure, str] | None:
        core = self._core
        try:
            pool = core.upstreams.pool(target)
            extra, body = self._outgoing(target)
            self._sent_at = now = core.now()
            if not core.health.quiet:
                core.health.began(target.id, now)
            stream = self.exchange.request.stream
            self.forward(pool, without=_KEPT_BACK, extra=extra, body=body if stream is None else None)
        except (PoolBusy, PoolClosed) as fault:
            return Failure.REFUSED, fault.message
        except BadHeader as fault:
            return Failure.SERVER_ERROR, f"the request cannot be forwarded: {fault}"
        limit = self._policy.retries.per_try_timeout_s
        if limit is not None:
            self._try_timer = asyncio.get_running_loop().call_later(limit, self._try_expired, limit)
        after = self._policy.hedge_after_s
        if after is not None and not self._streams and len(self._candidates) > 1 and self._attempts is None:
            self._hedge_timer = asyncio.get_running_loop().call_later(after, self._send_hedge)
        return None

    # -- hedging

    def _send_hedge(self) -> None:
        """The first attempt is slow: asks the next candidate too, where one is free."""
        core, arrival = self._core, self._arrival
        if (
            self._settled
            or self._head_at
            or self._attempts is not None
            or not core.retry_allowed(self._policy)
        ):
            return
        target = self._candidates[1]
        slot_at = None
        if target.local:
            if core.admission.work(target.id) >= target.slots:
                return
            slots = self._policy.admission.queue_per_slot
            now = core.now()
            core.admission.enter(
                target, self, arrival.client, arrival.priority, queue_per_slot=slots, now=now, deadline=None
            )
            slot_at = now
        hedge = Hedge(core, self, target, slot_at)
        extra, body = self._outgoing(target)
        if hedge.send(self.exchange.request, _KEPT_BACK, extra, body):
            self._hedge = hedge

    def adopt(self, hedge: Hedge) -> None:
        """See `Hedged`."""
        self._hedge = None
        suspect = self._may_be_busy
        self.cancel()
        self._release(suspect=suspect)
        self._target, self._slot_at, self.upstream = hedge.target, hedge.slot_at, hedge.upstream
        self._hedged = True

    def _drop_hedge(self) -> None:
        self._stop(self._hedge_timer)
        hedge, self._hedge = self._hedge, None
        if hedge is not None:
            hedge.drop()

    def on_whole(self, head: ResponseHead, body: bytes) -> bool:
        """See `ResponseSink`."""
        return self._hedge is None and super().on_whole(head, body)

    def on_head(self, head: ResponseHead) -> None:
        """See `ResponseSink`."""
        if self._hedge is not None:
            self._drop_hedge()
        super().on_head(head)

    # -- waiting for a slot

    def _wait(self, target: Target) -> None:
        self._target = target
        self._queued, self._queued_at = True, self._core.now()
        self._core.counters.begin(target.id)
        self.exchange.on_disconnect = self._on_disconnect
        longest = self._policy.admission.max_wait_s
        self._wait_timer = asyncio.get_running_loop().call_later(longest, self._waited_out, longest)

    def proceed(self) -> None:
        """See `Waiter`."""
        target = self._target
        if not self._queued or target is None:
            return
        core = self._core
        self._queued = False
        self._stop(self._wait_timer)
        self._slot_at = now = core.now()
        self._waited += now - self._queued_at
        failure = self._dispatch(target)
        if failure is not None:
            self._follow(self._next(*failure))

    def _waited_out(self, longest: float) -> None:
        if self._queued:
            self._core.counters.refused["waited_out"] += 1
            self._follow(self._next(Failure.REFUSED, f"server busy: no slot was free within {longest:g} s"))

    def lose_place(self) -> None:
        """See `Waiter`."""
        self._queued = False
        self._waited += self._core.now() - self._queued_at
        self._stop(self._wait_timer)
        asyncio.get_running_loop().call_soon(self._displaced)

    def _displaced(self) -> None:
        if not self._settled:
            self._core.counters.refused["displaced"] += 1
            self._follow(self._next(Failure.REFUSED, "server busy: more urgent requests came"))

    def _release(self, *, suspect: bool = False) -> None:
        """Lets go of the running attempt's instance: its count, its slot or its place in the queue."""
        core, target, arrival = self._core, self._target, self._arrival
        if target is None:
            return
        self._target = None
        core.counters.end(target.id)
        if self._try_timer is not None:
            self._try_timer.cancel()
        if self._queued:
            self._queued = False
            self._waited += core.now() - self._queued_at
            self._stop(self._wait_timer)
            core.admission.leave(target.id, self, arrival.client, arrival.priority)
        elif self._slot_at is not None:
            held, self._slot_at = core.now() - self._slot_at, None
            core.admission.give_back(target.id, held, suspect=suspect)

    @property
    def _may_be_busy(self) -> bool:
        """Whether the engine may go on with what is cancelled now: it was asked and has said nothing."""
        return self._slot_at is not None and not self._head_at

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def _outgoing(self, target: Target) -> tuple[bytes, bytes]:
        """Header lines to add, and the body to send."""
        if target.local:
            return b"", self._body
        arrival = self._arrival
        packed = compress(self._body)
        left = self._left()
        hop = Hop(
            self._core.config.node,
            arrival.caller.principal,
            arrival.request_id,
            left,
            packed is not None,
            target.id if self.route.kind is Kind.INFER else "",
            arrival.priority,
            "" if self._decision is None else self._decision.route,
        )
        return lines_of(hop), self._body if packed is None else packed

    def _left(self) -> float | None:
        return None if self._timer is None else max(0.001, self._timer.when() - self._timer_now())

    def _timer_now(self) -> float:
        return asyncio.get_running_loop().time()

    def _next(self, failure: Failure, detail: str) -> Step:
        """Notes the failure of the running attempt and asks for the next step."""
        if self._hedge_timer is not None:
            self._drop_hedge()
        attempts = self._tries()
        core, target = self._core, self._target
        now = core.now()
        step = attempts.after(failure, detail, now, allowed=core.retry_allowed(self._policy))
        core.counters.attempts_failed[attempts.failed[-1].instance, failure.value] += 1
        if target is not None:
            queued = self._queued
            self._release(suspect=failure is Failure.TIMEOUT and self._may_be_busy)
            if not queued:
                unreachable = failure is Failure.CONNECT and not target.local
                subject = node_subject(target.node) if unreachable else target.id
                core.health.failed(subject, failure, now, self._policy)
        if not isinstance(step, GiveUp):
            core.counters.retries += 1
            if not self._retrying:
                self._retrying = True
                core.retrying += 1
        return step

    def _try_expired(self, limit: float) -> None:
        """This attempt took too long for itself."""
        if self._settled or self._head_at or self._target is None:
            return
        step = self._next(Failure.TIMEOUT, f"no answer within {limit:g} s")
        self.cancel()
        self._follow(step)

    @abstractmethod
    def _turn(self) -> None:
        """Makes the request anew for the backend that makes good what the first one failed."""

    @abstractmethod
    def _give_up(self, step: GiveUp) -> None:
        """Nobody will answer: tells the client."""
