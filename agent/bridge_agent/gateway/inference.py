"""One inference request from its body to the engine or peer that answers it: the hot path.

No task and no await: the listener's callback decides and writes to the engine or peer, the
upstream's callbacks (`answer`) write to the client. Order of events of one request:

    start -> peek -> authorize -> choose -> attempt (-> attempt …) -> head -> data … -> settle
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from bridge_agent.gateway.attempting import SESSION, Attempting
from bridge_agent.gateway.config import Outcome, RequestRecord
from bridge_agent.gateway.keep_alive import KeptAlive
from bridge_agent.gateway.peek import BadBody, Peek, Shape, peek, with_model
from bridge_agent.gateway.reading import body_of, is_compressed, models_made, names_in, unloads
from bridge_agent.gateway.routes import HttpRoute, Kind
from bridge_agent.gateway.unknown import unknown_model
from bridge_agent.peers.hop import REQUEST_ID, decompress, frame_of
from bridge_agent.routing.affinity import affinity_key
from bridge_agent.routing.attempts import GiveUp
from bridge_agent.routing.choose import Decision, choose, named_choice, only_choice
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.view import Target
from bridge_core.http1 import Exchange
from bridge_core.names import InvalidName, canonical

_FORWARDED: Final = (Kind.INFER, Kind.SHOW, Kind.LOCAL)
_NO_SHAPE: Final = Shape("Request", frozenset())


class Inference(Attempting):
    """One request for a model, relayed to an instance that has it."""

    __slots__ = ()

    # -- deciding

    def start(self) -> None:
        """Decides, and sends the request on or answers it with an error."""
        peeked = self._read()
        if peeked is None:
            return
        try:
            name = canonical(peeked.model)
        except InvalidName:
            # Anthropic's shape is refused without a name while its body is read, as Ollama does it.
            unread = self.route.protocol == "anthropic" and not peeked.model
            self._refuse(*_unnamed(self.route, peeked.model), unread=unread)
            return
        self._model = name
        if self._admitted((name,)):
            self._choose(name, peeked)

    def start_at(self, candidates: tuple[Target, ...]) -> None:
        """Sends a request that names its place itself: a mutation, a blob, an engine's own page."""
        names: tuple[str, ...] = ("",)
        if self.route.shape is not None:
            peeked = self._read()
            if peeked is None:
                return
            try:
                names = names_in(peeked, self.route) or names
            except BadBody as fault:
                self._refuse(400, fault.message, unread=True)
                return
            self._model = names[0]
        else:
            self._body = self.exchange.request.body
        if self._admitted(names):
            self._decision = Decision(self._model, candidates, True, strategy="node")
            self._begin(candidates, self._arrival.deadline)

    def _read(self) -> Peek | None:
        """Reads the body; None when it was refused."""
        core, arrival, route = self._core, self._arrival, self.route
        try:
            self._body, readable = body_of(arrival, route, core.config.max_body)
            return peek(readable, route.shape or _NO_SHAPE)
        except BadBody as fault:
            self._refuse(400, fault.message, unread=True)
            return None

    def _admitted(self, names: tuple[str, ...]) -> bool:
        """Whether the caller may, and this node takes new work; else it was answered."""
        core, arrival = self._core, self._arrival
        for name in names:
            denial = core.authorize(arrival.caller, self.route.action, name)
            if denial is not None:
                self._refuse(denial.status, denial.message)
                return False
        # While it drains, what clients ask for is what its peers can still answer.
        if core.draining and (arrival.over_hop or self.route.kind not in _FORWARDED):
            self._refuse_drained()
            return False
        return True

    def _refuse_drained(self) -> None:
        self._core.counters.refused["draining"] += 1
        self._refuse(503, "this node is draining", retry_after=1)

    def _choose(self, name: str, peeked: Peek) -> None:
        core, arrival = self._core, self._arrival
        index = core.view.index
        hop = arrival.hop
        decision = (
            only_choice(index, name) if hop is None else named_choice(index, name, hop.instance, hop.route)
        )
        if decision is None:
            key, route = self._key(name, peeked), "" if hop is None else hop.route
            load = core.load(arrival.began)
            decision = choose(index, name, key, load, only_local=hop is not None, came_by=route)
        if not decision.known:
            maker = core.maker(name)
            if maker is not None and (maker.local or hop is None):
                decision = Decision(name, (maker,), True, strategy="just_made", policy=decision.policy)
        self._decision = decision
        self._policy = decision.policy
        self._streams = peeked.stream
        if not decision.known:
            refusal = unknown_model(core, self.route, peeked.model, _short(name), arrival.began)
            self._refuse(*refusal[:2], retry_after=refusal.retry_after, refused=arrival.over_hop)
            return
        if core.draining and not decision.candidates:
            self._refuse_drained()
            return
        if decision.spare is not None:
            self._kept = (peeked, self._body)
        if decision.rewritten is not None:
            self._rewrite(peeked, decision.rewritten)
        if "keep_alive" in peeked.fields and unloads(peeked, self.route):
            self._slotless = True
            # By a route it is one of its instances that is meant: another route may need the others.
            if hop is None and not decision.route and len(decision.candidates) > 1:
                core.unload(arrival, self.route, name)
                return
        every_s = decision.policy.keep_alive_bytes_s
        if every_s is not None and peeked.stream and hop is None:
            self._keep_alive(every_s)
        deadline = arrival.deadline
        if decision.policy.deadline_s is not None and hop is None:
            limit = arrival.began + decision.policy.deadline_s
            deadline = limit if deadline is None else min(limit, deadline)
        self._begin(decision.candidates, deadline)

    def _keep_alive(self, every_s: float) -> None:
        """Sends the client bytes that its protocol ignores until the answer begins."""
        arrival, exchange = self._arrival, self.exchange
        if type(exchange) is not Exchange:
            return  # a gRPC call's, which has nothing of the kind
        pairs = ((REQUEST_ID, arrival.request_id.encode()), *arrival.cors)
        self.exchange = KeptAlive(exchange, self.route.framing, every_s, pairs, arrival.request_id)

    def _begin(self, candidates: tuple[Target, ...], deadline: float | None) -> None:
        began = self._arrival.began
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - began), self._expired)
        self._candidates, self._deadline = candidates, deadline
        # The common request has one attempt, and that succeeds: no machine for it.
        if not candidates or (deadline is not None and deadline <= began):
            self._follow(self._tries().step)
            return
        failure = self._send(candidates[0])
        if failure is not None:
            self._follow(self._next(*failure))

    def _key(self, name: str, peeked: Peek) -> bytes:
        request = self.exchange.request
        client = request.identity or (request.remote[0] if request.remote else "")
        index = self._core.view.index
        route = index.routes.get(name)
        policy = index.defaults if route is None else route.policy
        return affinity_key(
            name,
            peeked.fields,
            session=request.headers.get(SESSION),
            client=client.encode(),
            affinity=policy.affinity,
            nonce=self._arrival.request_id.encode(),
        )

    def _rewrite(self, peeked: Peek, model: str) -> None:
        """Asks the engine for the backend's model, and gives the client back the name it asked for."""
        if canonical(model) == self._model:
            return
        body = with_model(peeked.fields, "model", model)
        self._body = frame_of(body) if is_compressed(self._arrival, self.route) else body
        encode = msgspec.json.encode
        self._alias = (b'"model":' + encode(model), b'"model":' + encode(peeked.model))
        self.rewrites = True

    def _turn(self) -> None:
        """See `Attempting`."""
        kept, decision = self._kept, self.decision
        if kept is None or decision is None:
            return
        peeked, self._body = kept
        self._alias, self.rewrites = None, False
        if decision.rewritten is not None:
            self._rewrite(peeked, decision.rewritten)

    def what_was_asked(self) -> tuple[str, bytes]:
        """See `Answer`: after a route has put its backend's model into the body."""
        decision = self.decision
        model = self._model if decision is None else decision.model
        if is_compressed(self._arrival, self.route):
            return model, decompress(self._body, self._core.config.max_body)
        return model, self._body

    def _give_up(self, step: GiveUp) -> None:
        message = step.message
        self._refuse(
            step.status,
            message,
            retry_after=self._retry_after if step.status == 503 else None,
            refused=step.status in (502, 503),
            outcome=Outcome.REFUSED if step.status == 503 else Outcome.FAILED,
        )

    # -- ends

    def client_gone(self) -> None:
        """See `Relay`: the upstream is cancelled already."""
        self._settle(499, Outcome.CANCELLED)

    def _expired(self) -> None:
        """The deadline passed."""
        if self._settled:
            return
        suspect = self._may_be_busy
        self.cancel()
        exchange = self.exchange
        if exchange.started:
            last = self._broken("deadline exceeded", 504) if self._watch is not None else None
            if last is not None:
                exchange.finish(last)
            else:
                self._settle(exchange.status, Outcome.BROKEN)
                exchange.abort()
            return
        # A client's short patience says nothing of the instance's health.
        self._tries().after(Failure.TIMEOUT, "deadline exceeded", self._core.now())
        self._release(suspect=suspect)
        self._refuse(504, "deadline exceeded", outcome=Outcome.FAILED)

    def _refuse(
        self,
        status: int,
        message: str,
        *,
        retry_after: int | None = None,
        refused: bool = False,
        unread: bool = False,
        outcome: Outcome = Outcome.REFUSED,
    ) -> None:
        arrival = self._arrival
        self._settle(status, outcome)
        self._core.respond_error(
            self.exchange,
            status,
            message,
            arrival.request_id,
            protocol=self.route.protocol,
            retry_after=retry_after,
            unread=unread,
            extra=arrival.cors,
            refused=arrival.over_hop and (refused or status == 503),
        )

    def _settle(self, status: int, outcome: Outcome) -> None:
        """Releases what the request held and writes its record, once."""
        if self._settled:
            return
        self._settled = True
        core, target = self._core, self._target
        if outcome is Outcome.OK and self.route.kind is Kind.MUTATE and status == 200 and target is not None:
            core.made(models_made(self._body, self.route), target)
        if self._hedge_timer is not None:
            self._drop_hedge()
        if self._timer is not None:
            self._timer.cancel()
        if self._retrying:
            core.retrying -= 1
        self._release(suspect=outcome is Outcome.CANCELLED and self._may_be_busy)
        if outcome is Outcome.CANCELLED and target is not None and not target.local and not self._head_at:
            core.loads.lingers(target.id, core.now())
        if core.resume is not None and self._watch is not None:
            core.resume.closed(self)
        self._record(status, outcome, target)

    def _record(self, status: int, outcome: Outcome, target: Target | None) -> None:
        core, arrival, attempts = self._core, self._arrival, self._attempts
        exchange: Exchange = self.exchange
        core.settle(
            RequestRecord(
                arrival.request_id,
                arrival.caller,
                exchange.request.method,
                self.route.path,
                self._model,
                status,
                outcome,
                arrival.began,
                self._sent_at,
                self._head_at,
                core.now(),
                self._decision,
                self._continued_on if target is None else target.id,
                () if attempts is None else tuple(attempts.failed),
                len(self._body),
                exchange.sent,
                self._waited,
                0 if self._watch is None else self._tokens(),
            )
        )

    def _tokens(self) -> int:
        """Only routes are compared, so only for them is the last record read again."""
        watch, decision = self._watch, self._decision
        return 0 if watch is None or decision is None or not decision.route else watch.tokens


def _unnamed(route: HttpRoute, name: str) -> tuple[int, str]:
    """What a missing or malformed model name is answered with, as each route words it."""
    if "try pulling" in route.missing or (not name and route.path == "/api/generate"):
        return 404, route.missing.format(name, name)
    if name and route.path in ("/api/generate", "/api/show"):
        return 400, "invalid model name"
    return 400, "model is required"


def _short(name: str) -> str:
    return name.removeprefix("registry.ollama.ai/").removeprefix("library/")
