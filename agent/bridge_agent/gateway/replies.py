"""What a request is told that goes to no instance, and its record."""

from __future__ import annotations

from typing import Final

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.gateway.routes import BY_PATH, HttpRoute, Protocol, protocol_of
from bridge_agent.gateway.shapes import error_body
from bridge_agent.gateway.state import GatewayState
from bridge_agent.peers.hop import BACKEND, REFUSED, REQUEST_ID, ROUTE
from bridge_agent.routing.choose import Decision
from bridge_core.http1 import Exchange, Pair, Request
from bridge_core.identity.principal import Principal
from bridge_core.route_rules import match

NODE: Final = b"x-bridge-node"


def by_route(decision: Decision | None) -> tuple[Pair, ...]:
    """The fields that say by which route a request went, and to which of its backends."""
    if decision is None or not decision.route:
        return ()
    return (ROUTE, decision.route.encode()), (BACKEND, decision.backend.encode())


def note(
    state: GatewayState,
    arrival: Arrival,
    path: str,
    outcome: Outcome,
    *,
    model: str = "",
    decision: Decision | None = None,
) -> None:
    """Writes the record of a request that went to no instance: a list, or a refusal."""
    exchange = arrival.exchange
    now = state.now()
    if decision is not None:
        state.count_backend(decision, arrival.caller, exchange.status)
    state.settle(
        RequestRecord(
            arrival.request_id,
            arrival.caller,
            exchange.request.method,
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
            len(exchange.request.body),
            exchange.sent,
        )
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
    now = state.now()
    route, _ = match(BY_PATH, request.method, request.path)
    who = Principal("client", "", request.identity or "")
    state.turned_away(
        RequestRecord(
            request_id or state.request_id(None),
            Caller(who, listener),
            request.method,
            "" if route is None else route.path,
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
            len(request.body),
            0,
            address=request.remote[0] if request.remote else "",
            reason=reason,
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


def admits(state: GatewayState, arrival: Arrival, route: HttpRoute, names: tuple[str, ...] = ("",)) -> bool:
    """Whether the caller may do this with each of these models; else it was answered."""
    for name in names:
        denial = state.authorize(arrival.caller, route.action, name)
        if denial is not None:
            refuse(state, arrival, route, denial.status, denial.message, model=name)
            return False
    return True


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
