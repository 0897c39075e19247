"""What is left out when more is logged than can be written: pure machines.

Rules:
1. Every line has a class: its level, or `request`. Each class has a share of the bytes that may wait, so
   that a flood of one crowds out none of the others.
2. One event may be told `BURST` times at once and `RATE` times a second from then on: what happens a
   thousand times a second is known after the first hundred.
3. What is left out is counted by class. Nobody ever waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bridge_core.token_bucket import TokenBucket

DEBUG, INFO, WARNING, ERROR, REQUEST = CLASSES = ("debug", "info", "warning", "error", "request")

SHARES: Final[Mapping[str, int]] = {
    DEBUG: 256 << 10,
    INFO: 512 << 10,
    WARNING: 512 << 10,
    ERROR: 1 << 20,
    REQUEST: 1 << 20,
}
"""Bytes of each class that may wait to be written."""

BURST: Final = 100.0
RATE: Final = 10.0  # a second
_MOST_EVENTS: Final = 512  # names: they are written in the code, but nothing here depends on that
_REST: Final = ""


class Throttle:
    """Who tells how often an event may still be told."""

    def __init__(self, *, burst: float = BURST, rate: float = RATE) -> None:
        self._burst = burst
        self._rate = rate
        self._buckets: dict[str, TokenBucket] = {}

    def admits(self, event: str, now: float) -> bool:
        """Whether it may be told now; beyond `_MOST_EVENTS` names the new ones share one allowance."""
        bucket = self._buckets.get(event)
        if bucket is None:
            if len(self._buckets) >= _MOST_EVENTS:
                event = _REST
            bucket = self._buckets.setdefault(event, TokenBucket(self._burst, self._rate, now))
        return bucket.take(now)


class Room:
    """The bytes that wait, by class."""

    def __init__(self, shares: Mapping[str, int] = SHARES) -> None:
        self._shares = dict(shares)
        self._held = dict.fromkeys(shares, 0)

    @property
    def held(self) -> Mapping[str, int]:
        """Bytes that wait, by class."""
        return self._held

    def take(self, kind: str, size: int) -> bool:
        """Whether a line of so many bytes may wait; then its place is taken."""
        if self._held[kind] + size > self._shares[kind]:
            return False
        self._held[kind] += size
        return True

    def give(self, kind: str, size: int) -> None:
        """It waits no longer."""
        self._held[kind] -= size
