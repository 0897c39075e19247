"""What another configuration would have done with requests that were: pure.

Rules:
1. Past requests are decided again in the order of their arrival, by the very `choose` that serves.
2. The work at each instance is simulated: a request is there for as long as it really took.
3. Instances, models and health are those of the given index; nobody is ejected.
4. A request without a key (its model had one place to go) counts as a conversation of its own.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

import msgspec

from bridge_agent.routing.choose import Load, choose
from bridge_agent.routing.strategies import Turns
from bridge_agent.routing.view import Index


class Past(msgspec.Struct, frozen=True):
    """A request that was.

    Attributes:
        at: When it arrived, in seconds.
        asked: Canonical name of the model or route that it asked for.
        key: What its choice hung on; empty: nothing.
        instance: Where it went; empty: nowhere.
        took_s: How long it took.
        request_id: Tells it from others.
    """

    at: float
    asked: str
    key: bytes
    instance: str
    took_s: float
    request_id: str = ""


class Placed(msgspec.Struct, frozen=True):
    """Where a request would have gone.

    Attributes:
        instance: Empty: nobody could have served it.
        backend: Which of its route's backends.
        behind: Requests beyond the instance's slots that it would have found there.
    """

    instance: str
    backend: str
    behind: int


class ReplayTally(msgspec.Struct):
    """What became of the requests for one name."""

    requests: int = 0
    by_instance: Counter[str] = msgspec.field(default_factory=Counter)
    by_backend: Counter[str] = msgspec.field(default_factory=Counter)
    unserved: int = 0
    queued: int = 0


def replay(index: Index, past: Iterable[Past]) -> list[Placed]:
    """Where each request would have gone under `index`."""
    work: Counter[str] = Counter()
    running: list[tuple[float, str]] = []
    turns, placed = Turns(), []
    for number, one in enumerate(past):
        while running and running[0][0] <= one.at:
            work[heapq.heappop(running)[1]] -= 1
        load = Load(
            {id_: count for id_, count in work.items() if count}, turns=turns, draw=number * 2654435761
        )
        decision = choose(index, one.asked, one.key or one.request_id.encode(), load)
        if not decision.candidates:
            placed.append(Placed("", decision.backend, 0))
            continue
        target = decision.candidates[0]
        placed.append(Placed(target.id, decision.backend, max(0, work[target.id] + 1 - target.slots)))
        work[target.id] += 1
        heapq.heappush(running, (one.at + one.took_s, target.id))
    return placed


def tally(past: Iterable[Past], placed: Iterable[Placed]) -> dict[str, ReplayTally]:
    """The outcome by name asked for."""
    found: dict[str, ReplayTally] = {}
    for one, where in zip(past, placed, strict=True):
        entry = found.setdefault(one.asked, ReplayTally())
        entry.requests += 1
        if where.backend:
            entry.by_backend[where.backend] += 1
        if where.instance:
            entry.by_instance[where.instance] += 1
            entry.queued += where.behind > 0
        else:
            entry.unserved += 1
    return found
