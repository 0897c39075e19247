"""Mutations that make models under names that have to be signed (ModelSignaturePolicy).

What an engine makes by itself has no signature, and would be there before anybody could look at it. So it is
not asked to; a copy is carried out by the agent, of the bytes that it judged.
"""

from __future__ import annotations

from typing import Final

import msgspec
import structlog

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.peek import BadBody, peek, text
from bridge_agent.gateway.reading import body_of, names_in
from bridge_agent.gateway.replies import admits, fields, note, noting_who_leaves, refuse
from bridge_agent.gateway.routes import HttpRoute
from bridge_agent.gateway.state import GatewayState
from bridge_agent.signing.judging_rules import NotSigned
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.http1 import Disconnected
from bridge_core.names import InvalidName, ModelName, canonical_or_same, display

log = structlog.get_logger()

COPY: Final = "/api/copy"
# Where a mutation may say what it makes.
_MADE: Final = {COPY: ("destination",), "/api/create": ("model", "name"), "/api/pull": ("model", "name")}


def to_be_signed(state: GatewayState, arrival: Arrival, route: HttpRoute) -> str:
    """The name, of those under which a mutation makes a model, that has to be signed; empty: none has to."""
    gate = state.signatures
    if gate is None or route.shape is None or route.path not in _MADE:
        return ""
    try:
        _, readable = body_of(arrival, route, state.config.max_body)
        peeked = peek(readable, route.shape)
        made = [canonical_or_same(text(peeked, key, route.shape)) for key in _MADE[route.path]]
    except BadBody:  # whoever sends it on refuses it
        return ""
    return next((name for name in made if name and gate.enforced(name)), "")


def refusal(route: HttpRoute, name: str) -> str:
    """Why an engine is not asked to make a model of this canonical name."""
    shown = display(name)
    if route.path == COPY:
        return f"a ModelSignaturePolicy is about {shown}: copy it at one node, named in X-Bridge-Node"
    if route.path == "/api/pull":
        return (
            f"a ModelSignaturePolicy is about {shown}, and an engine that pulls it by itself checks no "
            "signature: push the signed model to the node, or let the agent pull it (pull_by_engine)"
        )
    return (
        f"a ModelSignaturePolicy is about {shown}, and what is made here has no signature: make it under "
        f"another name, `bridgectl models sign` it there, and copy it to {shown}"
    )


def refuse_unsigned(state: GatewayState, arrival: Arrival, route: HttpRoute, name: str) -> None:
    """Answers that an engine is not asked."""
    state.counters.refused["unsigned"] += 1
    refuse(state, arrival, route, 403, refusal(route, name), model=name)


async def copy(state: GatewayState, arrival: Arrival, route: HttpRoute) -> None:
    """Answers a copy to a name that has to be signed."""
    exchange = arrival.exchange
    try:
        with noting_who_leaves(state, arrival, route.path):
            await _copy(state, arrival, route)
    except Disconnected:
        exchange.abort()
    except Exception:  # the task's root: logged whole, answered without detail
        log.exception("copy_failed_inside")
        exchange.fail(500, "internal error")


async def _copy(state: GatewayState, arrival: Arrival, route: HttpRoute) -> None:
    gate = state.signatures
    if gate is None or route.shape is None:
        raise RuntimeError("nobody to copy")
    try:
        _, readable = body_of(arrival, route, state.config.max_body)
        peeked = peek(readable, route.shape)
        names = names_in(peeked, route)
        asked = text(peeked, "source", route.shape)
        source = ModelName.parse(asked)
        destination = ModelName.parse(text(peeked, "destination", route.shape))
    except (BadBody, InvalidName) as fault:
        refuse(state, arrival, route, 400, fault.message, unread=True)
        return
    if not admits(state, arrival, route, names, nodes=(state.config.node,), peeked=peeked):
        return
    if state.draining:
        refuse(state, arrival, route, 503, "this node is draining", retry_after=1)
        return
    try:
        done = await gate.copy(source, destination)
    except NotSigned as fault:
        state.counters.refused["unsigned"] += 1
        refuse(state, arrival, route, 403, str(fault))
        return
    except ApiError as fault:
        refuse(state, arrival, route, fault.status, fault.message)
        return
    except BridgeError as fault:
        refuse(state, arrival, route, 500, str(fault))
        return
    if not done:
        refuse(state, arrival, route, 404, f"model {msgspec.json.encode(asked).decode()} not found")
        return
    arrival.exchange.respond(200, fields(state, arrival), b"")
    if arrival.hop is None and state.view.index.local:
        state.made((str(destination).lower(),), state.view.index.local[0])
    note(state, arrival, route.path, Outcome.OK, model=str(destination).lower())
