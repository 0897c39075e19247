"""The order in which instances are asked, one function a strategy.

Rules:
1. Each takes candidates that may all serve the request and returns whom to ask, in order; the
   first is the choice, the others are for when it fails.
2. An instance's share is its capacity: configured weight times slots, less while it starts slowly.
3. Work is what this agent has at an instance and what its owner last said of the others'.
4. Those that fall together with the first (one MPS server's engines) come after all others: when it
   failed, they most likely did, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from bridge_agent.routing.view import Target

MAX_CANDIDATES: Final = 4
TWO_CHOICES_ABOVE: Final = 8  # beyond that, comparing everybody costs more than it gains
_SLOWEST: Final = 0.1
_LOOKED_AT: Final = 64  # for one that has the model in memory
_WORTH_WAITING: Final = 4  # slots' worth of work that is sooner done than a model is loaded

Work = Mapping[str, int]


def ramp(age_s: float, window_s: float) -> float:
    """The share of its capacity that an instance gets so long after it came (back)."""
    if age_s >= window_s:
        return 1.0
    return max(_SLOWEST, age_s / window_s)


class Turns:
    """Smooth weighted round robin: where each rotation stands.

    Every pick raises each candidate by its share and lowers the chosen one by the sum of shares, so
    that a heavy candidate's turns are spread out instead of coming in a row.
    """

    def __init__(self) -> None:
        self._standing: dict[str, dict[str, float]] = {}

    def order(self, rotation: str, shares: Mapping[str, float]) -> list[str]:
        """The candidates for one request, first the one whose turn it is."""
        standing, total = step(self._standing.get(rotation, {}), shares)
        ranked = sorted(standing, key=lambda id_: (-standing[id_], id_))
        if ranked:
            standing[ranked[0]] -= total
        self._standing[rotation] = standing
        return ranked


def step(standing: Mapping[str, float], shares: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """The standings raised by the shares, and the sum of these; who is no candidate is forgotten."""
    return {id_: standing.get(id_, 0.0) + share for id_, share in shares.items()}, sum(shares.values())


def round_robin(
    targets: Sequence[Target], shares: Mapping[str, float], turns: Turns, rotation: str
) -> list[Target]:
    """Each in its turn, in proportion to its share."""
    by_id = {target.id: target for target in targets}
    return apart([by_id[id_] for id_ in turns.order(rotation, shares)])[:MAX_CANDIDATES]


def least_request(
    targets: Sequence[Target], shares: Mapping[str, float], work: Work, draw: int
) -> list[Target]:
    """Those with the least work for their share first; `draw`, any number, breaks ties.

    With many candidates only two of them, drawn, are compared: nearly as even, at a constant cost,
    and agents that decide at the same moment do not all run to the same idle one.
    """
    many = len(targets) > TWO_CHOICES_ABOVE
    if many:
        drawn = [targets[at] for at in _positions(len(targets), draw)]
        return apart([*sorted(drawn[:2], key=lambda one: _pressure(one, shares, work)), *drawn[2:]])
    return apart(_ranked(targets, lambda one: _pressure(one, shares, work), draw))[:MAX_CANDIDATES]


def residency(
    targets: Sequence[Target], model: str, shares: Mapping[str, float], work: Work, draw: int
) -> list[Target]:
    """Who has the model in memory and a slot free, then in memory, then on disk only, warm before cold.

    One with so much work that loading the model elsewhere is sooner done comes after idle others.
    """

    def rank(one: Target) -> tuple[int, bool, float]:
        tier = residency_tier(one, model, work)
        return tier, tier > 1 and model not in one.warm, _pressure(one, shares, work)

    ranked = _ranked(targets, rank, draw)
    return apart(ranked)[:MAX_CANDIDATES]


def apart(order: list[Target]) -> list[Target]:
    """Rule 4; otherwise the order stays."""
    domain = order[0].failure_domain if order else ""
    if not domain:
        return order
    first, *others = order
    return [first, *sorted(others, key=lambda one: one.failure_domain == domain)]


def residency_tier(target: Target, model: str, work: Work) -> int:
    """0: in memory and a slot free; 1: in memory; 2: on disk, idle; 3: on disk; 4: not worth the wait."""
    busy = work.get(target.id, 0)
    if model in target.loaded:
        if busy < target.slots:
            return 0
        return 1 if busy < _WORTH_WAITING * target.slots else 4
    return 2 if busy < target.slots else 3


def ring_hash(
    clockwise: Iterable[Target], model: str, shares: Mapping[str, float], work: Work, room: float | None
) -> tuple[list[Target], list[Target]]:
    """The ring's order, split into those within their bounded share of the work and those over it.

    One with a free slot is within it: a cache that fits is worth more than evenness among the idle. It comes
    before those that are full, within their share or not: only for what is known to be cached is it worth
    waiting (`outlook_rules`). One that has yet to load the model has nothing cached of anybody, so who has it
    loaded comes before it, and who has it in the page cache before who has it on the disk.
    For that the ring is followed past the first four, to the 64th at most: some tens of microseconds
    where nobody has it loaded yet, in place of the second that loading it once more takes.
    `room` is the work allowed per unit of share; None: everybody is idle. `shares` need only hold
    those whose share differs from their capacity.
    """
    under: list[Target] = []
    full: list[Target] = []
    over: list[Target] = []
    for target in clockwise:
        busy = work.get(target.id, 0)
        if room is not None and busy >= target.slots:
            share = shares.get(target.id, target.capacity)
            (over if busy >= math.ceil(room * share) else full).append(target)
            if len(full) >= _LOOKED_AT:  # nobody is free, most likely
                break
            continue
        under.append(target)
        domain = under[0].failure_domain
        # Past its neighbours in the domain the search goes on until there is one of another.
        enough = len(under) >= MAX_CANDIDATES and (not domain or target.failure_domain != domain)
        # Likewise until there is one that has the model in memory.
        if enough and (model in under[0].loaded or model in target.loaded or len(under) >= _LOOKED_AT):
            break
    under += full
    if under and model not in under[0].loaded:
        under.sort(key=lambda one: (model not in one.loaded, model not in one.warm))
    return under, over


def _ranked(targets: Sequence[Target], rank: Callable[[Target], Any], draw: int) -> list[Target]:
    """By rank; of those that are equally good each is first equally often.

    Beginning anywhere alone would not do that: who follows one that ranks lower would be first for it, too.
    """
    if not targets:
        return []
    turn, start = divmod(draw, len(targets))
    rotated = [(rank(one), one) for one in (*targets[start:], *targets[:start])]
    rotated.sort(key=lambda pair: pair[0])
    best = rotated[0][0]
    order = [one for _, one in rotated]
    equal = sum(1 for found, _ in rotated if found == best)
    turn %= equal
    return [*order[turn:equal], *order[:turn], *order[equal:]]


def _pressure(target: Target, shares: Mapping[str, float], work: Work) -> float:
    return (work.get(target.id, 0) + 1) / max(shares.get(target.id, target.capacity), 1e-9)


def _positions(size: int, draw: int) -> Iterator[int]:
    """Distinct positions out of one number."""
    taken: list[int] = []
    for left in range(size, size - MAX_CANDIDATES, -1):
        draw, at = divmod(draw, left)
        for other in sorted(taken):
            at += at >= other
        taken.append(at)
        yield at
