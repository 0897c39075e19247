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
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from bridge_core.snapshot import Snapshot

try:  # The interpreter's own MD5: less than half the cost of OpenSSL's set-up for so short an input.
    from _md5 import md5  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from hashlib import md5

Words = npt.NDArray[np.uint32]

_FULL_WEIGHT: Final = 100
_POINTS_PER_DIGEST: Final = 4


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


class Ring:
    """An immutable ring.

    Args:
        instances: Pairs of id and weight; a weight of 0 or less has no points, a small one at
            least four.
        points: Points of an instance of weight 100.
    """

    def __init__(self, instances: Iterable[tuple[str, int]], points: int) -> None:
        members = sorted((name, weight) for name, weight in instances if weight > 0)
        counts = [max(1, round(points * weight / _FULL_WEIGHT / _POINTS_PER_DIGEST)) for _, weight in members]
        raw = b"".join(_points_of(name, count) for (name, _), count in zip(members, counts, strict=True))
        words = np.frombuffer(raw, dtype="<u4")
        owners = np.repeat(
            np.arange(len(members), dtype=np.uint32), np.array(counts, dtype=np.int64) * _POINTS_PER_DIGEST
        )
        # One 64-bit key a point sorts by hash, then by descending id, faster than lexsort.
        keys = (words.astype(np.uint64) << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - owners)
        keys.sort()
        self._place(
            tuple(name for name, _ in members),
            (keys >> np.uint64(32)).astype(np.uint32),
            (np.uint64(0xFFFFFFFF) - (keys & np.uint64(0xFFFFFFFF))).astype(np.uint32),
        )

    def _place(self, instances: tuple[str, ...], hashes: Words, owners: Words) -> None:
        self.instances, self._hashes, self._owners = instances, hashes, owners
        # Scalars through a memoryview and bisect cost a third of numpy's own scalar searchsorted.
        self._hash_view, self._owner_view = hashes.data, owners.data

    def __len__(self) -> int:
        """The number of points."""
        return len(self._hashes)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the instances' names and every point with its owner."""
        digest = hashlib.sha256("\n".join(self.instances).encode())
        digest.update(b"\0" + self._hashes.astype("<u4").tobytes())
        digest.update(self._owners.astype("<u4").tobytes())
        return digest.digest()

    def owner(self, key: bytes) -> str | None:
        """The instance that owns `key`; None on an empty ring."""
        if not self.instances:
            return None
        return self.instances[self._owner_view[self._position(key)]]

    def lookup(self, key: bytes) -> Iterator[str]:
        """Every instance once, clockwise from `key`."""
        count = len(self.instances)
        if not count:
            return
        position = self._position(key)
        owners, seen, size = self._owner_view, set[int](), len(self)
        for at in range(position, position + size):
            owner = owners[at if at < size else at - size]
            if owner not in seen:
                seen.add(owner)
                yield self.instances[owner]
                if len(seen) == count:
                    return

    def restrict(self, instances: Collection[str]) -> Ring:
        """The ring of these instances alone: what `lookup` gives with all others left out."""
        kept = [at for at, name in enumerate(self.instances) if name in instances]
        renumbered = np.zeros(len(self.instances), dtype=np.uint32)
        renumbered[kept] = np.arange(len(kept), dtype=np.uint32)
        mask = np.isin(self._owners, np.array(kept, dtype=np.uint32))
        part = Ring((), 0)
        part._place(
            tuple(self.instances[at] for at in kept), self._hashes[mask], renumbered[self._owners[mask]]
        )
        return part

    def _position(self, key: bytes) -> int:
        word = int.from_bytes(md5(key, usedforsecurity=False).digest()[:4], "little")
        at = bisect_right(self._hash_view, word)
        return at if at < len(self._hashes) else 0


def ring_of(snapshot: Snapshot) -> Ring:
    """The ring over every leased instance of a snapshot: everybody's is the same."""
    return Ring(
        ((instance.id, instance.weight) for instance in snapshot.instances.values()),
        snapshot.mesh.ring_points,
    )
