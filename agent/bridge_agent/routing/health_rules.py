"""Passive health: who failed lately is skipped for a while, longer each time.

Rules:
1. A failure to connect ejects at once; other failures eject at the third in a row.
2. The n-th ejection lasts base * 2^(n-1), up to a maximum; a success ends the run of failures,
   and, once the subject has served for as long as its last ejection lasted, the growth too.
3. After an ejection the subject is eligible again; one more failure ejects it again at once.
4. Panic: `candidates` never leaves nothing. When everybody is ejected, everybody is eligible.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec


class Failure(Enum):
    """How an attempt failed."""

    CONNECT = "connect"  # nothing was sent
    CUT = "cut"  # the connection ended before the answer did
    TIMEOUT = "timeout"
    REFUSED = "refused"  # it said that it takes no more work: no fault of its health
    SERVER_ERROR = "server_error"  # it answered 5xx


class HealthPolicy(msgspec.Struct, frozen=True):
    """How fast a subject is skipped, and for how long (seconds)."""

    consecutive: int = 3
    base_s: float = 1.0
    longest_s: float = 30.0


class _Record(msgspec.Struct):
    failures: int = 0
    ejections: int = 0
    until: float = 0.0
    lasted: float = 0.0


class HealthBook:
    """The failures of subjects (instances, nodes), by id. Only those that failed are kept."""

    def __init__(self, policy: HealthPolicy | None = None) -> None:
        self._policy = policy or HealthPolicy()
        self._records: dict[str, _Record] = {}

    def ejected(self, subject: str, now: float) -> bool:
        """Whether the subject is to be skipped at `now` (monotonic seconds)."""
        record = self._records.get(subject)
        return record is not None and now < record.until

    def failed(self, subject: str, failure: Failure, now: float) -> bool:
        """Notes a failure; True when it ejects the subject."""
        if failure is Failure.REFUSED:
            return False
        record = self._records.setdefault(subject, _Record())
        record.failures += 1
        proven = record.ejections > 0 or failure is Failure.CONNECT
        if now < record.until or (not proven and record.failures < self._policy.consecutive):
            return False
        record.ejections += 1
        record.lasted = min(self._policy.longest_s, self._policy.base_s * 2.0 ** (record.ejections - 1))
        record.until = now + record.lasted
        return True

    def succeeded(self, subject: str, now: float) -> None:
        """Notes an answer."""
        record = self._records.get(subject)
        if record is None:
            return
        record.failures = 0
        if now >= record.until + record.lasted:
            del self._records[subject]

    def forget(self, known: Iterable[str]) -> None:
        """Drops the records of all but these subjects."""
        kept = set(known)
        self._records = {name: record for name, record in self._records.items() if name in kept}

    def ejections(self, now: float) -> dict[str, float]:
        """Who is skipped at `now`, and for how much longer."""
        return {name: record.until - now for name, record in self._records.items() if now < record.until}

    @property
    def quiet(self) -> bool:
        """Nobody has failed: nothing needs to be looked up."""
        return not self._records
