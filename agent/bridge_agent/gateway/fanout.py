"""What is asked of several nodes at once: /api/ps, and mutations with `X-Bridge-Node: all`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final

import msgspec
import structlog

from bridge_agent.gateway import pulls, signed_models
from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.listing import OLLAMA_JSON, merged_ps
from bridge_agent.gateway.peek import BadBody, Peek, peek
from bridge_agent.gateway.reading import models_made, names_in
from bridge_agent.gateway.replies import admits, fields, note, noting_who_leaves, refuse, respond_error
from bridge_agent.gateway.routes import Framing, HttpRoute
from bridge_agent.gateway.state import GatewayState
from bridge_agent.models.pulling import WantsLogin
from bridge_agent.peers.hop import REQUEST_ID, Hop, headers_of
from bridge_agent.routing.choose import node_subject
from bridge_agent.routing.view import Target
from bridge_core.errors import BridgeError
from bridge_core.http1 import Exchange, Pair, coroutine_app

log = structlog.get_logger()

_ANSWER_MOST: Final = 8 << 20
_RECORD_MOST: Final = 1 << 20
_decode_record: Final = msgspec.json.Decoder(dict[str, Any]).decode


async def ps(state: GatewayState, arrival: Arrival) -> None:
    """Answers /api/ps: of this node's engines over a hop, of the whole mesh otherwise.

    A node that does not answer in time is left out: the list must not hang on the slowest.
    """
    targets = [(target, False) for target in state.view.index.local if target.available]
    if not arrival.over_hop:
        targets += [(target, True) for target in peer_targets(state)]
    with noting_who_leaves(state, arrival, "/api/ps"):
        answers = await asyncio.gather(*(_get_ps(state, arrival, target, hop) for target, hop in targets))
    body = merged_ps([answer for answer in answers if answer is not None], state.access.sees_of(arrival))
    _respond(state, arrival, 200, OLLAMA_JSON, body)
    note(state, arrival, "/api/ps", Outcome.OK)


async def _get_ps(
    state: GatewayState, arrival: Arrival, target: Target, hop: bool
) -> tuple[str, bytes] | None:
    headers = _hop_headers(state, arrival) if hop else []
    try:
        async with asyncio.timeout(state.config.fan_out_s):
            pool = state.upstreams.pool(target)
            async with pool.request("GET", "/api/ps", headers) as response:
                body = await response.read(_ANSWER_MOST)
                return (target.node, body) if response.status == 200 else None
    except (BridgeError, TimeoutError) as fault:
        log.info("ps_node_left_out", node=target.node, reason=str(fault) or "timed out")
        return None


def unload(state: GatewayState, arrival: Arrival, route: HttpRoute, model: str, peeked: Peek) -> None:
    """Has a model unloaded wherever it lies; answers the request, which asks for nothing else."""
    pool = state.view.index.pool(model)
    able = [one for one in (() if pool is None else pool.targets.values()) if one.available]
    if arrival.verdict.by_node:
        able = list(state.access.there(arrival, "unload", model, peeked, able))
    targets = list(that_answer(state, able)) or able
    if state.loading is not None:
        for one in state.view.index.local:
            state.loading.unloaded(one.id, model)

    async def handler(_exchange: Exchange) -> None:
        await _unload_all(state, arrival, route, targets)

    coroutine_app(handler, state.group)(arrival.exchange)


async def _unload_all(state: GatewayState, arrival: Arrival, route: HttpRoute, targets: list[Target]) -> None:
    """Has a model unloaded at every instance: a client that stops it means the mesh, not one of its nodes.

    One that does not answer in time is left out; where all failed, the first failure is the answer.
    """
    with noting_who_leaves(state, arrival, route.path):
        answers = await asyncio.gather(*(_unload_at(state, arrival, target) for target in targets))
    status, kind, answer = min(answers, key=lambda one: one[0])
    _respond(state, arrival, status, kind, answer)
    note(state, arrival, route.path, Outcome.OK if status == 200 else Outcome.ENGINE_ERROR)


async def _unload_at(state: GatewayState, arrival: Arrival, target: Target) -> tuple[int, bytes, bytes]:
    request = arrival.exchange.request
    pairs: list[Pair] = [(b"content-type", b"application/json")]
    if not target.local:
        pairs += _hop_headers(state, arrival, target.id)
    try:
        async with asyncio.timeout(state.config.fan_out_s):
            pool = state.upstreams.pool(target)
            async with pool.request("POST", request.path, pairs, request.body) as response:
                kind = response.headers.get(b"content-type") or OLLAMA_JSON
                return response.status, kind, await response.read(_ANSWER_MOST)
    except (BridgeError, TimeoutError) as fault:
        reason = str(fault) or "it did not answer in time"
        log.info("not_unloaded", instance=target.id, reason=reason)
        return 502, OLLAMA_JSON, msgspec.json.encode({"error": f"{target.id}: {reason}"})


async def mutate_all(state: GatewayState, arrival: Arrival, route: HttpRoute, nodes: list[Target]) -> None:
    """Does a mutation on each of `nodes`; a streamed answer names the node of each record."""
    exchange = arrival.exchange
    try:
        names: tuple[str, ...] = ()
        streams = False
        peeked: Peek | None = None
        if route.shape is not None:
            peeked = peek(exchange.request.body, route.shape)
            names, streams = names_in(peeked, route), peeked.stream
    except BadBody as fault:
        refuse(state, arrival, route, 400, fault.message)
        return
    unsigned = signed_models.to_be_signed(state, arrival, route)
    if unsigned and not pulls.takes(state, route):
        signed_models.refuse_unsigned(state, arrival, route, unsigned)
        return
    at = [target.node for target in nodes]
    if not admits(state, arrival, route, names or ("",), nodes=at, peeked=peeked):
        return
    if not nodes:
        refuse(state, arrival, route, 503, "no node can take this at present", retry_after=1)
        return
    with noting_who_leaves(state, arrival, route.path):
        if route.framing is Framing.PROGRESS and streams:
            await _stream_all(state, arrival, route, nodes)
        else:
            await _whole_all(state, arrival, route, nodes)


async def _whole_all(state: GatewayState, arrival: Arrival, route: HttpRoute, nodes: list[Target]) -> None:
    exchange = arrival.exchange
    results = await asyncio.gather(*(_collect(state, arrival, route, target) for target in nodes))
    failed = [(node, status, body) for node, status, body in results if status >= 400]
    if route.action == "delete" and any(status == 200 for _, status, _ in results):
        # Who never had it needs not delete it.
        failed = [one for one in failed if one[1] != 404]
    if failed:
        node, status, body = failed[0]
        message = f"{node}: {_message(body)}"
        respond_error(state, exchange, status, message, arrival.request_id, extra=arrival.cors)
        note(state, arrival, route.path, Outcome.ENGINE_ERROR)
        return
    if route.framing is Framing.PROGRESS:
        done = msgspec.json.encode({"status": "success", "nodes": sorted(node for node, _, _ in results)})
        _respond(state, arrival, 200, b"application/json", done)
    else:
        _respond(state, arrival, 200, b"", b"")
    state.made(models_made(exchange.request.body, route), nodes[0])
    note(state, arrival, route.path, Outcome.OK)


async def _collect(
    state: GatewayState, arrival: Arrival, route: HttpRoute, target: Target
) -> tuple[str, int, bytes]:
    if target.local and pulls.takes(state, route):
        last: dict[str, Any] = {}
        try:
            async for record in pulls.local_records(state, arrival.exchange.request.body, route):
                last = record
            return target.node, 500 if "error" in last else 200, msgspec.json.encode(last)
        except WantsLogin as fault:
            if unsigned := signed_models.to_be_signed(state, arrival, route):
                error = {"error": signed_models.refusal(route, unsigned)}
                return target.node, 403, msgspec.json.encode(error)
            log.info("pull_by_engine", reason=fault.message)
    try:
        async with _request(state, arrival, target) as response:
            return target.node, response.status, await response.read(_ANSWER_MOST)
    except BridgeError as fault:
        return target.node, 502, msgspec.json.encode({"error": fault.message})


async def _stream_all(state: GatewayState, arrival: Arrival, route: HttpRoute, nodes: list[Target]) -> None:
    exchange = arrival.exchange
    pairs: list[Pair] = [(b"content-type", b"application/x-ndjson"), *arrival.cors]
    exchange.start(200, [*pairs, (REQUEST_ID, arrival.request_id.encode())])

    async def follow(target: Target) -> bool:
        ended = False
        async for record in _records(state, arrival, route, target):
            ended = record.get("status") == "success"
            if not ended:
                exchange.write(msgspec.json.encode({**record, "node": target.node}) + b"\n")
                await exchange.drain()
        return ended

    outcomes = await asyncio.gather(*(follow(target) for target in nodes))
    if all(outcomes):
        state.made(models_made(exchange.request.body, route), nodes[0])
        exchange.finish(b'{"status":"success"}\n')
        note(state, arrival, route.path, Outcome.OK)
        return
    bad = ", ".join(target.node for target, good in zip(nodes, outcomes, strict=True) if not good)
    exchange.finish(msgspec.json.encode({"error": f"failed on {bad}"}) + b"\n")
    note(state, arrival, route.path, Outcome.ENGINE_ERROR)


async def _records(
    state: GatewayState, arrival: Arrival, route: HttpRoute, target: Target
) -> AsyncIterator[dict[str, Any]]:
    """The records of a node's progress; the last one is an error where there cannot be more."""
    if target.local and pulls.takes(state, route):
        try:
            async for own in pulls.local_records(state, arrival.exchange.request.body, route):
                yield own
            return
        except WantsLogin as fault:
            if unsigned := signed_models.to_be_signed(state, arrival, route):
                yield {"error": signed_models.refusal(route, unsigned)}
                return
            log.info("pull_by_engine", reason=fault.message)
    rest = b""
    try:
        async with _request(state, arrival, target) as response:
            async for data in response:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _record(line)
                if len(rest) > _RECORD_MOST:
                    raise _BadRecord(f"it answered a record of more than {_RECORD_MOST >> 10} KiB")
            if rest.strip():
                yield _record(rest)
    except BridgeError as fault:
        yield {"error": fault.message}


