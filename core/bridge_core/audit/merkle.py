"""The Merkle tree of RFC 6962 and 9162 over SHA-256: hashes, roots and proofs. Pure.

A tree's hashes come from `Ranges`: whoever has them, in memory or on disk, gives the root of any whole
range whose length is a power of two and whose start is a multiple of it; everything else is built of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import repeat
from operator import methodcaller
from typing import Final, Protocol

from bridge_core.errors import BridgeError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
_digest: Final = methodcaller("digest")


class BadProof(BridgeError):
    """A proof that does not prove what it should."""


class Ranges(Protocol):
    """A tree's hashes."""

    def whole(self, level: int, index: int) -> bytes:
        """The root of the entries from `index << level`, `1 << level` of them."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Sequence[bytes]) -> list[bytes]:
    """The hash of each."""
    # Each is made by C alone, here and in `root_of`: a log has one of either for every entry.
    return list(map(_digest, map(sha256, map(b"\x00".__add__, entries))))


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over these leaf (or subtree) hashes, of any number."""
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        # A last one without a partner moves up as it is: that makes the same tree as RFC 6962's halving.
        odd = row[-1:] if len(row) % 2 else []
        pairs = zip(repeat(b"\x01"), row[::2], row[1::2], strict=False)
        row = [*map(_digest, map(sha256, map(b"".join, pairs))), *odd]
    return row[0]


def range_root(ranges: Ranges, first: int, end: int) -> bytes:
    """The root of the entries from `first` up to `end`; `first` is where RFC 6962 begins a subtree."""
    if first == end:
        return EMPTY_ROOT
    parts = []
    while first < end:
        level = (end - first).bit_length() - 1
        if first:
            level = min(level, (first & -first).bit_length() - 1)
        parts.append(ranges.whole(level, first >> level))
        first += 1 << level
    found = parts.pop()
    while parts:
        found = node_hash(parts.pop(), found)
    return found


def inclusion_path(ranges: Ranges, index: int, size: int) -> list[bytes]:
    """The siblings of entry `index` in the tree of `size` entries, from the leaf upwards."""
    path: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            path.append(range_root(ranges, middle, end))
            end = middle
        else:
            path.append(range_root(ranges, first, middle))
            first = middle
    path.reverse()
    return path


def consistency_path(ranges: Ranges, old: int, new: int) -> list[bytes]:
    """What proves that the tree of `new` entries continues that of `old`; empty where that is evident."""
    if old in {0, new}:
        return []
    path: list[bytes] = []
    first, end, whole = 0, new, True
    while old != end:
        middle = first + _split(end - first)
        if old <= middle:
            path.append(range_root(ranges, middle, end))
            end = middle
        else:
            path.append(range_root(ranges, first, middle))
            first, whole = middle, False
    if not whole:
        path.append(range_root(ranges, first, end))
    path.reverse()
    return path


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Checks that `leaf` is entry `index` of the tree of `size` entries (RFC 9162, 2.1.3.2).

    Raises:
        BadProof: it is not, as far as the path shows.
    """
    if not 0 <= index < size:
        raise BadProof(f"there is no entry {index} in a tree of {size}")
    at, last, found = index, size - 1, leaf
    for one in path:
        if last == 0:
            raise BadProof("the path is too long")
        if at % 2 or at == last:
            found = node_hash(one, found)
            while at % 2 == 0 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, one)
        at, last = at >> 1, last >> 1
    if last or found != root:
        raise BadProof(f"the path does not lead from entry {index} to the root")


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Checks that the tree of `new` entries continues that of `old` (RFC 9162, 2.1.4.2).

    Raises:
        BadProof: it does not, as far as the path shows.
    """
    if not 0 <= old <= new:
        raise BadProof(f"a tree of {new} entries does not continue one of {old}")
    if old == new:
        if path or old_root != new_root:
            raise BadProof(f"two trees of {new} entries differ")
        return
    if old == 0:
        if path:
            raise BadProof("the empty tree needs no path")
        return
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise BadProof("the path is empty")
    at, last = old - 1, new - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    found_old = found_new = hashes[0]
    for one in hashes[1:]:
        if last == 0:
            raise BadProof("the path is too long")
        if at % 2 or at == last:
            found_old, found_new = node_hash(one, found_old), node_hash(one, found_new)
            while at % 2 == 0 and at:
                at, last = at >> 1, last >> 1
        else:
            found_new = node_hash(found_new, one)
        at, last = at >> 1, last >> 1
    if last or found_old != old_root or found_new != new_root:
        raise BadProof(f"the tree of {new} entries does not continue that of {old}")


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << (count - 1).bit_length() - 1
