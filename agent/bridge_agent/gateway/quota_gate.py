"""A request at the quotas of its caller: let in, or answered 429 in the shape of its protocol."""

from __future__ import annotations

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.peek import Peek
from bridge_agent.gateway.replies import by_route, note, respond_error
from bridge_agent.gateway.routes import HttpRoute
from bridge_agent.gateway.state import GatewayState
from bridge_agent.quotas.meter import Meter, OverQuota, Ticket
from bridge_agent.routing.choose import Decision


def admit(
    state: GatewayState,
    meter: Meter,
    arrival: Arrival,
    route: HttpRoute,
    *,
    name: str,
    peeked: Peek,
    decision: Decision,
) -> Ticket | None:
    """The ticket of a request that may begin; None: it was answered.

    Args:
        state: The gateway's.
        meter: Who counts.
        arrival: The request.
        route: By which it came.
        name: The model, in canonical form, as it was asked for.
        peeked: The body.
        decision: Where it would go.
    """
    ticket = meter.admit(arrival.caller.who, route.path, name, peeked.fields)
    if isinstance(ticket, OverQuota):
        respond_error(
            state,
            arrival.exchange,
            429,
            ticket.message,
            arrival.request_id,
            protocol=route.protocol,
            retry_after=ticket.retry_after,
            extra=(*arrival.cors, *by_route(decision), *ticket.pairs),
        )
        note(
            state,
            arrival,
            route.path,
            Outcome.REFUSED,
            model=name,
            decision=decision,
            quota=ticket.quota,
        )
        return None
    return ticket
