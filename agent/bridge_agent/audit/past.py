"""The requests that clients brought to this node, read back from its audit log for `replay`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import parse_qs

import msgspec

from bridge_agent.gateway.routes import ROUTES, Kind
from bridge_agent.routing.replay_rules import Past
from bridge_core.audit.entries import AuditRecord, decode
from bridge_core.audit.stored import StoredLog
from bridge_core.http1 import App, Exchange, coroutine_app

PATH: Final = "/bridge/past"
MOST: Final = 200_000
_INFERENCE: Final = frozenset(one.path for one in ROUTES if one.kind is Kind.INFER)
_JSON: Final = ((b"content-type", b"application/json"),)
_LONGEST_S: Final = 7 * 86_400.0


class PastAnswer(msgspec.Struct, frozen=True):
    """What a node tells of its past; `left_out` counts its older requests beyond the most that it tells."""

    requests: list[Past]
    left_out: int = 0


def past_requests(stored: StoredLog, since: float) -> list[Past]:
    """The requests that clients brought to this node since then (Unix time), from its audit log."""
    return sorted(map(_past, _told(stored, since)), key=lambda one: one.at)


def _told(stored: StoredLog, since: float) -> Iterator[AuditRecord]:
    try:
        for _, entries in stored.bundles_down(stored.length()):
            newest = 0.0
            for record in map(decode, entries):
                if not isinstance(record, AuditRecord):
                    continue
                newest = max(newest, record.at + record.duration_ms / 1000)
                asked = record.path in _INFERENCE and not record.via and record.model
                if asked and record.at >= since and _is_hex(record.key):
                    yield record
            if 0.0 < newest < since:  # a record is written when its request is over
                return
    except OSError:
        return  # none is there, or it cannot be read


def past_app(stored: Callable[[], StoredLog], group: asyncio.TaskGroup) -> App:
    """Answers `GET /bridge/past?seconds=N` with the requests of the last N seconds, oldest first."""

    async def answer(exchange: Exchange) -> None:
        asked = "".join(parse_qs(exchange.request.query).get("seconds", []))
        if not asked.isdigit() or not 0 < int(asked) <= _LONGEST_S:
            exchange.respond(400, _JSON, b'{"error":"seconds is a number up to a week\'s"}')
            return
        exchange.respond(200, _JSON, await asyncio.to_thread(_read, stored(), time.time() - int(asked)))

    return coroutine_app(answer, group)


def _read(stored: StoredLog, since: float) -> bytes:
    found = past_requests(stored, since)
    return msgspec.json.encode(PastAnswer(found[-MOST:], max(0, len(found) - MOST)))


def _past(record: AuditRecord) -> Past:
    return Past(
        record.at,
        record.model,
        bytes.fromhex(record.key),
        record.instance,
        record.duration_ms / 1000,
        record.request_id,
    )


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True
