"""`/api/pull` at this node: by the agent, from the mesh first, in Ollama's records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
import structlog

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.peek import BadBody, Peek, Shape, peek, text
from bridge_agent.gateway.reading import body_of, models_made, names_in
from bridge_agent.gateway.replies import admits, fields, note, noting_who_leaves, refuse
from bridge_agent.gateway.routes import HttpRoute
from bridge_agent.gateway.state import GatewayState
from bridge_agent.models.pulling import WantsLogin
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.http1 import BodyTimeout, Disconnected, Pair
from bridge_core.model_store.registry import refuse_plain
from bridge_core.names import InvalidName, ModelName, canonical

log = structlog.get_logger()

PULL: Final = "/api/pull"
_NDJSON: Final = b"application/x-ndjson"
_JSON: Final = b"application/json; charset=utf-8"


class _Asked(msgspec.Struct):
    """What a pull asks for."""

    name: ModelName
    written: str
    insecure: bool
    stream: bool
    peeked: Peek


def takes(state: GatewayState, route: HttpRoute) -> bool:
    """Whether a mutation of this route is the agent's to carry out, not an engine's."""
    return route.path == PULL and state.models is not None


async def pull(
    state: GatewayState, arrival: Arrival, route: HttpRoute, by_engine: Callable[[], None]
) -> None:
    """Answers a pull; `by_engine` hands it to an engine, which may have an account at the registry."""
    exchange = arrival.exchange
    try:
        await _pull(state, arrival, route, by_engine)
    except (Disconnected, BodyTimeout):
        exchange.abort()
    except Exception:  # the task's root: logged whole, answered without detail
        log.exception("pull_failed_inside")
        exchange.fail(500, "internal error")


async def _pull(
    state: GatewayState, arrival: Arrival, route: HttpRoute, by_engine: Callable[[], None]
) -> None:
    models = state.models
    try:
        asked = _read(state, arrival, route)
    except BadBody as fault:
        refuse(state, arrival, route, 400, fault.message, unread=True)
        return
    if asked is None or models is None:  # what the engine refuses in its own words
        by_engine()
        return
    if not admits(
        state, arrival, route, (canonical(asked.written),), nodes=(state.config.node,), peeked=asked.peeked
    ):
        return
    if state.draining:
        state.counters.refused["draining"] += 1
        refuse(state, arrival, route, 503, "this node is draining", retry_after=1)
        return
    try:
        refuse_plain(asked.written, insecure=asked.insecure)
    except ApiError as fault:
        refuse(state, arrival, route, fault.status, fault.message)
        return
    records = models.records(asked.name, insecure=asked.insecure)
    try:
        await _tell(state, arrival, route, records, stream=asked.stream)
    except WantsLogin as fault:
        log.info("pull_by_engine", model=asked.written, reason=fault.message)
        by_engine()
    finally:
        await records.aclose()


async def local_records(state: GatewayState, body: bytes, route: HttpRoute) -> AsyncIterator[dict[str, Any]]:
    """The records of a pull at this node that is one of several; the last one is an error where it failed.

    Raises:
        WantsLogin: before the first record; an engine is to pull it, as `pull` has it do.
    """
    models = state.models
    if models is None or route.shape is None:
        raise RuntimeError("nobody to pull")
    try:
        asked = _asked(peek(body, route.shape), route.shape)
        if asked is not None:
            refuse_plain(asked.written, insecure=asked.insecure)
            async for record in models.records(asked.name, insecure=asked.insecure):
                yield record
            return
    except WantsLogin:
        raise
    except BridgeError as fault:
        yield {"error": str(fault)}
        return
    raise WantsLogin("it is an engine's to refuse, or to log in for")


def _read(state: GatewayState, arrival: Arrival, route: HttpRoute) -> _Asked | None:
    """What is asked for; None where that is an engine's to say.

    Raises:
        BadBody: the body cannot be read.
    """
    if route.shape is None:
        return None
    _, readable = body_of(arrival, route, state.config.max_body)
    peeked = peek(readable, route.shape)
    names_in(peeked, route)
    return _asked(peeked, route.shape)


def _asked(peeked: Peek, shape: Shape) -> _Asked | None:
    """What a pull asks for; None where it has an account's password with it, or names no model."""
    if text(peeked, "username", shape) or text(peeked, "password", shape):
        return None
    written = peeked.model
    insecure = bytes(peeked.fields.get("insecure", b"false")) == b"true"
    try:
        return _Asked(ModelName.parse(written), written, insecure, peeked.stream, peeked)
    except InvalidName:
        return None


async def _tell(
    state: GatewayState,
    arrival: Arrival,
    route: HttpRoute,
    records: AsyncIterator[dict[str, Any]],
    *,
    stream: bool,
) -> None:
    """Answers with each record as it comes, or with how it ended."""
    exchange = arrival.exchange
    try:
        with noting_who_leaves(state, arrival, route.path):
            async for record in records:
                if stream:
                    await _write(state, arrival, record)
    except (WantsLogin, Disconnected):
        raise
    except BridgeError as fault:
        _fail(state, arrival, route, fault)
        return
    if stream:
        exchange.finish()
    else:
        exchange.respond(200, _pairs(state, arrival, _JSON), b'{"status":"success"}')
    _done(state, arrival, route)


async def _write(state: GatewayState, arrival: Arrival, record: dict[str, Any]) -> None:
    exchange = arrival.exchange
    if not exchange.started:
        exchange.start(200, _pairs(state, arrival, _NDJSON))
    exchange.write(msgspec.json.encode(record) + b"\n")
    await exchange.drain()


def _fail(state: GatewayState, arrival: Arrival, route: HttpRoute, fault: BridgeError) -> None:
    exchange = arrival.exchange
    error = msgspec.json.encode({"error": str(fault)})
    if exchange.started:
        exchange.finish(error + b"\n")
    else:
        exchange.respond(500, _pairs(state, arrival, b"application/json"), error)
    note(state, arrival, route.path, Outcome.ENGINE_ERROR)


def _done(state: GatewayState, arrival: Arrival, route: HttpRoute) -> None:
    local = state.view.index.local
    made = models_made(arrival.exchange.request.body, route) if arrival.hop is None else ()
    if local and made:
        state.made(made, local[0])
    note(state, arrival, route.path, Outcome.OK, model=made[0] if made else "")


def _pairs(state: GatewayState, arrival: Arrival, kind: bytes) -> list[Pair]:
    return [(b"content-type", kind), *fields(state, arrival)]