class _BadRecord(BridgeError):
    """A node's answer that cannot be read."""


def _record(line: bytes) -> dict[str, Any]:
    if len(line) > _RECORD_MOST:
        raise _BadRecord(f"it answered a record of more than {_RECORD_MOST >> 10} KiB")
    try:
        return _decode_record(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _BadRecord("it answered what is no JSON object") from None


def _request(state: GatewayState, arrival: Arrival, target: Target) -> Any:
    request = arrival.exchange.request
    pairs = [pair for pair in request.headers.pairs if pair[0] in (b"content-type", b"accept")]
    if not target.local:
        pairs += _hop_headers(state, arrival)
    return state.upstreams.pool(target).request(request.method, request.target, pairs, request.body)


def peer_targets(state: GatewayState) -> Iterator[Target]:
    """The peer listener of every other node that may be asked something."""
    for node in state.view.current.nodes.values():
        if node.name != state.config.node and node.peer and node.state != "revoked":
            yield node_target(node.name, node.peer)


def that_answer(state: GatewayState, targets: Iterable[Target]) -> Iterator[Target]:
    """Of these, those on nodes that are not taken for dead."""
    now = state.now()
    return (one for one in targets if not state.health.down(node_subject(one.node), now))


def node_target(node: str, address: str) -> Target:
    """A node as a place to send a request to, whatever instance takes it there."""
    return Target(f"{node}/*", node, False, address, True)


def _hop_headers(state: GatewayState, arrival: Arrival, instance: str = "") -> list[Pair]:
    caller = arrival.caller
    hop = Hop(state.config.node, caller.principal, arrival.request_id, instance=instance, proof=caller.proof)
    return headers_of(hop)


def _respond(state: GatewayState, arrival: Arrival, status: int, content_type: bytes, body: bytes) -> None:
    pairs: list[Pair] = [(b"content-type", content_type)] if content_type else []
    arrival.exchange.respond(status, [*pairs, *fields(state, arrival)], body)


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace") or "failed"
