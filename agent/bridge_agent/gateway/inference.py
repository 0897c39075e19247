"""From a request's body to the decision where it goes: read, authorized, decided, then sent on.

No task and no await. Order of events of one request:

    infer -> body_of -> peek -> authorize -> choose -> admit
          -> RoutedRequest -> Attempt (-> Attempt …) -> settle
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from bridge_agent.gateway import fanout
from bridge_agent.gateway.access import asked_over_hop
from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.asked import AskedBody
from bridge_agent.gateway.attempt import SESSION
from bridge_agent.gateway.config import ListenerKind
from bridge_agent.gateway.keep_alive import KeptAliveExchange
from bridge_agent.gateway.loading_news import LoadingNews
from bridge_agent.gateway.peek import BadBody, Peek, Shape, peek
from bridge_agent.gateway.quota_gate import admit
from bridge_agent.gateway.reading import (
    SPECIAL,
    LargeBody,
    body_of,
    is_compressed,
    is_large,
    names_in,
    read_large,
    unloads,
)
from bridge_agent.gateway.replies import admits, deny, refuse, short
from bridge_agent.gateway.request import RoutedRequest
from bridge_agent.gateway.routes import HttpRoute, Kind
from bridge_agent.gateway.state import GatewayState
from bridge_agent.gateway.unknown import unknown_model
from bridge_agent.peers.hop import REQUEST_ID, compress
from bridge_agent.routing.affinity import affinity_key
from bridge_agent.routing.choose import Decision, choose, named_choice, only_choice
from bridge_agent.routing.request_rules import RequestLife
from bridge_agent.routing.view import Target
from bridge_core.http1 import HttpExchange
from bridge_core.large_json import LARGE
from bridge_core.names import InvalidName, canonical
from bridge_core.policy.statements import Action

log = structlog.get_logger()

_FORWARDED: Final = (Kind.INFER, Kind.SHOW, Kind.LOCAL)
_NO_SHAPE: Final = Shape("Request", frozenset())


def infer(
    state: GatewayState,
    arrival: Arrival,
    route: HttpRoute,
    _parameter: str = "",
    read: LargeBody | None = None,
) -> None:
    """Decides on a request for a model, and sends it on or answers it with an error.

    Args:
        state: What all requests share.
        arrival: The request.
        route: By which it came.
        read: Its body, where that was too large to be read here.
    """
    hop = arrival.hop
    if read is None:
        body = readable = arrival.exchange.request.body
        # The common body is read as it lies there; one that is packed is looked at more closely.
        plain = (hop is None or not hop.compressed) and route.path not in SPECIAL
        if len(body) >= LARGE or (not plain and is_large(arrival, route)):
            state.group.create_task(_infer_large(state, arrival, route))
            return
        try:
            if not plain:
                body, readable = body_of(arrival, route, state.config.max_body)
            peeked = peek(readable, route.shape or _NO_SHAPE)
        except BadBody as fault:
            refuse(state, arrival, route, 400, fault.message, unread=True)
            return
        packed = readable is not body and is_compressed(arrival, route)
    else:
        body, peeked, packed = read.body, read.peeked, read.packed
    try:
        name = canonical(peeked.model)
    except InvalidName:
        # Anthropic's shape is refused without a name while its body is read, as Ollama does it.
        unread = route.protocol == "anthropic" and not peeked.model
        refuse(state, arrival, route, *_unnamed(route, peeked.model), unread=unread)
        return
    unloading = "keep_alive" in peeked.fields and unloads(peeked, route)
    asked_for = name if hop is None or not hop.route else asked_over_hop(state.view.index, name, hop.route)
    action: Action = "unload" if unloading else route.action or "predict"
    verdict = arrival.verdict = state.access.verdict(arrival, action, asked_for, peeked)
    if not verdict.allowed:
        _deny(state, arrival, route, action, peeked.model, name=name)
        return
    if state.draining and not _takes_while_draining(state, arrival, route, name):
        return
    index = state.view.index
    decision = only_choice(index, name) if hop is None else named_choice(index, name, hop.instance, hop.route)
    if decision is None:
        decision = _choose(state, arrival, name, peeked)
        if not decision.candidates and not _may_begin(state, arrival, route, peeked.model, decision=decision):
            return
    if verdict.by_node and hop is None and decision.candidates:
        decision = state.access.within(arrival, action, name, peeked, decision)
        if not decision.candidates:
            _deny(state, arrival, route, action, peeked.model, name=name)
            return
    # Here it came in, and asks for something: that is counted, and may have a model loaded.
    generates = hop is None and not unloading and route.kind is Kind.INFER
    ticket, meter = None, state.meter
    if meter is not None and generates:
        caller = arrival.caller
        if not meter.quiet or caller.listener is not ListenerKind.LOCAL:
            ticket = admit(state, meter, arrival, route, name=name, peeked=peeked, decision=decision)
            if ticket is None:
                return
    asked = AskedBody(name, body, peeked.stream, packed)
    if read is not None:
        asked.shortened = read.shortened
    policy = decision.policy
    spare: tuple[Target, ...] = ()
    if decision.route:
        if decision.spare is not None:
            asked.keep(peeked)
            spare = decision.spare.candidates
        if decision.rewritten is not None:
            asked.rewrite(peeked, decision.rewritten)
    if unloading:
        asked.slotless = True
        # By a route it is one of its instances that is meant: another route may need the others.
        if hop is None and not decision.route and len(decision.candidates) > 1:
            fanout.unload(state, arrival, route, name, peeked)
            return
    deadline = arrival.deadline
    if hop is None:
        cold = generates and state.sent_cold(decision, arrival.began)
        if peeked.stream and (cold or policy.keep_alive_bytes_s is not None):
            _keep_alive(state, arrival, route, decision if cold else None, policy.keep_alive_bytes_s)
        if policy.deadline_s is not None:
            limit = arrival.began + policy.deadline_s
            deadline = limit if deadline is None else min(limit, deadline)
    life = RequestLife(decision.candidates, deadline, policy.retries, spare)
    request = RoutedRequest(state, arrival, route, asked, decision=decision, life=life)
    request.ticket = ticket
    if read is None or packed or not decision.candidates or decision.candidates[0].local:
        request.begin()
    else:
        state.group.create_task(_begin_compressed(state, request))


async def _infer_large(state: GatewayState, arrival: Arrival, route: HttpRoute) -> None:
    """Has a large body read in a thread: the loop serves others, too."""
    shape, most = route.shape or _NO_SHAPE, state.config.max_body
    loop = asyncio.get_running_loop()
    try:
        try:
            read = await loop.run_in_executor(state.bodies, read_large, arrival, route, most, shape)
        except BadBody as fault:
            refuse(state, arrival, route, 400, fault.message, unread=True)
            return
        infer(state, arrival, route, read=read)
    except Exception:  # the task's root: one request's fault must not end the gateway
        log.exception("large_request_failed", path=route.path, request_id=arrival.request_id)
        arrival.exchange.fail(500, "internal error")


async def _begin_compressed(state: GatewayState, request: RoutedRequest) -> None:
    """Begins a request whose large body goes to a peer: compressed in a thread as well."""
    asked = request.asked
    try:
        asked.frame = await asyncio.get_running_loop().run_in_executor(state.bodies, compress, asked.body)
        request.begin()
    except Exception:  # the task's root: one request's fault must not end the gateway
        request_id = request.arrival.request_id
        log.exception("large_request_failed", path=request.route.path, request_id=request_id)
        request.drop_ticket()
        request.exchange.fail(500, "internal error")


def _deny(
    state: GatewayState, arrival: Arrival, route: HttpRoute, action: Action, asked: str, *, name: str
) -> None:
    """Refuses what a caller may not; a model that it may not look at is none that there is."""
    if route.kind is Kind.SHOW:
        state.counters.denied[action] += 1
        refuse(state, arrival, route, 404, route.missing.format(asked, short(name)), model=name)
    else:
        deny(state, arrival, route, action, name)


def send_to(
    state: GatewayState,
    arrival: Arrival,
    route: HttpRoute,
    candidates: tuple[Target, ...],
    nodes: tuple[str, ...] = (),
) -> None:
    """Sends on a request that names its place itself: a mutation, a blob, an engine's own page.

    `nodes` are those that it changes something at.
    """
    names: tuple[str, ...] = ("",)
    peeked: Peek | None = None
    body = arrival.exchange.request.body
    if route.shape is not None:
        try:
            body, readable = body_of(arrival, route, state.config.max_body)
            peeked = peek(readable, route.shape)
            names = names_in(peeked, route) or names
        except BadBody as fault:
            refuse(state, arrival, route, 400, fault.message, unread=True)
            return
    if not admits(
        state, arrival, route, () if route.action == "admin" else names, nodes=nodes, peeked=peeked
    ):
        return
    if state.draining and not _takes_while_draining(state, arrival, route, names[0]):
        return
    policy = state.view.index.defaults
    decision = Decision(names[0], candidates, True, strategy="node", policy=policy)
    life = RequestLife(candidates, arrival.deadline, policy.retries)
    asked = AskedBody(names[0], body)
    RoutedRequest(state, arrival, route, asked, decision=decision, life=life).begin()


def _takes_while_draining(state: GatewayState, arrival: Arrival, route: HttpRoute, name: str) -> bool:
    """Whether peers can still answer it: what clients ask for; else it was refused."""
    if arrival.over_hop or route.kind not in _FORWARDED:
        _refuse_drained(state, arrival, route, name, None)
        return False
    return True


def _refuse_drained(
    state: GatewayState, arrival: Arrival, route: HttpRoute, name: str, decision: Decision | None
) -> None:
    state.counters.refused["draining"] += 1
    refuse(state, arrival, route, 503, "this node is draining", retry_after=1, model=name, decision=decision)


def _choose(state: GatewayState, arrival: Arrival, name: str, peeked: Peek) -> Decision:
    """Where it goes, of several places or none."""
    hop = arrival.hop
    key, came_by = _key(state, arrival, name, peeked), "" if hop is None else hop.route
    size = len(arrival.exchange.request.body)
    load = state.load(arrival.began, state.outlook(name, key, size) if hop is None else None)
    index = state.view.index
    decision = choose(index, name, key, load, only_local=hop is not None, came_by=came_by)
    if not decision.known:
        maker = state.maker(name)
        if maker is not None and (maker.local or hop is None):
            return Decision(name, (maker,), True, strategy="just_made", policy=decision.policy)
    return decision


def _may_begin(
    state: GatewayState, arrival: Arrival, route: HttpRoute, asked: str, *, decision: Decision
) -> bool:
    """Whether a request that nobody can serve goes its way nevertheless; else it was answered."""
    name = canonical(asked)
    if not decision.known:
        refusal = unknown_model(state, route, asked, short(name), arrival.began, model=decision.model)
        refuse(
            state,
            arrival,
            route,
            refusal.status,
            refusal.message,
            retry_after=refusal.retry_after,
            refused=True,
            model=name,
            decision=decision,
        )
        return False
    if state.draining:
        _refuse_drained(state, arrival, route, name, decision)
        return False
    return True


def _keep_alive(
    state: GatewayState,
    arrival: Arrival,
    route: HttpRoute,
    cold: Decision | None,
    every_s: float | None,
) -> None:
    """Sends the client bytes that its protocol ignores until the answer begins; `cold`: a load is to come."""
    exchange = arrival.exchange
    every_s = state.config.load_keep_alive_s if every_s is None else every_s
    if not every_s or not isinstance(exchange, HttpExchange):  # a gRPC call has nothing of the kind
        return
    loading = None if cold is None else LoadingNews(state, cold, arrival.began)
    pairs = ((REQUEST_ID, arrival.request_id.encode()), *arrival.cors)
    arrival.exchange = KeptAliveExchange(
        exchange, route.framing, every_s, pairs, arrival.request_id, loading=loading
    )


def _key(state: GatewayState, arrival: Arrival, name: str, peeked: Peek) -> bytes:
    request = arrival.exchange.request
    client = request.identity or (request.remote[0] if request.remote else "")
    index = state.view.index
    route = index.routes.get(name)
    policy = index.defaults if route is None else route.policy
    return affinity_key(
        name,
        peeked.fields,
        session=request.headers.get(SESSION),
        client=client.encode(),
        affinity=policy.affinity,
        nonce=arrival.request_id.encode(),
    )


def _unnamed(route: HttpRoute, name: str) -> tuple[int, str]:
    """What a missing or malformed model name is answered with, as each route words it."""
    if "try pulling" in route.missing or (not name and route.path == "/api/generate"):
        return 404, route.missing.format(name, name)
    if name and route.path in ("/api/generate", "/api/show"):
        return 400, "invalid model name"
    return 400, "model is required"
