"""Makes the spans of requests that were over a moment ago. Lives in the thread that writes the audit."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import msgspec

from bridge_agent.gateway.config import RequestRecord
from bridge_agent.tracing.delivery_rules import Drop
from bridge_agent.tracing.sampling_rules import Rates, kept_for
from bridge_agent.tracing.span_queue import SpanQueue
from bridge_agent.tracing.span_rules import span_of
from bridge_core.audit.entries import AuditRecord


class SpanMaker:
    """See the module: of most requests it makes nothing.

    Args:
        queue: Where spans wait.
        slow_s: When an answer begins late.
        most_per_s: Spans of each kind, a second.
        now: Monotonic seconds.
    """

    def __init__(
        self, queue: SpanQueue, *, slow_s: float, most_per_s: float, now: Callable[[], float] = monotonic
    ) -> None:
        self._queue = queue
        self._slow_s = slow_s
        self._now = now
        self._rates = Rates(most_per_s, now())

    def take(self, record: RequestRecord, audited: AuditRecord) -> None:
        """A request is over. Never raises: the audit's thread has more to do."""
        kept = kept_for(record, self._slow_s)
        if kept is None or record.trace is None:
            return
        if not self._rates.take(kept, self._now()):
            self._queue.note_dropped(Drop.RATE)
            return
        try:
            span = msgspec.json.encode(span_of(record, audited, record.trace, kept))
        except (ValueError, TypeError):  # a lone surrogate, in a name from a file system
            self._queue.note_dropped(Drop.UNREADABLE)
            return
        self._queue.put(span)
