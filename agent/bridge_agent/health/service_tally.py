"""What became of requests at this node's own instances, whoever they came in by.

Beside the tally by route and backend, which rollouts compare: there the entry node counts, here the owner
does, as only it knows how long a request waited for a slot and how long the engine then took.
"""

from __future__ import annotations

from collections import Counter as Counter_
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Final

from bridge_agent.gateway.config import Outcome, RequestRecord
from bridge_agent.routing.health_rules import Failure
from bridge_core.counts import Counter, Counts

LATELY_S: Final = 30.0
_MARKS: Final = 128
# Tuples: an enum's member hashes itself in Python, and this is asked for every request.
_UNCOUNTED: Final = (Outcome.CANCELLED, Outcome.REFUSED)
_BROKEN: Final = (Outcome.BROKEN, Outcome.ENGINE_ERROR)


class ServiceTally:
    """Counts since the agent began; one task feeds it.

    Attributes:
        signs: Grows with whatever an instance gave from itself: bytes of a stream, or an answer's end.

    Args:
        own: Whether an instance is this node's.
        now: Monotonic seconds.
    """

    def __init__(self, own: Callable[[str], bool], now: Callable[[], float]) -> None:
        self._own = own
        self._now = now
        self.signs: Counter_[str] = Counter_()
        self._counters: defaultdict[str, Counter] = defaultdict(Counter)
        self._marks: dict[str, deque[tuple[float, Counts]]] = {}

    @property
    def counts(self) -> Mapping[str, Counts]:
        """By instance."""
        return {instance: counter.counts for instance, counter in self._counters.items()}

    def progressed(self, instance: str) -> None:
        """Bytes of an answer came from it."""
        self.signs[instance] += 1

    def take(self, record: RequestRecord) -> None:
        """A request is over."""
        if record.instance and record.head > 0 and record.outcome is not Outcome.CANCELLED:
            self.signs[record.instance] += 1
        for attempt in record.failed:
            if attempt.failure is not Failure.REFUSED and self._own(attempt.instance):
                self._counters[attempt.instance].failed()
        if not record.instance or not self._own(record.instance) or record.outcome in _UNCOUNTED:
            return
        if record.head <= 0 or record.outcome is Outcome.FAILED or 400 <= record.status < 500:
            return  # an attempt that failed was counted above; one that the client is to blame for, never
        if record.status >= 500:
            self._counters[record.instance].failed()
            return
        self._counters[record.instance].answered(
            max(0.0, record.head - record.began - record.waited),
            tokens=record.tokens,
            generating_s=record.ended - record.head if record.tokens else 0.0,
            broken=record.outcome in _BROKEN,
        )

    def lately(self, instance: str) -> Counts:
        """What it did in the last `LATELY_S`; call it about twice a second."""
        now, counter = self._now(), self._counters.get(instance)
        if counter is None:
            return Counts()
        marks = self._marks.setdefault(instance, deque([(now - LATELY_S, Counts())], maxlen=_MARKS))
        while len(marks) > 1 and marks[1][0] <= now - LATELY_S:
            marks.popleft()
        counts = counter.counts
        marks.append((now, counts))
        return counts.since(marks[0][1])
