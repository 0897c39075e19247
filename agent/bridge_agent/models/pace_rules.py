"""How fast blobs travel between nodes. Pure.

Rules:
1. No more than `most` bytes a second, over all transfers of the node; 0: as fast as it goes.
2. While requests run at the node, no more than `busy`; 0 again sets no limit.
3. A pause makes up for what was sent before; what was not sent in time is not made up for beyond
   `BURST_S` seconds' worth.
"""

from __future__ import annotations

from typing import Final

BURST_S: Final = 0.25


class Pace:
    """The pace of one node's transfers in one direction; times are monotonic seconds."""

    def __init__(self, most: int, busy: int) -> None:
        self._most = most
        self._busy = busy
        self._free_at = 0.0

    def pause(self, size: int, now: float, *, busy: bool) -> float:
        """How many seconds to wait before these `size` bytes go."""
        rates = [rate for rate in (self._most, self._busy if busy else 0) if rate]
        begin = max(self._free_at, now - BURST_S)
        if not rates:
            self._free_at = now
            return 0.0
        self._free_at = begin + size / min(rates)
        return max(0.0, begin - now)
