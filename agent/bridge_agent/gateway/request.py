"""One request that goes to an instance: runs what its life (`request_rules`) says is to be done.

No task and no await: the listener's callback decides and writes to the engine or peer, whose callbacks
(`Attempt`) write to the client. What a request holds is let go in `settle`, once, whatever happened.
"""

from __future__ import annotations

import asyncio

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.asked import AskedBody
from bridge_agent.gateway.attempt import Attempt
from bridge_agent.gateway.config import Outcome, RequestRecord
from bridge_agent.gateway.ports import ContinuationTask
from bridge_agent.gateway.reading import models_made
from bridge_agent.gateway.replies import by_route, respond_error
from bridge_agent.gateway.routes import HttpRoute, Kind
from bridge_agent.gateway.shapes import stream_error
from bridge_agent.gateway.state import GatewayState
from bridge_agent.gateway.stream_filter import StreamFilter
from bridge_agent.gateway.watch import StreamVerdict
from bridge_agent.quotas.meter import Ticket
from bridge_agent.routing.choose import Decision, node_subject
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import CarryOn, FailedAttempt, GiveUp, Phase, RequestLife, Step, Try
from bridge_agent.routing.view import Target
from bridge_core.http1 import Exchange
from bridge_core.snapshot import RoutePolicy


class Trail:
    """Where an internal request was sent: one whose answer is a part of another one's.

    Attributes:
        instances: All of them.
        last: The last one; empty before the first.
    """

    __slots__ = ("instances", "last")

    def __init__(self) -> None:
        self.instances: set[str] = set()
        self.last = ""

    def note(self, instance: str) -> None:
        """It goes there."""
        self.last = instance
        self.instances.add(instance)


