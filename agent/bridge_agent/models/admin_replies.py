"""Who may ask the pages about models that admins have, and what all of these pages answer alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from bridge_agent.routing.view import MeshView
from bridge_core.http1 import Exchange
from bridge_core.identity.spiffe import SpiffeId

MOST_ASKED: Final = 4096
"""Bytes of a question that names a model."""

_JSON: Final = ((b"content-type", b"application/json"),)
_CHANGES: Final = ("operator", "admin")

Recorded: TypeAlias = Callable[[Exchange, str, float], None]
"""Puts what an admin did to a model on record, and since when."""


def admits(exchange: Exchange, view: MeshView, *, changes: bool) -> bool:
    """Whether this is a question of somebody who may ask it; else it was answered.

    Args:
        exchange: The question.
        view: Says who the admins are.
        changes: What is asked changes something.
    """
    request = exchange.request
    admin = view.current.admins.get(SpiffeId.parse(request.identity or "").name)
    if request.method != "POST":
        exchange.respond(405, [(b"allow", b"POST")], b"")
        return False
    if changes and (admin is None or admin.role not in _CHANGES):
        error(exchange, 403, "this takes an admin of the role operator")
        return False
    return True


def answer(exchange: Exchange, value: Any) -> None:
    """Answers with a value, in JSON."""
    exchange.respond(200, _JSON, msgspec.json.encode(value))


def error(exchange: Exchange, status: int, message: str) -> None:
    """Answers why it was not done."""
    exchange.respond(status, _JSON, msgspec.json.encode({"error": message}))
