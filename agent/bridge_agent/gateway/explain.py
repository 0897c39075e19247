"""Why a request went where it went: what each hop decided, tried and measured."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from bridge_agent.gateway.config import Record
from bridge_agent.gateway.core import Core
from bridge_agent.gateway.fanout import peer_targets
from bridge_agent.routing.view import Target
from bridge_core.errors import BridgeError

log = structlog.get_logger()

PATH = "/bridge/explain"
_ANSWER_MOST = 4 << 20


class Considered(msgspec.Struct, frozen=True):
    """A candidate in the order in which it would be tried, with its work when it was chosen."""

    instance: str
    work: int
    slots: int
    capacity: int
    resident: bool


class PassedOver(msgspec.Struct, frozen=True):
    """Who was not asked, and why."""

    instance: str
    reason: str


class Tried(msgspec.Struct, frozen=True):
    """An attempt that failed; milliseconds from the request's arrival."""

    instance: str
    began_ms: float
    failure: str
    detail: str


class HopReport(msgspec.Struct, frozen=True):
    """One hop of one request. Times are milliseconds from its arrival at this node; -1: it did not happen.

    Attributes:
        node: Whose word this is.
        via: The entry node, when the request was forwarded to this one.
        asked: The model as it was asked for, in canonical form.
        key: What a choice hung on besides the mesh's state (hexadecimal).
        panic: Ejections were not regarded.
        waited_ms: For a slot.
        sent_ms: When the last attempt was sent.
        first_byte_ms: When its answer began.
    """

    node: str
    request_id: str
    principal: str
    via: str
    path: str
    asked: str
    model: str
    route: str
    backend: str
    strategy: str
    key: str
    panic: bool
    candidates: tuple[Considered, ...]
    passed_over: tuple[PassedOver, ...]
    failed: tuple[Tried, ...]
    instance: str
    status: int
    outcome: str
    waited_ms: float
    sent_ms: float
    first_byte_ms: float
    ended_ms: float
    bytes_in: int
    bytes_out: int


def report(record: Record, node: str) -> HopReport:
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
                "" if one.failure is None else one.failure.value,
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


def own_reports(core: Core, request_id: str) -> list[HopReport]:
    """This node's hops of a request, while it still remembers them."""
    return [report(one, core.config.node) for one in core.records if one.request_id == request_id]


async def all_reports(core: Core, request_id: str) -> list[HopReport]:
    """Every node's hops of a request, the entry's first; nodes that do not answer in time are left out."""
    answers = await asyncio.gather(*(_ask(core, target, request_id) for target in peer_targets(core)))
    found = own_reports(core, request_id) + [one for answer in answers for one in answer]
    return sorted(found, key=lambda one: bool(one.via))


async def _ask(core: Core, target: Target, request_id: str) -> list[HopReport]:
    try:
        async with asyncio.timeout(core.config.fan_out_s):
            path = f"{PATH}?id={request_id}"
            async with core.upstreams.pool(target).request("GET", path, ()) as response:
                body = await response.read(_ANSWER_MOST)
                return msgspec.json.decode(body, type=list[HopReport]) if response.status == 200 else []
    except (BridgeError, TimeoutError, msgspec.DecodeError) as fault:
        log.info("explain_node_left_out", node=target.node, reason=str(fault) or "timed out")
        return []


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
