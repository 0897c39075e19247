"""Plain counters of the gateway; whoever exports metrics reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container
from typing import Final

# Typed, both: mypyc takes a tuple of floats alone for one that was never set.
SECONDS: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
)
OVERHEAD_S: Final[tuple[float, ...]] = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)


class Histogram:
    """Counts by upper bound; the last count is of what lies above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class GatewayCounters:
    """What the gateway did since it started.

    Attributes:
        requests: By (route path, status, listener).
        outcomes: By `Outcome` value.
        attempts_failed: By (instance, failure).
        retries: Attempts after the first.
        hedges: Second attempts beside a slow first one.
        hedges_won: Of them, those that answered first.
        batches: Requests to engines for the embeddings of several clients.
        batched: Requests that went with them.
        batches_failed: Batches whose requests were asked for one by one after all.
        turned_away: Requests of nobody who may call, by reason.
        denied: Requests refused by policies or the defaults beside them, by action.
        shadowed: Requests that a policy in shadow would have refused, by policy.
        refused: Requests refused for want of room or while draining, by reason.
        streams_broken: In-stream errors told to clients, by framing.
        streams_resumed: Deaths of streams that were continued elsewhere, by reason.
        streams_not_resumed: Deaths of streams that could not be, by reason.
        by_backend: Requests that came in here by a route, by (route, backend, status).
        in_flight: Requests in flight now, by instance id.
        duration: Seconds from request to end of answer.
        first_byte: Seconds from request to the head of the answer.
        overhead: Seconds that the gateway itself added.
        wait: Seconds that requests waited for a slot, of those that had to.
        load_wait: The same for their model to be loaded.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str]] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.attempts_failed: Counter[tuple[str, str]] = Counter()
        self.retries = 0
        self.hedges = 0
        self.hedges_won = 0
        self.batches = 0
        self.batched = 0
        self.batches_failed = 0
        self.turned_away: Counter[str] = Counter()
        self.denied: Counter[str] = Counter()
        self.shadowed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.streams_broken: Counter[str] = Counter()
        self.streams_resumed: Counter[str] = Counter()
        self.streams_not_resumed: Counter[str] = Counter()
        self.by_backend: Counter[tuple[str, str, int]] = Counter()
        self.in_flight: dict[str, int] = {}
        self.duration = Histogram(SECONDS)
        self.first_byte = Histogram(SECONDS)
        self.overhead = Histogram(OVERHEAD_S)
        self.wait = Histogram(SECONDS)
        self.load_wait = Histogram(SECONDS)

    def keep_routes(self, routes: Container[str]) -> None:
        """These routes are there: what was counted of others is dropped, so that nothing piles up."""
        gone = [key for key in self.by_backend if key[0] not in routes]
        for key in gone:
            del self.by_backend[key]

    def begin(self, instance: str) -> None:
        """A request went to this instance."""
        self.in_flight[instance] = self.in_flight.get(instance, 0) + 1

    def end(self, instance: str) -> None:
        """A request at this instance ended. Idle instances have no entry."""
        left = self.in_flight[instance] - 1
        if left:
            self.in_flight[instance] = left
        else:
            del self.in_flight[instance]
