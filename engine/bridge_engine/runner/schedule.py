"""Which loaded model has to go. Pure.

Rules:
1. Only a model that nobody uses may be unloaded to make room.
2. Of those the one unused for longest goes first.
3. A model whose keep-alive has run out goes when nobody uses it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Resident(msgspec.Struct, frozen=True):
    """A loaded model as the rules see it; times on one monotonic clock."""

    key: str
    users: int
    last_used: float
    expires_at: float


def victim(residents: Iterable[Resident]) -> str | None:
    """The model to unload for another one, or None while all are in use."""
    idle = [one for one in residents if one.users == 0]
    return min(idle, key=lambda one: (one.last_used, one.key)).key if idle else None


def expired(residents: Iterable[Resident], now: float) -> list[str]:
    """The models whose time has come."""
    return [one.key for one in residents if one.users == 0 and one.expires_at <= now]


def next_expiry(residents: Iterable[Resident]) -> float | None:
    """When `expired` will next have something to say, if nothing else happens."""
    times = [one.expires_at for one in residents if one.users == 0]
    return min(times) if times else None
