"""Spans that wait to be sent: bounded, filled by one thread and emptied by another."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final

from bridge_agent.tracing.delivery_rules import Drop

_MOST_BYTES: Final = 8 << 20


class SpanQueue:
    """See the module. What has no room is dropped and counted: nobody ever waits.

    Args:
        most_bytes: Of all that wait.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._spans: deque[bytes] = deque()
        self._held = 0
        self._sent = 0
        self._dropped: Counter[Drop] = Counter()
        self._filled: Callable[[], None] = lambda: None

    def on_filled(self, told: Callable[[], None]) -> None:
        """Calls `told`, in the thread that puts, when something waits where nothing did."""
        self._filled = told

    @property
    def waiting(self) -> int:
        """Spans that wait."""
        return len(self._spans)

    @property
    def sent(self) -> int:
        """Spans that a collector took."""
        return self._sent

    @property
    def dropped(self) -> Mapping[Drop, int]:
        """Spans that came to nothing, by why."""
        with self._lock:
            return dict(self._dropped)

    def put(self, span: bytes) -> None:
        """Has a span wait, as JSON."""
        with self._lock:
            if self._held + len(span) > self._most:
                self._dropped[Drop.QUEUE] += 1
                return
            self._held += len(span)
            self._spans.append(span)
            first = len(self._spans) == 1
        if first:
            self._filled()

    def take(self, most: int) -> list[bytes]:
        """The ones that have waited longest, so many at most."""
        with self._lock:
            found = [self._spans.popleft() for _ in range(min(most, len(self._spans)))]
            self._held -= sum(map(len, found))
        return found

    def note_sent(self, spans: int) -> None:
        """So many were taken."""
        with self._lock:
            self._sent += spans

    def note_dropped(self, why: Drop, spans: int = 1) -> None:
        """So many came to nothing."""
        with self._lock:
            self._dropped[why] += spans
