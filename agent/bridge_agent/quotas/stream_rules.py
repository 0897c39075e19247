"""What an agent and the registry say to one another of quotas over one stream: pure.

Rules:
1. A stream's first report has everything that is not as it begins; later ones have what changed since.
2. A report says which grants were taken before it, so that the registry knows what it is about.
3. A lease counts from when the report was sent that the grants answer: never from later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bridge_agent.quotas.quota_rules import QuotaBook
from bridge_agent.quotas.usage_rules import UsageBook
from bridge_agent.quotas.uses import Use, UseKey
from bridge_core.quotas import Bucket, CellLimit, CellUse


class QuotaReport(msgspec.Struct, frozen=True):
    """See quota.proto."""

    sequence: int
    acknowledged: int
    cells: Sequence[CellUse]
    uses: Mapping[UseKey, Use]


class QuotaStream:
    """One stream, as the agent sees it.

    Args:
        book: The agent's buckets.
        usage: What was used.
    """

    def __init__(self, book: QuotaBook, usage: UsageBook) -> None:
        self._book = book
        self._usage = usage
        self._told: dict[Bucket, CellUse] = {}
        self._told_uses: dict[UseKey, Use] = {}
        self._sequence = 0
        self._taken = 0
        self._sent: dict[int, float] = {}

    def report(self, now: float, now_ms: int) -> QuotaReport:
        """What to say at this moment."""
        self._sequence += 1
        self._sent[self._sequence] = now
        cells = self._book.report(self._told, now, now_ms)
        uses = self._usage.news(self._told_uses, now_ms)
        self._told_uses = dict(self._usage.uses)
        return QuotaReport(self._sequence, self._taken, cells, uses)

    @property
    def answered(self) -> bool:
        """Something has been heard of the registry."""
        return self._taken > 0

    def take(self, sequence: int, answered: int, limits: Sequence[CellLimit], now_ms: int) -> None:
        """What the registry said."""
        self._taken = sequence
        sent = self._sent.get(answered)
        self._sent = {number: at for number, at in self._sent.items() if number >= answered}
        self._book.take(limits, sent=sent, now_ms=now_ms)
