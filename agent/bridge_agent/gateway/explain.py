"""Why a request went where it went: what each hop decided, tried and measured."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import msgspec
import structlog

from bridge_agent.gateway.config import RequestRecord
from bridge_agent.gateway.fanout import peer_targets
from bridge_agent.gateway.state import GatewayState
from bridge_agent.routing.view import Target
from bridge_core.errors import BridgeError
from bridge_core.explanation import PATH, Considered, HopReport, PassedOver, Tried

__all__ = ["PATH", "HopReport", "all_reports", "own_reports", "report"]

log = structlog.get_logger()

_ANSWER_MOST = 4 << 20


def report(record: RequestRecord, node: str) -> HopReport:
    """What `node` has to say of one of its records."""
    decision, began = record.decision, record.began
    considered: tuple[Considered, ...] = ()
    passed: tuple[PassedOver, ...] = ()
    if decision is not None:
        work = decision.work or (0,) * len(decision.candidates)
        considered = tuple(
            Considered(one.id, count, one.slots, one.capacity, decision.model in one.loaded)
            for one, count in zip(decision.candidates, work, strict=True)
        )
        passed = tuple(PassedOver(one.instance, one.reason) for one in decision.skipped)
    return HopReport(
        node=node,
        request_id=record.request_id,
        principal=record.caller.principal,
        via=record.caller.via,
        path=record.path,
        asked=record.model,
        model="" if decision is None else decision.model,
        route="" if decision is None else decision.route,
        backend="" if decision is None else decision.backend,
        strategy="" if decision is None else decision.strategy,
        key="" if decision is None else decision.key.hex(),
        panic=decision is not None and decision.panic,
        candidates=considered,
        passed_over=passed,
        failed=tuple(
            Tried(
                one.instance,
                _ms(one.began - began),
                one.failure.value,
                one.detail,
            )
            for one in record.failed
        ),
        instance=record.instance,
        status=record.status,
        outcome=record.outcome.value,
        waited_ms=_ms(record.waited),
        sent_ms=_ms(record.sent - began) if record.sent else -1.0,
        first_byte_ms=_ms(record.head - began) if record.head else -1.0,
        ended_ms=_ms(record.ended - began),
        bytes_in=record.bytes_in,
        bytes_out=record.bytes_out,
    )


def own_reports(state: GatewayState, request_id: str) -> list[HopReport]:
    """This node's hops of a request, while it still remembers them."""
    return [report(one, state.config.node) for one in state.records if one.request_id == request_id]


async def all_reports(state: GatewayState, request_id: str) -> list[HopReport]:
    """Every node's hops of a request, the entry's first; nodes that do not answer in time are left out."""
    answers = await asyncio.gather(*(_ask(state, target, request_id) for target in peer_targets(state)))
    found = own_reports(state, request_id) + [one for answer in answers for one in answer]
    return sorted(found, key=lambda one: bool(one.via))


async def _ask(state: GatewayState, target: Target, request_id: str) -> list[HopReport]:
    try:
        async with asyncio.timeout(state.config.fan_out_s):
            path = f"{PATH}?id={quote(request_id, safe='')}"
            async with state.upstreams.pool(target).request("GET", path, ()) as response:
                body = await response.read(_ANSWER_MOST)
                return msgspec.json.decode(body, type=list[HopReport]) if response.status == 200 else []
    except (BridgeError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        log.info("explain_node_left_out", node=target.node, reason=str(fault) or "timed out")
        return []


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
