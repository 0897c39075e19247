"""When a task that failed is run again, and for how long that is of concern. Pure.

Rules:
1. A fault is followed by a pause; each further one in a row by one up to twice as long, never longer
   than `MOST_S`.
2. A run that lasted `STEADY_S` ends the row: the next fault is a first one again.
3. A fault is of concern for `CONCERN_S`, whether the task runs again or not.
"""

from __future__ import annotations

from typing import Final

from bridge_core.backoff import Backoff, Rng
from bridge_core.quantities import say_span

FIRST_S: Final = 0.5
MOST_S: Final = 60.0
STEADY_S: Final = 60.0
CONCERN_S: Final = 600.0


class Restarts:
    """The faults of one task; times are monotonic seconds.

    Attributes:
        faults: How many there were.
    """

    def __init__(self, rng: Rng) -> None:
        self._backoff = Backoff(rng, first_s=FIRST_S, most_s=MOST_S)
        self._began = 0.0
        self._failed_at = 0.0
        self._reason = ""
        self.faults = 0

    def began(self, now: float) -> None:
        """It runs."""
        self._began = now

    def failed(self, reason: str, now: float) -> float:
        """It failed; returns for how many seconds it is to rest before it is run again."""
        if now - self._began >= STEADY_S:
            self._backoff.reset()
        self.faults += 1
        self._failed_at, self._reason = now, reason
        return self._backoff.next_s()

    def concern(self, now: float) -> str:
        """What an operator is to know; empty where there is nothing."""
        if not self.faults or now - self._failed_at > CONCERN_S:
            return ""
        times = "once" if self.faults == 1 else f"{self.faults} times"
        return f"failed {times}, last {say_span(now - self._failed_at)} ago: {self._reason}"
