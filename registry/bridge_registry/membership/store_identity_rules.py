"""Whether the store is the one that this registry knew: pure.

An etcd whose data was lost, or put back from an older copy, answers as ever. Taken at its word it says
that there is no node, no route and no revocation. So a registry keeps, in its own state folder, what it
last knew about the store.

Rules:
1. A store is told by the id that was written into it when the mesh was founded, by etcd's cluster id
   (etcd's own restore makes a new one), by its revision, which never goes back, and by its generation.
2. The first store that a registry ever sees is its own.
3. Only an admin's word makes another store the mesh's: it raises the generation, in the store, for every
   registry to see.
4. The generation makes up the high bits of a snapshot's epoch, so that versions go up over a restore
   although the revisions of an empty store begin anew, and agents can tell it from a mere replacement.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from bridge_core.bounds import Count, Word
from bridge_core.snapshot import GENERATION_BITS

MAX_GENERATION: Final = (1 << 63 - GENERATION_BITS) - 1


class StoreRecord(msgspec.Struct, frozen=True):
    """What is written into a store at its founding, and anew by each restore."""

    id: Word
    generation: Count = 0


class StoreIdentity(msgspec.Struct, frozen=True):
    """A store at a moment. An empty `id`: it holds no mesh yet."""

    id: str = ""
    generation: int = 0
    cluster_id: int = 0
    revision: int = 0


class Verdict(enum.Enum):
    """What a store that was looked at is."""

    SAME = "same"
    OTHER = "other"
    ROLLED_BACK = "rolled back"


def judge(known: StoreIdentity | None, seen: StoreIdentity) -> Verdict:
    """What the store `seen` is to whoever knew `known` (None: no store yet)."""
    if known is None or seen.generation > known.generation:
        return Verdict.SAME
    if known.id and seen.id != known.id:
        return Verdict.OTHER
    if known.cluster_id and seen.cluster_id and seen.cluster_id != known.cluster_id:
        return Verdict.OTHER
    if seen.revision < known.revision or seen.generation < known.generation:
        return Verdict.ROLLED_BACK
    return Verdict.SAME


def says(verdict: Verdict, known: StoreIdentity, seen: StoreIdentity) -> str:
    """The sentence for admins."""
    if verdict is Verdict.ROLLED_BACK:
        return f"the store went back: it is at revision {seen.revision}, it was at {known.revision}"
    if not seen.id:
        return "the store came back empty: it holds no mesh"
    return "the store is another one than this registry knew"


def restored(known: StoreIdentity, seen: StoreIdentity) -> StoreRecord:
    """What a restore writes: the mesh's own id, in a generation that no store had."""
    generation = min(MAX_GENERATION, max(known.generation, seen.generation) + 1)
    return StoreRecord(known.id or seen.id, generation)


def epoch_of(generation: int, leader_revision: int) -> int:
    """The epoch of snapshots that a leader elected at `leader_revision` publishes."""
    return (generation << GENERATION_BITS) | leader_revision
