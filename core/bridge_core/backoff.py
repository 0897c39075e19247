"""How long to wait before trying again: exponential, capped, with full jitter."""

from __future__ import annotations

from typing import Protocol


class Rng(Protocol):
    """The part of `random.Random` that a back-off rolls."""

    def uniform(self, a: float, b: float) -> float:
        """A number between `a` and `b`."""


class Backoff:
    """Pauses that double from `first_s` to `most_s`, each between half of that and all of it.

    The jitter keeps many clients that lost the same server from returning in one instant; the
    lower half keeps an unlucky roll from retrying at once.
    """

    def __init__(self, rng: Rng, *, first_s: float, most_s: float) -> None:
        self._rng = rng
        self._first_s = first_s
        self._most_s = most_s
        self._attempts = 0

    def next_s(self) -> float:
        """The next pause in seconds."""
        # The exponent is bounded: 2.0**1024 overflows after a long outage.
        whole = min(self._most_s, self._first_s * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return self._rng.uniform(whole / 2, whole)

    def reset(self) -> None:
        """It worked: the next pause is the first again."""
        self._attempts = 0
