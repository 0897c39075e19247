"""Tokens that come back with time: pure."""

from __future__ import annotations


class TokenBucket:
    """So many tokens at once, and so many a second from then on; `now` is monotonic seconds."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = self._left = burst
        self._rate = rate
        self._at = now

    def has(self, now: float, tokens: float = 1.0) -> bool:
        """Whether so many are there."""
        self._fill(now)
        return self._left >= tokens

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Whether so many are there; then they are taken."""
        if not self.has(now, tokens):
            return False
        self._left -= tokens
        return True

    def full(self, now: float) -> bool:
        """Whether it is as good as a new one."""
        return self.has(now, self._burst)

    def _fill(self, now: float) -> None:
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)
