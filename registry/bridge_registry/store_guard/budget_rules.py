"""How much one node may ask for: what a faulty or hostile one can cost the others is bounded. Pure.

etcd keeps ten minutes of history, so what a node may write in that time has to be small against
etcd's quota: at 32 KiB/s some 19 MiB, beside the first burst.
"""

from __future__ import annotations

from typing import Final

from bridge_core.token_bucket import TokenBucket

REQUESTS_PER_S: Final = 20.0
REQUEST_BURST: Final = 100.0
BYTES_PER_S: Final = 32 * 1024.0
BYTE_BURST: Final = 4 * 1024 * 1024.0
AT_ONCE: Final = 16  # calls of one node, streams included


class NodeBudget:
    """Two token buckets and a count of running calls. `now` is monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._requests = TokenBucket(REQUEST_BURST, REQUESTS_PER_S, now)
        self._bytes = TokenBucket(BYTE_BURST, BYTES_PER_S, now)
        self.running = 0

    def take(self, now: float, size: int) -> bool:
        """Whether a request of `size` bytes is within the budget; if so it is paid for."""
        # Looked at first: what is refused for its size costs no request.
        return self._bytes.has(now, size) and self._requests.take(now) and self._bytes.take(now, size)

    def idle(self, now: float) -> bool:
        """Whether it is as good as a new one, and can be forgotten."""
        return not self.running and self._requests.full(now) and self._bytes.full(now)