class RoutedRequest:
    """One request, from its decision to its record.

    Attributes:
        state: What all of the gateway's requests share.
        arrival: The request as it came.
        exchange: The client's.
        route: By which it came.
        asked: What it asks for.
        decision: Where it was decided that it goes; at first, where there is a spare backend.
        life: Its life: what is tried, held, over.
        stream: Its answer, where that is a stream.
        ticket: What it holds of its caller's quotas, and what it came to; None: nobody counts it.
        trail: Whether it is internal: its answer is whole or cut, and has no record of its own.
        sent_at: When it was last sent; 0: never.
        head_at: When its answer began; 0: it has none.
        waited: Seconds in queues, and for a load.
        loading: Of them, those for a load.
        retry_after: Seconds after which to come again, should nobody answer.
    """

    __slots__ = (
        "_hedge",
        "_rest",
        "_timers",
        "arrival",
        "asked",
        "attempt",
        "decision",
        "exchange",
        "head_at",
        "life",
        "loading",
        "retry_after",
        "route",
        "sent_at",
        "state",
        "stream",
        "ticket",
        "trail",
        "waited",
    )

    def __init__(
        self,
        state: GatewayState,
        arrival: Arrival,
        route: HttpRoute,
        asked: AskedBody,
        *,
        decision: Decision,
        life: RequestLife,
        trail: Trail | None = None,
    ) -> None:
        self.state = state
        self.arrival = arrival
        self.exchange: Exchange = arrival.exchange
        self.route = route
        self.asked = asked
        self.decision = decision
        self.life = life
        self.trail = trail
        self.ticket: Ticket | None = None
        self.stream: StreamFilter | None = None
        self.attempt: Attempt | None = None
        self.sent_at = 0.0
        self.head_at = 0.0
        self.waited = 0.0
        self.loading = 0.0
        self.retry_after = 1
        self._hedge: Attempt | None = None
        self._timers: list[asyncio.TimerHandle] | None = None
        self._rest: ContinuationTask | None = None

    def begin(self) -> None:
        """Has it answered."""
        exchange, life = self.exchange, self.life
        if exchange.disconnected:
            self.settle(499, Outcome.CANCELLED)
            return
        exchange.on_disconnect = self._client_left
        began = self.arrival.began
        if life.deadline is not None:
            left = max(0.0, life.deadline - began)
            self._timers = [asyncio.get_running_loop().call_later(left, self._expired)]
        self._follow(life.start(began))

    def drop_ticket(self) -> None:
        """It will never begin: what it holds of quotas is given back."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None and self.state.meter is not None:
            self.state.meter.settle(ticket, 500, begun=False)

    # -- before an answer

    def failed(self, attempt: Attempt, failure: Failure, detail: str) -> None:
        """A try failed before it answered: takes the next step."""
        self._follow(self._after(attempt, failure, detail))

    def _follow(self, step: Step) -> None:
        """Takes a step, and the next ones while they fail at once."""
        while isinstance(step, Try):
            if self.trail is not None:
                self.trail.note(step.target.id)
            attempt = self.attempt = Attempt(self, step)
            fault = attempt.begin()
            if fault is None:
                return
            step = self._after(attempt, fault.failure, fault.detail)
        if isinstance(step, GiveUp):
            self._give_up(step)

    def _after(self, attempt: Attempt, failure: Failure, detail: str) -> Step:
        """Notes a failure, lets the try go, and asks for the next step."""
        state, life, target = self.state, self.life, attempt.tried.target
        now = state.now()
        allowed = state.retry_allowed(self.policy)
        step = life.failed(attempt.tried, failure, detail, now, allowed=allowed)
        state.counters.attempts_failed[target.id, failure.value] += 1
        sent = attempt.upstream is not None
        attempt.let_go()
        if sent:
            unreachable = failure is Failure.CONNECT and not target.local
            subject = node_subject(target.node) if unreachable else target.id
            state.health.failed(subject, failure, now, self.policy)
        if isinstance(step, CarryOn):
            if attempt is self.attempt:
                self.attempt = self._hedge
            self._hedge = None
        elif isinstance(step, Try):
            state.counters.retries += 1
            if step.spare and self.decision.spare is not None:
                self.asked.turn(self.decision.spare)
            if life.count == 2:
                state.retrying += 1
        return step

    def _give_up(self, step: GiveUp, *, abandoned: bool = False) -> None:
        """Nobody will answer."""
        arrival, status = self.arrival, step.status
        outcome = Outcome.REFUSED if status == 503 else Outcome.FAILED
        self.settle(status, outcome, abandoned=abandoned)
        respond_error(
            self.state,
            self.exchange,
            status,
            step.message,
            arrival.request_id,
            protocol=self.route.protocol,
            retry_after=self.retry_after if status == 503 else None,
            refused=arrival.over_hop and status in (502, 503),
            extra=(*arrival.cors, *by_route(self.serving)),
        )

    # -- hedging

    def expect_hedge(self, after_s: float) -> None:
        """The first try was sent: a call that does not stream is hedged when that is slow."""
        if self.life.count == 1 and not self.asked.streams:
            timer = asyncio.get_running_loop().call_later(after_s, self._send_hedge)
            self._timers = [*(self._timers or ()), timer]

    def _send_hedge(self) -> None:
        """Asks the next candidate too, where one is free."""
        state, life = self.state, self.life
        tried = life.hedge_due(state.now(), allowed=state.retry_allowed(self.policy))
        if tried is None:
            return
        target = tried.target
        # A load goes on also when the other one answers: a hedge is to cost no second copy in memory.
        infers = state.loading is not None and self.route.kind is Kind.INFER
        cold = infers and self.serving.model not in target.loaded
        if cold or (target.local and state.admission.work(target.id) >= target.slots):
            life.hedge_withdrawn()
            return
        hedge = self._hedge = Attempt(self, tried)
        if hedge.begin() is not None:
            hedge.let_go()
            self._hedge = None
            life.hedge_withdrawn()
            return
        state.counters.hedges += 1
        state.retrying += 1

    # -- the answer

    def answered(self, attempt: Attempt) -> None:
        """An answer begins: whatever else was tried is let go."""
        state, tried = self.state, attempt.tried
        if self.life.answered(tried) is not None:
            self._choose_answer(attempt)
        now = self.head_at = state.now()
        if not state.health.quiet:
            state.health.succeeded(tried.target.id, now)
            state.health.succeeded(node_subject(tried.target.node), now)

    def _choose_answer(self, attempt: Attempt) -> None:
        """Two tries ran, this one was quicker."""
        first, hedge = self.attempt, self._hedge
        other = hedge if attempt is first else first
        if attempt is hedge:
            self.state.counters.hedges_won += 1
        self.attempt, self._hedge = attempt, None
        if other is not None:
            other.cancel()
            other.let_go()

    def began_stream(self, stream: StreamFilter, *, watched: bool) -> None:
        """Its answer is a stream; `watched`: it may be continued."""
        self.stream = stream
        if watched and self.state.keeper is not None:
            self.state.keeper.opened(self)

    def answer_failed(self, attempt: Attempt, message: str) -> None:
        """The answer broke off before its end."""
        stream, exchange = self.stream, self.exchange
        if self.life.phase is Phase.SETTLED:
            exchange.fail(502, message)
        elif stream is None:
            self.settle(exchange.status, Outcome.BROKEN)
            exchange.abort()
        elif stream.ended() is StreamVerdict.TRUNCATED:
            if not self._continues(attempt, "cut", message):
                self.stream_broke(attempt, message)
        else:
            self.stream_ended(attempt, stream)

    def stream_ended(self, attempt: Attempt, stream: StreamFilter) -> None:
        """The body ended: without its terminal record that is a failure, whatever its status says."""
        verdict = stream.ended()
        if verdict is StreamVerdict.COMPLETE:
            rest = stream.rest()
            self.settle(200, Outcome.OK, more=len(rest))
            self.exchange.finish(rest)
        elif verdict is StreamVerdict.ENGINE_ERROR:
            if not self._continues(attempt, "engine_error", "the engine's own error"):
                self._tell_engines_error(stream)
        else:
            message = "the engine stopped before the answer was complete"
            if not self._continues(attempt, "truncated", message):
                self.stream_broke(attempt, message)

    def stream_broke(self, attempt: Attempt, message: str) -> None:
        """The stream cannot go on, and its instance is to blame."""
        state = self.state
        state.health.failed(attempt.tried.target.id, Failure.CUT, state.now(), self.policy)
        self._tell_broken(message)

    def stalled(self) -> None:
        """The stream has been silent for longer than it ever is: it counts as died."""
        attempt, message = self.attempt, "the engine went silent in the middle of the answer"
        if attempt is not None:
            attempt.cancel()
            if not self._continues(attempt, "stalled", message):
                self.stream_broke(attempt, message)

    def _tell_engines_error(self, stream: StreamFilter) -> None:
        """Ends a stream with what its engine said of its failure."""
        self.settle(200, Outcome.ENGINE_ERROR)
        if self.trail is not None:
            self.exchange.abort()
        else:
            self.exchange.finish(stream.rest())

    def _tell_broken(self, message: str, status: int = 502) -> None:
        """Ends a stream that cannot go on."""
        stream, framing = self.stream, self.route.framing
        self.state.counters.streams_broken[framing.value] += 1
        self.settle(200, Outcome.BROKEN)
        if self.arrival.over_hop or self.trail is not None:
            # The entry agent alone speaks to the client: it must see a cut, not an answer.
            self.exchange.abort()
            return
        sequence = 0 if stream is None else stream.next_sequence
        last = stream_error(framing, status, message, self.arrival.request_id, sequence=sequence)
        self.exchange.finish(last)

    # -- a stream that died

    def _continues(self, attempt: Attempt, reason: str, message: str) -> bool:
        """Has the rest of the stream generated elsewhere; False where that cannot be."""
        state, stream, target = self.state, self.stream, attempt.tried.target
        keeper = state.keeper
        if keeper is None or stream is None or stream.tracker is None or self.trail is not None:
            return False
        if self.life.phase is not Phase.ANSWERED:
            return False
        if self.arrival.verdict.by_node:
            return False  # where it may go on is not said by what it was allowed
        self._rest = keeper.take_over(self, target, reason)
        silent = reason == "stalled"
        if not self.life.died(attempt.tried, message, silent=silent, continuable=self._rest is not None):
            return False
        stream.drop_torn()
        state.counters.attempts_failed[target.id, Failure.CUT.value] += 1
        state.health.failed(target.id, Failure.CUT, state.now(), self.policy)
        attempt.let_go()
        return True

    @property
    def policy(self) -> RoutePolicy:
        """How it is treated."""
        return self.decision.policy

    @property
    def serving(self) -> Decision:
        """The decision that holds: the spare one once that was turned to."""
        decision = self.decision
        return decision.spare if self.life.turned and decision.spare is not None else decision

    def rest_failed(self, attempt: FailedAttempt) -> None:
        """A try to have the rest generated failed."""
        self.life.rest_failed(attempt)

    def carry(self, data: bytes) -> None:
        """Passes on what the rest of the stream brought."""
        if self.stream is not None:
            self.stream.carry(data)
        self.exchange.write(data)

    def carried(self) -> None:
        """The rest of the stream came whole."""
        self.settle(200, Outcome.OK)
        self.exchange.finish()

    def given_up(self, message: str) -> None:
        """Nobody could continue the stream."""
        stream = self.stream
        if stream is not None and stream.told_error:
            self._tell_engines_error(stream)
        else:
            self._tell_broken(message)

    # -- ends

    def _client_left(self) -> None:
        self._cancel()
        if self.life.phase is Phase.TRYING:
            for attempt in (self.attempt, self._hedge):
                if attempt is not None and not attempt.tried.target.local:
                    self.state.loads.lingers(attempt.tried.target.id, self.state.now())
        self.settle(499, Outcome.CANCELLED, abandoned=True)

    def _expired(self) -> None:
        """The deadline passed."""
        life, exchange = self.life, self.exchange
        if life.phase is Phase.SETTLED:
            return
        self._cancel()
        if life.phase is Phase.TRYING:
            # A client's short patience says nothing of the instance's health.
            life.expired()
            self._give_up(GiveUp(504, "deadline exceeded"), abandoned=True)
        elif self.stream is not None:
            self._tell_broken("deadline exceeded", 504)
        else:
            self.settle(exchange.status, Outcome.BROKEN)
            exchange.abort()

    def _cancel(self) -> None:
        """Gives up whatever runs."""
        for attempt in (self.attempt, self._hedge):
            if attempt is not None:
                attempt.cancel()
        if self._rest is not None:
            self._rest.stop()

    def settle(self, status: int, outcome: Outcome, *, more: int = 0, abandoned: bool = False) -> None:
        """Lets go of what the request holds and writes its record, once.

        Args:
            status: What it was answered.
            outcome: How it ended.
            more: Bytes of the answer that are written after this.
            abandoned: Nobody waited for the answer.
        """
        life = self.life
        if life.phase is Phase.SETTLED:
            return
        state = self.state
        running = life.running
        target = None if running is None else running.target
        if self.route.kind is Kind.MUTATE and status == 200 and outcome is Outcome.OK and target is not None:
            state.made(models_made(self.asked.body, self.route), target)
        if self._timers is not None:
            for timer in self._timers:
                timer.cancel()
        if life.count > 1:
            state.retrying -= 1
        life.settled(abandoned=abandoned)
        if running is not None and self.attempt is not None:
            self.attempt.let_go()
            if self._hedge is not None:
                self._hedge.let_go()
        self.attempt = self._hedge = None  # they know it, too: else only the garbage collector ended them
        stream = self.stream
        if stream is not None and state.keeper is not None:
            state.keeper.closed(self)
        if self.trail is None:
            decision = self.decision
            if decision.key or decision.route:
                state.count_backend(decision, self.arrival.caller, status)
                if decision.key and status == 200 and target is not None:
                    self._learn(target)
            self._record(status, outcome, target, more)

    def _learn(self, target: Target) -> None:
        """Where a conversation is cached now, and how quickly its model went."""
        decision, asked, book = self.decision, self.asked, self.state.conversations
        if not self.head_at or decision.policy.affinity not in ("conversation", "session"):
            return
        size = len(asked.body)
        cached = book.cached(decision.key).get(target.id, 0)
        book.answered(decision.key, target.id, size)
        at = next((at for at, one in enumerate(decision.candidates) if one.id == target.id), None)
        if at is None or at >= len(decision.work) or decision.work[at] >= target.slots:
            return  # what it took says more of the others that were there
        prefill_s = self.head_at - self.sent_at if self.stream is not None else 0.0
        held_s = self.state.now() - self.sent_at
        book.observed(asked.model, size=size, cached=cached, prefill_s=prefill_s, held_s=held_s)

    def _record(self, status: int, outcome: Outcome, target: Target | None, more: int) -> None:
        state, arrival, exchange, asked = self.state, self.arrival, self.exchange, self.asked
        stream, rest, ticket = self.stream, self._rest, self.ticket
        request = exchange.request
        prompt_tokens, quota = 0, ""
        if ticket is not None and state.meter is not None:
            begun = self.head_at > 0
            answered = exchange.status or status
            prompt_tokens, tokens = state.meter.settle(ticket, answered if begun else status, begun=begun)
            quota = ticket.quota
        else:
            tokens = 0 if stream is None else stream.tokens
        state.settle(
            RequestRecord(
                arrival.request_id,
                arrival.caller,
                request.method,
                self.route.path,
                asked.model,
                status,
                outcome,
                arrival.began,
                self.sent_at,
                self.head_at,
                state.now(),
                self.decision,
                target.id if target is not None else "" if rest is None else rest.instance,
                self.life.failed_attempts,
                len(asked.body),
                exchange.sent + more,
                self.waited,
                tokens,
                prompt_tokens=prompt_tokens,
                quota=quota,
                rule=arrival.verdict.policy,
                shadowed=arrival.verdict.shadowed,
                remote=request.remote,
                loading=self.loading,
                trace=arrival.trace,
            ),
            request.body,
        )
