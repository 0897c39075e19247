"""What was used, by UTC day and node, as it is kept: pure.

Agents tell counts that grow from when they began. Of each node and day the last of them is kept, and what its
earlier agents had counted by their ends; so a report that comes twice, late, or at another registry adds
nothing, and what was reported once is not lost with the agent.

Rules:
1. Of one run of an agent the largest count stands.
2. When another run begins, what the last one counted is added to the `before` of the node's day.
3. Days are kept for KEPT_DAYS. Of a node and a day at most MAX_KEYS are kept apart; what comes beyond is
   counted as everybody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec

from bridge_core.bounds import Count, Name

KEPT_DAYS: Final = 40
MAX_KEYS: Final = 2000
OTHERS: Final = "(others)"
_AHEAD_DAYS: Final = 1
_BEHIND_DAYS: Final = 3


class Used(msgspec.Struct, frozen=True, array_like=True):
    """How much."""

    requests: Count = 0
    refused: Count = 0
    prompt_tokens: Count = 0
    output_tokens: Count = 0

    def plus(self, other: Used) -> Used:
        """Both together."""
        return Used(
            *map(sum, zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True))
        )

    def at_least(self, other: Used) -> Used:
        """The larger of each."""
        return Used(*map(max, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


class UsageKey(msgspec.Struct, frozen=True, array_like=True):
    """Whose, and of what."""

    principal: Name
    groups: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)]
    model: Name


class UsageEntry(msgspec.Struct, frozen=True, array_like=True):
    """One key's counts: of the agent's present run, and of those before it on that day."""

    key: UsageKey
    now: Used
    before: Used = Used()


class UsageRecord(msgspec.Struct, frozen=True):
    """One node's day, as it is stored."""

    began: Count
    entries: Annotated[tuple[UsageEntry, ...], msgspec.Meta(max_length=MAX_KEYS + 1)]


class DayUse(msgspec.Struct, frozen=True):
    """For admins: what somebody used of a model on a day, at all nodes."""

    day: int
    key: UsageKey
    used: Used


class _NodeDay:
    __slots__ = ("before", "began", "now")

    def __init__(self, began: int) -> None:
        self.began = began
        self.now: dict[UsageKey, Used] = {}
        self.before: dict[UsageKey, Used] = {}

    def run(self, began: int) -> None:
        if began != self.began:
            for key, used in self.now.items():
                self.before[key] = self.before.get(key, Used()).plus(used)
            self.began, self.now = began, {}

    def take(self, key: UsageKey, used: Used) -> None:
        if key not in self.now and key not in self.before and len(self.now) + len(self.before) >= MAX_KEYS:
            key = UsageKey(OTHERS, (), OTHERS)
        self.now[key] = self.now.get(key, Used()).at_least(used)

    def record(self) -> UsageRecord:
        keys = [*self.now, *(key for key in self.before if key not in self.now)]
        return UsageRecord(
            self.began,
            tuple(UsageEntry(key, self.now.get(key, Used()), self.before.get(key, Used())) for key in keys),
        )


class UsageDays:
    """See the module."""

    def __init__(self) -> None:
        self._days: dict[tuple[int, str], _NodeDay] = {}
        self.changed: set[tuple[int, str]] = set()

    def restore(self, day: int, node: str, record: UsageRecord) -> None:
        """What is stored of a node's day, where nothing else is known of it."""
        if (day, node) in self._days:
            return
        kept = self._days[day, node] = _NodeDay(record.began)
        for entry in record.entries:
            kept.now[entry.key] = entry.now
            if entry.before != Used():
                kept.before[entry.key] = entry.before

    def take(self, node: str, began: int, uses: Iterable[tuple[int, UsageKey, Used]], today: int) -> None:
        """What a node's agent, which began then, has counted: each with its day."""
        for day, key, used in uses:
            if not today - _BEHIND_DAYS <= day <= today + _AHEAD_DAYS:
                continue
            kept = self._days.setdefault((day, node), _NodeDay(began))
            kept.run(began)
            before = kept.now.get(key)
            if before is None or before.at_least(used) != before:
                kept.take(key, used)
                self.changed.add((day, node))

    def record(self, day: int, node: str) -> UsageRecord:
        """A node's day, to be stored."""
        return self._days[day, node].record()

    def over(self, today: int) -> Iterator[tuple[int, str]]:
        """Forgets the days that are kept no longer; which they were."""
        for day, node in [key for key in self._days if key[0] <= today - KEPT_DAYS]:
            del self._days[day, node]
            self.changed.discard((day, node))
            yield day, node

    def uses(
        self, *, principal: str = "", group: str = "", model: str = "", days: tuple[int, int]
    ) -> list[DayUse]:
        """What was used on these days, both included, of all nodes together; empty texts: by anybody."""
        found: dict[tuple[int, UsageKey], Used] = {}
        for (day, _), kept in self._days.items():
            if days[0] <= day <= days[1]:
                for key, used in (*kept.now.items(), *kept.before.items()):
                    if _fits(key, principal, group, model):
                        found[day, key] = found.get((day, key), Used()).plus(used)
        return [DayUse(day, key, used) for (day, key), used in sorted(found.items(), key=_order)]


def _fits(key: UsageKey, principal: str, group: str, model: str) -> bool:
    named = not principal or principal in (key.principal, key.principal.rpartition("/")[2])
    return named and (not group or group in key.groups) and (not model or key.model == model)


def _order(item: tuple[tuple[int, UsageKey], Used]) -> tuple[int, str, str]:
    (day, key), _ = item
    return day, key.principal, key.model
