"""Which spans are kept, once their requests are over. Pure.

Rules:
1. What failed, what a try failed of and what was slow is kept, whatever was decided before; of each so many a
   second at most. So the node that failed and the one that made it good are seen together.
2. Of the others those are kept whose trace was picked where it began: by its id (`context_rules.picked`), or
   because a client had marked it. Every node after that one is told, so that all keep the same.
3. Slow is a request whose answer began late: how long a stream goes on is its client's wish.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from bridge_agent.gateway.config import Outcome, RequestRecord
from bridge_core.token_bucket import TokenBucket

_BURST_S: Final = 2.0  # of spans at once, in seconds of their rate
_FAILURES: Final = frozenset({Outcome.FAILED, Outcome.BROKEN, Outcome.ENGINE_ERROR})


class Kept(Enum):
    """Why a span is kept."""

    FAILED = "failed"
    RETRIED = "retried"
    SLOW = "slow"
    SAMPLED = "sampled"


def is_failure(record: RequestRecord) -> bool:
    """Whether a request failed on this side: a client's own fault is none of ours."""
    return record.outcome in _FAILURES or record.status >= 500


def kept_for(record: RequestRecord, slow_s: float) -> Kept | None:
    """Why the span of a request that is over is kept; None: it is not.

    Args:
        record: The request's; one without a trace has no span.
        slow_s: When an answer begins late.
    """
    if record.trace is None:
        return None
    if is_failure(record):
        return Kept.FAILED
    if record.failed:
        return Kept.RETRIED
    if (record.head or record.ended) - record.began >= slow_s:
        return Kept.SLOW
    return Kept.SAMPLED if record.trace.sampled else None


def bucket(per_s: float, now: float) -> TokenBucket:
    """Lets so many spans a second pass, of which some may come at once; of a rate of 0 none."""
    return TokenBucket(max(1.0, per_s * _BURST_S) if per_s else 0.0, per_s, now)


class Rates:
    """How many spans of each kind may be kept.

    Args:
        per_s: Of each kind, a second.
        now: Monotonic seconds.
    """

    def __init__(self, per_s: float, now: float) -> None:
        self._buckets = {kind: bucket(per_s, now) for kind in Kept}

    def take(self, kind: Kept, now: float) -> bool:
        """Whether one more may be."""
        return self._buckets[kind].take(now)
