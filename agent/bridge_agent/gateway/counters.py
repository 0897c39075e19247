"""Plain counters of the gateway; whoever exports metrics reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Sequence
from functools import partial
from operator import attrgetter
from typing import Final

from bridge_agent.gateway.config import RequestRecord

_TOGETHER: Final = 32  # requests that are over are counted so many at a time, or when somebody looks

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

# `_value_` is what `value` gives, without the descriptor's Python call.
_REQUEST: Final = attrgetter("path", "status", "caller.listener._value_")
_OUTCOME: Final = attrgetter("outcome._value_")


class Histogram:
    """Counts by upper bound; the last count is of what lies above all bounds.

    Attributes:
        newest: Of each bucket that has one the last value, and the request that it is of: for who asks which
            request was as slow as that.
    """

    __slots__ = ("bounds", "counts", "newest", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.newest: dict[int, tuple[float, RequestRecord]] = {}

    def observe(self, values: Sequence[float], records: Sequence[RequestRecord]) -> None:
        """Counts the values of these requests."""
        places = list(map(partial(bisect_left, self.bounds), values))
        for at, count in Counter(places).items():
            self.counts[at] += count
        self.total += sum(values)
        self.newest.update(zip(places, zip(values, records, strict=True), strict=True))


class EndedRequests:
    """What is counted of requests that are over.

    Attributes:
        requests: By (route path, status, listener).
        outcomes: By `Outcome` value.
        shadowed: Those that a policy in shadow would have refused, by policy.
        duration: Seconds from request to end of answer.
        first_byte: Seconds from request to the head of the answer.
        overhead: Seconds that the gateway itself added.
        wait: Seconds that requests waited for a slot, of those that had to.
        load_wait: The same for their model to be loaded.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str]] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.shadowed: Counter[str] = Counter()
        self.duration = Histogram(SECONDS)
        self.first_byte = Histogram(SECONDS)
        self.overhead = Histogram(OVERHEAD_S)
        self.wait = Histogram(SECONDS)
        self.load_wait = Histogram(SECONDS)

    def take(self, records: Sequence[RequestRecord]) -> None:
        """These are over."""
        self.requests.update(map(_REQUEST, records))
        self.outcomes.update(map(_OUTCOME, records))
        self.duration.observe([one.ended - one.began for one in records], records)
        answered = [one for one in records if one.head]
        self.first_byte.observe([one.head - one.began for one in answered], answered)
        self.overhead.observe([one.sent - one.began - one.waited for one in answered], answered)
        waited = [one for one in records if one.waited]
        if waited:
            queued = [one for one in waited if one.waited > one.loading]
            self.wait.observe([one.waited - one.loading for one in queued], queued)
            loading = [one for one in waited if one.loading]
            self.load_wait.observe([one.loading for one in loading], loading)
        for shadowed in [one.shadowed for one in records if one.shadowed]:
            self.shadowed.update(shadowed)

    def turned_away(self, record: RequestRecord) -> None:
        """This one was nobody's who may call."""
        if record.status:  # else it was never a request
            self.requests[record.path, record.status, record.caller.listener.value] += 1
        self.outcomes[record.outcome.value] += 1


class GatewayCounters:
    """What the gateway did since it started.

    Attributes:
        attempts_failed: By (instance, failure).
        retries: Attempts after the first.
        hedges: Second attempts beside a slow first one.
        hedges_won: Of them, those that answered first.
        batches: Requests to engines for the embeddings of several clients.
        batched: Requests that went with them.
        batches_failed: Batches whose requests were asked for one by one after all.
        turned_away: Requests of nobody who may call, by reason.
        denied: Requests refused by policies or the defaults beside them, by action.
        refused: Requests refused for want of room or while draining, by reason.
        streams_broken: In-stream errors told to clients, by framing.
        streams_resumed: Deaths of streams that were continued elsewhere, by reason.
        streams_not_resumed: Deaths of streams that could not be, by reason.
        by_backend: Requests that came in here by a route, by (route, backend, status).
        in_flight: Requests in flight now, by instance id.
        held_up: Those of them that have a slot and whose client does not read, so that nothing is read from
            the instance either.
    """

    def __init__(self) -> None:
        self.attempts_failed: Counter[tuple[str, str]] = Counter()
        self.retries = 0
        self.hedges = 0
        self.hedges_won = 0
        self.batches = 0
        self.batched = 0
        self.batches_failed = 0
        self.turned_away: Counter[str] = Counter()
        self.denied: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.streams_broken: Counter[str] = Counter()
        self.streams_resumed: Counter[str] = Counter()
        self.streams_not_resumed: Counter[str] = Counter()
        self.by_backend: Counter[tuple[str, str, int]] = Counter()
        self.in_flight: dict[str, int] = {}
        self.held_up: dict[str, int] = {}
        self._ended = EndedRequests()
        self._uncounted: list[RequestRecord] = []

    @property
    def ended(self) -> EndedRequests:
        """Counts of the requests that are over, all of them."""
        if self._uncounted:
            records, self._uncounted = self._uncounted, []
            self._ended.take(records)
        return self._ended

    def settled(self, record: RequestRecord) -> None:
        """A request is over."""
        uncounted = self._uncounted
        uncounted.append(record)
        if len(uncounted) >= _TOGETHER:
            self._uncounted = []
            self._ended.take(uncounted)

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

    def hold_up(self, instance: str, more: int) -> None:
        """So many more of its requests, or fewer, have a client that does not read."""
        left = self.held_up.get(instance, 0) + more
        if left:
            self.held_up[instance] = left
        else:
            self.held_up.pop(instance, None)
