"""Who fetches a blob from outside the mesh, and who has or gets pieces of it. Pure.

Each digest has a coordinator: the node that comes first for it (rendezvous hashing), asked by every node
that wants the blob. It holds nothing but who asked, for seconds.

Rules:
1. One node at a time fetches a digest from its origin: the first that asks to, while it asks again within
   `LIFE_S` and gets on. Who claims and has gained no piece for `STALL_S` loses the claim to the next.
2. Whoever asks is named to all others as a source, while it asks again within `LIFE_S`.
3. A coordinator that does not answer is passed over for the next in order. Two nodes that see different
   ones may both fetch: that costs bytes, and nothing wrong is served.
4. No node and no number of digests makes the table longer than `MOST`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Final

import msgspec

LIFE_S: Final = 6.0
STALL_S: Final = 60.0
SWEEP_S: Final = 1.0
MOST: Final = 4096  # digests
MOST_SOURCES: Final = 64  # of a digest
MOST_TOLD: Final = 24


class ClaimAnswer(msgspec.Struct, frozen=True):
    """What a coordinator says.

    Attributes:
        fetcher: The node that fetches from outside; empty: nobody does.
        sources: Other nodes that have pieces, or get them.
    """

    fetcher: str = ""
    sources: tuple[str, ...] = ()


class _Seen(msgspec.Struct):
    at: float
    have: int
    grew: float


class _Wanted(msgspec.Struct):
    seen: dict[str, _Seen]
    fetcher: str = ""
    barred: dict[str, float] = {}

    def drop_silent(self, now: float) -> None:
        """Forgets who has not asked for `LIFE_S`."""
        self.seen = {node: seen for node, seen in self.seen.items() if now - seen.at <= LIFE_S}


class Claims:
    """What a coordinator knows; times are monotonic seconds."""

    def __init__(self) -> None:
        self._wanted: dict[str, _Wanted] = {}
        self._swept = -math.inf

    def ask(self, digest: str, node: str, have: int, now: float, *, offers: bool) -> ClaimAnswer:
        """A node asks about a digest.

        Args:
            digest: Of the blob.
            node: Who asks.
            have: How many pieces of it the node has.
            now: The time.
            offers: It could fetch it from outside, and would.
        """
        wanted = self._of(digest, now)
        seen = wanted.seen.get(node)
        if seen is None:
            if len(wanted.seen) >= MOST_SOURCES:
                del wanted.seen[min(wanted.seen, key=lambda one: wanted.seen[one].at)]
            wanted.seen[node] = _Seen(now, have, now)
        else:
            seen.at = now
            if have > seen.have:
                seen.have, seen.grew = have, now
        self._settle(wanted, node, now, offers=offers)
        others = [one for one in wanted.seen if one not in (node, wanted.fetcher)]
        return ClaimAnswer(wanted.fetcher, tuple(others[-MOST_TOLD:]))

    def _settle(self, wanted: _Wanted, node: str, now: float, *, offers: bool) -> None:
        """Ends the claim of a fetcher that is gone or stuck, and gives it to who offers."""
        fetcher = wanted.fetcher
        held = wanted.seen.get(fetcher)
        if held is None or (fetcher == node and not offers):
            wanted.fetcher = ""
        elif now - held.grew > STALL_S:
            wanted.fetcher = ""
            wanted.barred[fetcher] = now + STALL_S
        wanted.barred = {one: until for one, until in wanted.barred.items() if until > now}
        if not wanted.fetcher and offers and node not in wanted.barred:
            wanted.fetcher = node
            wanted.seen[node].grew = now

    def _of(self, digest: str, now: float) -> _Wanted:
        if now - self._swept >= SWEEP_S:  # at each question a full table would make it slow
            self._sweep(now)
        wanted = self._wanted.get(digest)
        if wanted is None:
            if len(self._wanted) >= MOST:
                del self._wanted[next(iter(self._wanted))]
            wanted = self._wanted[digest] = _Wanted({})
        wanted.drop_silent(now)
        return wanted

    def _sweep(self, now: float) -> None:
        """Forgets what nobody asks about any more."""
        self._swept = now
        for wanted in self._wanted.values():
            wanted.drop_silent(now)
        self._wanted = {one: wanted for one, wanted in self._wanted.items() if wanted.seen or wanted.barred}


def in_order(digest: str, nodes: Iterable[str]) -> list[str]:
    """Nodes in the order in which they are asked to coordinate a digest: the same at every node."""
    return sorted(nodes, key=lambda node: hashlib.sha256(f"{digest} {node}".encode()).digest())
