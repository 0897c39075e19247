"""Whether shared storage is asked at this moment. Pure; times are monotonic seconds.

Rules:
1. It is asked while its last answer was one, whatever it said.
2. After each failure it rests, twice as long as after the one before, `FIRST_REST_S` to `MOST_REST_S`:
   who waits for a model goes on to the next source at once, and not after one more time-out.
3. After a rest one attempt goes ahead; until it is over the others are told to go elsewhere. An attempt
   that nobody reports on is over after `TRIAL_S`.
"""

from __future__ import annotations

from typing import Final

FIRST_REST_S: Final = 5.0
MOST_REST_S: Final = 300.0
TRIAL_S: Final = 600.0
_MOST_WORDS: Final = 256


class Standing:
    """What is known of the storage.

    Attributes:
        fault: Why it does not answer; empty: it does, as far as is known.
        since: Since when it has not answered.
        faults: How often it failed.
    """

    def __init__(self) -> None:
        self.fault = ""
        self.since = 0.0
        self.faults = 0
        self._in_a_row = 0
        self._rests_until = 0.0

    def asks(self, now: float) -> bool:
        """Whether it may be asked now (rules 1 to 3); of several who ask at the end of a rest, one may."""
        if not self.fault:
            return True
        if now < self._rests_until:
            return False
        self._rests_until = now + TRIAL_S
        return True

    def answered(self) -> None:
        """It did, with whatever."""
        self.fault = ""
        self._in_a_row = 0

    def failed(self, why: str, now: float) -> bool:
        """It did not, because of `why`; tells whether that is news."""
        news = not self.fault
        if news:
            self.since = now
        self.fault = why[:_MOST_WORDS]
        self.faults += 1
        rest = min(MOST_REST_S, FIRST_REST_S * 2.0 ** min(self._in_a_row, 16))
        self._in_a_row += 1
        self._rests_until = now + rest
        return news
