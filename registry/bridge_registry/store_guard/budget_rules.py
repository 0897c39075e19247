"""How much one node may ask for: what a faulty or hostile one can cost the others is bounded. Pure.

etcd keeps ten minutes of history, so what a node may write in that time has to be small against
etcd's quota: at 32 KiB/s some 19 MiB, beside the first burst.
"""

from __future__ import annotations

from typing import Final

REQUESTS_PER_S: Final = 20.0
REQUEST_BURST: Final = 100.0
BYTES_PER_S: Final = 32 * 1024.0
BYTE_BURST: Final = 4 * 1024 * 1024.0
AT_ONCE: Final = 16  # calls of one node, streams included


class NodeBudget:
    """Two token buckets and a count of running calls. `now` is monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._requests, self._bytes = REQUEST_BURST, BYTE_BURST
        self._filled = now
        self.running = 0

    def take(self, now: float, size: int) -> bool:
        """Whether a request of `size` bytes is within the budget; if so it is paid for."""
        self._fill(now)
        if self._requests < 1.0 or self._bytes < size:
            return False
        self._requests -= 1.0
        self._bytes -= size
        return True

    def idle(self, now: float) -> bool:
        """Whether it is as good as a new one, and can be forgotten."""
        self._fill(now)
        return not self.running and self._requests >= REQUEST_BURST and self._bytes >= BYTE_BURST

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled)
        self._filled = max(self._filled, now)
        self._requests = min(REQUEST_BURST, self._requests + passed * REQUESTS_PER_S)
        self._bytes = min(BYTE_BURST, self._bytes + passed * BYTES_PER_S)
