"""Which models are kept in the page cache before anybody asks for them. Pure.

A cold load runs at the disk's speed, a warm one several times faster, so the files of the models that are
likely to be asked for next are read ahead, into memory that nobody else needs.

Rules:
1. A model is wanted for what was said of it, the surest first: an admin ordered it; an AutoscalePolicy wants
   it here; a rollout that goes on is about to send requests to it; a route sends its share to it; requests
   came for it lately (one an hour ago counts half as much as one now), or at this time on earlier days
   (`habit_rules`). What nobody said anything of is left.
2. They are taken in that order while they fit into the budget; one that does not fit does not stop smaller
   ones. A model that engines here have in memory takes its part of the budget and needs nothing.
3. The budget is a share of the memory that is free or could be, within the agent's own cgroup, or what the
   configuration says, if that is less; `RESERVE` stays untouched. An order alone may use all but that.
4. A model counts as warm from `WARM` of its bytes on, and no more below `COLD`: what is published must not
   flutter with every page that the kernel takes back.
5. What is remembered of requests is bounded.
6. The engines' own programs (`program_rules`) are read before the models, since every load reads them, too;
   they take `PROGRAMS` of the budget at most, and the models what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Snapshot

SHARE: Final = 0.5
RESERVE: Final = 512 << 20
PROGRAMS: Final = 0.5
WARM: Final = 0.9
COLD: Final = 0.7
HALF_LIFE_S: Final = 3600.0
ORDER_S: Final = 12 * 3600.0
MOST_ASKED: Final = 1024

_ORDERED, _HELD, _TRIED, _ROUTED, _ASKED = 5.0, 4.0, 3.0, 2.0, 1.0


class Blob(msgspec.Struct, frozen=True):
    """A file of a model: its digest's digits, and its bytes."""

    hex: str
    size: int


class Warmable(msgspec.Struct, frozen=True):
    """A model on this node's disk.

    Attributes:
        name: In canonical form.
        blobs: Its weights, projectors and adapters.
        loaded: An engine here has it in memory.
    """

    name: str
    blobs: tuple[Blob, ...]
    loaded: bool = False

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(blob.size for blob in self.blobs)


def budget(available: int, configured: int | None) -> int:
    """Bytes that predictions may fill (rule 3).

    Args:
        available: Bytes free, or that the kernel can make so, within the own cgroup.
        configured: What the node's configuration allows; None: it leaves that to us.
    """
    room = max(0, available - RESERVE)
    share = int(room * SHARE)
    return share if configured is None else min(room, configured)


def programs_part(spare: int) -> int:
    """Bytes of a budget that the engines' programs may fill (rule 6)."""
    return int(spare * PROGRAMS)


def fits(size: int, available: int) -> bool:
    """Whether an admin's order may bring in so many bytes."""
    return size <= max(0, available - RESERVE)


def wanted(
    models: Iterable[Warmable], scores: Mapping[str, float], room: int
) -> tuple[list[Warmable], list[Warmable]]:
    """The models to keep in the page cache, the surest first, and those that do not fit into `room` bytes."""
    likely = [one for one in models if scores.get(one.name, 0.0) > 0.0]
    likely.sort(key=lambda one: (-scores[one.name], one.size, one.name))
    taken: list[Warmable] = []
    left_out: list[Warmable] = []
    have: set[str] = set()
    for one in likely:
        more = sum(blob.size for blob in one.blobs if blob.hex not in have)
        if more > room:
            left_out.append(one)
            continue
        room -= more
        have.update(blob.hex for blob in one.blobs)
        taken.append(one)
    return taken, left_out


def is_warm(share: float, *, before: bool) -> bool:
    """Whether a model counts as warm with this share of its bytes in the page cache (rule 4)."""
    return share >= (COLD if before else WARM)


class Demand:
    """How often models were asked for lately: each request counts half as much after each half-life."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, float]] = {}

    def asked(self, model: str, now: float) -> None:
        """A request for the model of this canonical name."""
        counted = self.of(model, now) + 1.0
        self._counts.pop(model, None)
        if len(self._counts) >= MOST_ASKED:
            del self._counts[next(iter(self._counts))]
        self._counts[model] = counted, now

    def of(self, model: str, now: float) -> float:
        """How many requests that is worth now."""
        count, at = self._counts.get(model, (0.0, now))
        half_lives = max(0.0, now - at) / HALF_LIFE_S
        return count * math.exp2(-half_lives)


def likely(
    snapshot: Snapshot, instances: frozenset[str], demand: Mapping[str, float], ordered: Iterable[str]
) -> dict[str, float]:
    """How likely models are to be asked for at these instances, by canonical name (rule 1); 0 is left out.

    Within one reason the share decides: of a route's requests, or of the requests that came.
    """
    scores: dict[str, float] = {}

    def add(model: str, score: float) -> None:
        name = canonical_or_same(model)
        scores[name] = max(scores.get(name, 0.0), score)

    total = sum(demand.values())
    for model, count in demand.items():
        if count >= 0.01:  # what was asked once and six half-lives ago is past
            add(model, _ASKED * count / total)
    for route in snapshot.routes.values():
        sum_of = sum(backend.weight for backend in route.backends)
        for backend in route.backends:
            if backend.on_trial:
                add(backend.model, _TRIED)
            elif backend.weight and sum_of:
                add(backend.model, _ASKED + (_ROUTED - _ASKED) * backend.weight / sum_of)
        if route.fallback is not None and route.fallback not in snapshot.routes:
            add(route.fallback, _ASKED / 2)
    for held in snapshot.holders:
        if instances & {*held.active, *held.held}:
            add(held.model, _HELD)
    for model in ordered:
        add(model, _ORDERED)
    return scores
