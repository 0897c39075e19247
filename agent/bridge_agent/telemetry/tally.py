"""What became of the requests that came in here: by route and backend, which rollouts are judged by, and by
model, which people watch.

A request counts for the backend that was chosen for it. It counts as an error there when it came to
nothing before its first byte, or when that backend failed and only another attempt saved it: a
canary must not look healthy because its failures are made good elsewhere. It also does when nobody was
left to serve it: a canary that has everything and whose instances are gone is the worst there is.
Requests that the client gave up or that are at fault themselves (4xx), that were refused for want of
room, or that came over a hop (their entry agent counts them) do not count.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from bridge_agent.gateway.config import ListenerKind, Outcome, RequestRecord
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.health_rules import Failure
from bridge_core.counts import Counter, Counts

# Tuples: an enum's member hashes itself in Python, and this is asked for every request.
_UNCOUNTED: Final = (Outcome.CANCELLED, Outcome.REFUSED)
_BROKEN: Final = (Outcome.BROKEN, Outcome.ENGINE_ERROR)
MOST_MODELS: Final = 256
OTHER: Final = "(other)"  # no name of a model


class BackendTally:
    """Counts since the agent began, by route and backend; one task feeds it."""

    def __init__(self) -> None:
        self._counters: defaultdict[tuple[str, str], Counter] = defaultdict(Counter)

    @property
    def counts(self) -> dict[tuple[str, str], Counts]:
        """By route and backend."""
        return {key: counter.counts for key, counter in self._counters.items()}

    def take(self, record: RequestRecord) -> None:
        """A request is over."""
        decision = record.decision
        if decision is None or not decision.route or not decision.backend:
            return
        if _counts(record, decision):
            _count(self._counters[decision.route, decision.backend], record)


class ModelTally:
    """Counts since the agent began, by model: `MOST_MODELS` of them, the others together as `OTHER`."""

    def __init__(self) -> None:
        self._counters: defaultdict[str, Counter] = defaultdict(Counter)

    @property
    def counts(self) -> dict[str, Counts]:
        """By the model's canonical name."""
        return {key: counter.counts for key, counter in self._counters.items()}

    def take(self, record: RequestRecord) -> None:
        """A request is over."""
        decision = record.decision
        if decision is None or not decision.candidates or not _counts(record, decision):
            return  # only what some instance has is a model: other names are anybody's invention
        name = decision.model
        if name not in self._counters and len(self._counters) >= MOST_MODELS:
            name = OTHER
        _count(self._counters[name], record)


def _counts(record: RequestRecord, decision: Decision) -> bool:
    if record.caller.listener is ListenerKind.PEER:
        return False
    nobody = record.outcome is Outcome.REFUSED and not decision.candidates
    return nobody or not (record.outcome in _UNCOUNTED or 400 <= record.status < 500)


def _count(counter: Counter, record: RequestRecord) -> None:
    served = record.head > 0 and record.status < 500 and record.outcome is not Outcome.FAILED
    if not served or (record.failed and any(one.failure is not Failure.REFUSED for one in record.failed)):
        counter.failed()
        return
    counter.answered(
        record.head - record.began,
        tokens=record.tokens,
        generating_s=record.ended - record.head if record.tokens else 0.0,
        broken=record.outcome in _BROKEN,
    )
