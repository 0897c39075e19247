"""The last requests that came in at this node, for people who watch: who, what, where to, how it ended.

Never what was asked or answered: a record has neither.
"""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import parse_qs

import msgspec

from bridge_agent.gateway.config import ListenerKind, RequestRecord
from bridge_agent.gateway.state import GatewayState
from bridge_core.http1 import Request
from bridge_core.recent import PATH, Recent

__all__ = ["MOST", "PATH", "page"]

MOST: Final = 200


def page(state: GatewayState, request: Request, *, local: bool = False) -> bytes:
    """The newest, newest first: `?most=N` of them; where `local`, of what a program on this node may see."""
    asked = "".join(parse_qs(request.query).get("most", []))
    most = min(int(asked), MOST) if asked.isascii() and asked.isdigit() and len(asked) < 8 else MOST
    ahead = time.time() - state.now()
    found: list[Recent] = []
    for record in reversed(state.records):
        if len(found) >= most:
            break
        seen = not local or state.access.explains(record.model)
        if seen and record.caller.listener is not ListenerKind.PEER:
            found.append(_recent(record, state.config.node, ahead))
    return msgspec.json.encode(found)


def _recent(record: RequestRecord, node: str, ahead: float) -> Recent:
    decision = record.decision
    return Recent(
        record.request_id,
        round(record.ended + ahead, 3),
        node,
        record.caller.principal,
        record.path,
        record.model,
        "" if decision is None else decision.route,
        record.instance,
        record.status,
        record.outcome.value,
        len(record.failed) + bool(record.sent),
        round((record.head - record.began) * 1000, 1) if record.head else -1.0,
        round((record.ended - record.began) * 1000, 1),
        record.tokens,
    )
