"""Ketama consistent hashing over weighted instances.

Rules:
1. An instance has `points * weight / 100` points, in whole digests of four: digest k is
   MD5("<instance>-<k>"), and its four little-endian 32-bit words are points.
2. A key's hash is the first word of its MD5; its owner is the first point clockwise that is
   greater. Where points of two instances coincide, the greater instance id comes first.
3. The result depends on the set of (instance, weight) and on `points` alone, not on their order.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Final

from bridge_core.snapshot import Snapshot

try:  # The interpreter's own MD5: less than half the cost of OpenSSL's set-up for so short an input.
    from _md5 import md5  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from hashlib import md5

_FULL_WEIGHT: Final = 100
_POINTS_PER_DIGEST: Final = 4
_LAST: Final = 0xFFFFFFFF
_FEW: Final = 64 * 1024  # bytes of points: some hundred instances; numpy is loaded for more


@lru_cache(maxsize=8192)
def _points_of(instance: str, digests: int) -> bytes:
    """The instance's points, one little-endian word each; kept, as most survive a change."""
    prefix = md5(f"{instance}-".encode(), usedforsecurity=False)
    parts = []
    for k in range(digests):
        digest = prefix.copy()
        digest.update(b"%d" % k)
        parts.append(digest.digest())
    return b"".join(parts)


def _place(parts: list[bytes]) -> tuple[array[int], array[int]]:
    """The points of instances in ring order, and the instance of each, by number."""
    # One 64-bit key a point sorts by hash, then by descending id.
    keys = [
        word << 32 | _LAST - owner
        for owner, points in enumerate(parts)
        for word in struct.unpack(f"<{len(points) // 4}I", points)
    ]
    keys.sort()
    return array("I", [key >> 32 for key in keys]), array("I", [_LAST - (key & _LAST) for key in keys])


def _place_many(parts: list[bytes]) -> tuple[array[int], array[int]]:
    """`_place`, five times as fast, for the price of 12 MiB of numpy in the process."""
    import numpy as np

    owners = np.repeat(np.arange(len(parts), dtype=np.uint64), [len(points) // 4 for points in parts])
    words = np.frombuffer(b"".join(parts), dtype="<u4").astype(np.uint64)
    keys = (words << np.uint64(32)) | (np.uint64(_LAST) - owners)
    keys.sort()
    hashes, last = (keys >> np.uint64(32)).astype(np.uint32), np.uint64(_LAST)
    return (
        array("I", hashes.tobytes()),
        array("I", (last - (keys & last)).astype(np.uint32).tobytes()),
    )


def _little_endian(words: array[int]) -> bytes:
    if sys.byteorder == "little":
        return words.tobytes()
    return struct.pack(f"<{len(words)}I", *words)


class Ring:
    """An immutable ring.

    Args:
        instances: Pairs of id and weight; a weight of 0 or less has no points, a small one at
            least four.
        points: Points of an instance of weight 100.
    """

    def __init__(self, instances: Iterable[tuple[str, int]], points: int) -> None:
        self._take(
            (name, max(1, round(points * weight / _FULL_WEIGHT / _POINTS_PER_DIGEST)))
            for name, weight in instances
            if weight > 0
        )

    def _take(self, members: Iterable[tuple[str, int]]) -> None:
        """Places instances with so many digests each."""
        self._members = tuple(sorted(members))
        self.instances = tuple(name for name, _ in self._members)
        parts = [_points_of(name, digests) for name, digests in self._members]
        place = _place if sum(map(len, parts)) <= _FEW else _place_many
        self._hashes, self._owners = place(parts)
        self._digest = b""  # until it is asked for

    def __len__(self) -> int:
        """The number of points."""
        return len(self._hashes)

    @property
    def digest(self) -> bytes:
        """SHA-256 over the instances' names and every point with its owner."""
        if not self._digest:
            self._digest = self._digested()
        return self._digest

    def _digested(self) -> bytes:
        digest = hashlib.sha256("\n".join(self.instances).encode())
        digest.update(b"\0" + _little_endian(self._hashes))
        digest.update(_little_endian(self._owners))
        return digest.digest()

    def owner(self, key: bytes) -> str | None:
        """The instance that owns `key`; None on an empty ring."""
        if not self.instances:
            return None
        return self.instances[self._owners[self._position(key)]]

    def lookup(self, key: bytes) -> Iterator[str]:
        """Every instance once, clockwise from `key`."""
        count = len(self.instances)
        if not count:
            return
        position = self._position(key)
        owners, seen, size = self._owners, set[int](), len(self)
        for at in range(position, position + size):
            owner = owners[at if at < size else at - size]
            if owner not in seen:
                seen.add(owner)
                yield self.instances[owner]
                if len(seen) == count:
                    return

    def restrict(self, instances: Collection[str]) -> Ring:
        """The ring of these instances alone: what `lookup` gives with all others left out."""
        part = Ring((), 0)
        part._take(member for member in self._members if member[0] in instances)
        return part

    def _position(self, key: bytes) -> int:
        word = int.from_bytes(md5(key, usedforsecurity=False).digest()[:4], "little")
        at = bisect_right(self._hashes, word)
        return at if at < len(self._hashes) else 0


def ring_of(snapshot: Snapshot) -> Ring:
    """The ring over every leased instance of a snapshot: everybody's is the same."""
    return Ring(
        ((instance.id, instance.weight) for instance in snapshot.instances.values()),
        snapshot.mesh.ring_points,
    )
