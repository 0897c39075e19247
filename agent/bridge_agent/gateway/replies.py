"""What a request is told that goes to no instance, and its record."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Final

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import STRANGERS, Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.gateway.peek import Peek
from bridge_agent.gateway.routes import BY_PATH, HttpRoute, Protocol, protocol_of
from bridge_agent.gateway.shapes import error_body
from bridge_agent.gateway.state import GatewayState
from bridge_agent.peers.hop import BACKEND, REFUSED, REQUEST_ID, ROUTE
from bridge_agent.routing.choose import Decision
from bridge_core.http1 import Disconnected, Exchange, Pair, Request
from bridge_core.identity.principal import Principal
from bridge_core.policy.statements import Action, ResourceKind
from bridge_core.route_rules import match

NODE: Final = b"x-bridge-node"
_MODEL: Final[ResourceKind] = "Model"
_NODE: Final[ResourceKind] = "Node"


def by_route(decision: Decision | None) -> tuple[Pair, ...]:
    """The fields that say by which route a request went, and to which of its backends."""
    if decision is None or not decision.route:
        return ()
    return (ROUTE, decision.route.encode()), (BACKEND, decision.backend.encode())


def fields(state: GatewayState, arrival: Arrival) -> list[Pair]:
    """What answers carry: the request's id, the node, and what pages of an allowed origin need."""
    return [(REQUEST_ID, arrival.request_id.encode()), (NODE, state.node), *arrival.cors]


@contextlib.contextmanager
def noting_who_leaves(state: GatewayState, arrival: Arrival, path: str, *, model: str = "") -> Iterator[None]:
    """Writes the record of a request whose client goes away before its answer is whole."""
    try:
        yield
    except (asyncio.CancelledError, Disconnected):
        note(state, arrival, path, Outcome.CANCELLED, model=model)
        raise


def note(
    state: GatewayState,
    arrival: Arrival,
    path: str,
    outcome: Outcome,
    *,
    model: str = "",
    decision: Decision | None = None,
    quota: str = "",
) -> None:
    """Writes the record of a request that went to no instance: a list, or a refusal."""
    exchange = arrival.exchange
    request = exchange.request
    now = state.now()
    if decision is not None:
        state.count_backend(decision, arrival.caller, exchange.status)
    state.settle(
        RequestRecord(
            arrival.request_id,
            arrival.caller,
            request.method,
            path,
            model,
            exchange.status,
            outcome,
            arrival.began,
            0.0 if outcome is Outcome.REFUSED else now,
            0.0,
            now,
            decision,
            "",
            (),
            len(request.body),
            exchange.sent,
            quota=quota,
            rule=arrival.verdict.policy,
            shadowed=arrival.verdict.shadowed,
            remote=request.remote,
            trace=arrival.trace,
        ),
        request.body,
    )


def turned_away(
    state: GatewayState,
    request: Request,
    listener: ListenerKind,
    status: int,
    reason: str,
    *,
    request_id: str = "",
) -> None:
    """Writes the record of a request that nobody sent who may.

    Args:
        state: The gateway's.
        request: It.
        listener: Where it came in.
        status: That it was answered with.
        reason: A word for counts.
        request_id: That the answer names.
    """
    route, _ = match(BY_PATH, request.method, request.path)
    _turn_away(
        state,
        Caller(Principal("client", "", str(request.identity or "")), listener),
        request.method,
        "" if route is None else route.path,
        status=status,
        reason=reason,
        remote=request.remote,
        request_id=request_id,
    )


def broke_off(state: GatewayState, listener: ListenerKind, address: str) -> None:
    """Writes the record of a handshake that TLS refused: a certificate that does not count, an older TLS."""
    nobody = STRANGERS[listener]
    _turn_away(state, nobody, "", "", status=0, reason="handshake", remote=(address, 0), request_id="")


def _turn_away(
    state: GatewayState,
    caller: Caller,
    method: str,
    path: str,
    *,
    status: int,
    reason: str,
    remote: tuple[str, int] | None,
    request_id: str,
) -> None:
    now = state.now()
    state.turned_away(
        RequestRecord(
            request_id or state.request_id(None),
            caller,
            method,
            path,
            "",
            status,
            Outcome.REFUSED,
            now,
            0.0,
            0.0,
            now,
            None,
            "",
            (),
            0,
            0,
            reason=reason,
            remote=remote,
        )
    )


def refuse(
    state: GatewayState,
    arrival: Arrival,
    route: HttpRoute,
    status: int,
    message: str,
    *,
    retry_after: int | None = None,
    refused: bool = False,
    unread: bool = False,
    model: str = "",
    decision: Decision | None = None,
) -> None:
    """Answers with an error in the shape of the route's protocol, and writes the record.

    Args:
        state: The gateway's.
        arrival: What is refused.
        route: By which it came.
        status: The answer's.
        message: What is wrong.
        retry_after: When to come again, in seconds.
        refused: Another agent may ask elsewhere.
        unread: The body could not be read.
        model: The model in canonical form, where one was named.
        decision: Where it would have gone, where that was decided.
    """
    respond_error(
        state,
        arrival.exchange,
        status,
        message,
        arrival.request_id,
        protocol=route.protocol,
        retry_after=retry_after,
        unread=unread,
        refused=arrival.over_hop and (refused or status == 503),
        extra=(*arrival.cors, *by_route(decision)),
    )
    note(state, arrival, route.path, Outcome.REFUSED, model=model, decision=decision)


def admits(
    state: GatewayState,
    arrival: Arrival,
    route: HttpRoute,
    names: Iterable[str] = (),
    *,
    nodes: Iterable[str] = (),
    peeked: Peek | None = None,
) -> bool:
    """Whether the caller may do this with each of these models, at each of these nodes; else it was answered.

    `names` are in canonical form, empty for none in particular.
    """
    action, access = route.action, state.access
    if not action:
        return True
    for kind, asked in (_MODEL, names), (_NODE, nodes):
        for name in asked:
            verdict = access.verdict(arrival, action, name, peeked, kind=kind)
            if kind is _MODEL or not verdict.allowed:
                arrival.verdict = verdict
            if not verdict.allowed:
                deny(state, arrival, route, action, name, kind=kind)
                return False
    return True


def deny(
    state: GatewayState,
    arrival: Arrival,
    route: HttpRoute,
    action: Action,
    name: str,
    *,
    kind: ResourceKind = "Model",
) -> None:
    """Says that it may not be done, and neither why nor by which rule: that is on record."""
    state.counters.denied[action] += 1
    if kind == "Node":
        message = f"this caller may not {action} on node '{name}'"
        if arrival.caller.who.kind == "local" and name != arrival.caller.who.name:
            message += ": it takes an admin's certificate, or a policy"
        refuse(state, arrival, route, 403, message)
        return
    what = f"model '{short(name)}'" if name else "models"
    refuse(state, arrival, route, 403, f"this caller may not {action} {what}", model=name)


def short(name: str) -> str:
    """A canonical name as people write it, with its tag."""
    return name.removeprefix("registry.ollama.ai/").removeprefix("library/")


def respond_error(
    state: GatewayState,
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
        (NODE, state.node),
        *extra,
    ]
    if retry_after is not None:
        pairs.append((b"retry-after", b"%d" % retry_after))
    if refused:
        pairs.append((REFUSED, b"1"))
    exchange.respond(status, pairs, body)
