"""When a watch may go on and when it must list again: decisions only, no I/O.

Rules, which together make the watch of `bridge_core.store.api` exact:
1. A listing at revision R is followed from R+1. A batch of events moves the position to one past
   the last event's mod_revision, never past the header's revision: a header names the store's
   newest revision, and events up to it may still be on their way.
2. A progress notification of the watch itself moves the position to one past its revision: the
   store sends it only when every earlier event has been sent. An answer to a progress *request*
   (watch id -1) proves only that the store is alive: before 3.4.25 and 3.5.8, etcd sends it
   ahead of events that it covers.
3. An event below the position was delivered before and is dropped.
4. History may be resumed only in the same store: the same cluster id, a raft term and a revision
   that did not go back. Otherwise, and after a compaction or a cancelled watch, the position is
   lost and the reader lists again. (An older state whose files were put back by hand, and which
   outgrew our position before we looked, cannot be told apart; etcd's own restore makes a new
   cluster id.)
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from bridge_core.store.api import Changes, Deleted, KeyValue

REQUESTED_PROGRESS = -1  # etcd's watch id on answers to progress requests


class WatchHeader(msgspec.Struct, frozen=True):
    """What every answer of the store says about the store."""

    cluster_id: int
    revision: int
    raft_term: int


class WatchPosition(msgspec.Struct, frozen=True):
    """Where a watch stands: every revision below `next_revision` was delivered."""

    next_revision: int
    cluster_id: int
    raft_term: int


class Response(msgspec.Struct, frozen=True):
    """One message of the store's watch stream."""

    header: WatchHeader
    watch_id: int = 0
    created: bool = False
    cancelled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: tuple[KeyValue | Deleted, ...] = ()


class WatchLost(msgspec.Struct, frozen=True):
    """Continuity cannot be proved: list again."""

    reason: str


class WatchRefused(msgspec.Struct, frozen=True):
    """The store will not let this client watch."""

    reason: str


Verdict: TypeAlias = WatchPosition | WatchLost | WatchRefused


def listed(header: WatchHeader) -> WatchPosition:
    """The position after a listing whose answer had this header."""
    return WatchPosition(header.revision + 1, header.cluster_id, header.raft_term)


def resumed(position: WatchPosition, header: WatchHeader) -> WatchPosition | WatchLost:
    """Whether the store that answered a linearizable read with `header` continues our history."""
    if header.cluster_id != position.cluster_id:
        return WatchLost("another cluster answers at this address")
    if header.raft_term < position.raft_term:
        return WatchLost(f"raft term went back from {position.raft_term} to {header.raft_term}")
    if header.revision < position.next_revision - 1:
        return WatchLost(f"revision went back from {position.next_revision - 1} to {header.revision}")
    return WatchPosition(position.next_revision, position.cluster_id, header.raft_term)


def received(position: WatchPosition, response: Response) -> tuple[Verdict, tuple[Changes, ...]]:
    """The position after `response`, and what to hand to the reader, one `Changes` a revision."""
    if response.cancelled:
        return _cancelled(response), ()
    if response.header.revision < position.next_revision - 1:
        went = f"revision went back from {position.next_revision - 1} to {response.header.revision}"
        return WatchLost(went), ()
    if response.events:
        return _advanced(position, response.events)
    if response.created or response.watch_id == REQUESTED_PROGRESS:
        return position, ()
    return _moved(position, response.header.revision + 1), ()


def _cancelled(response: Response) -> WatchLost | WatchRefused:
    if response.compact_revision:
        return WatchLost(f"compacted up to revision {response.compact_revision}")
    reason = response.cancel_reason or "cancelled by the store"
    if "permission denied" in reason:
        return WatchRefused(reason)
    return WatchLost(reason)


def _advanced(
    position: WatchPosition, events: tuple[KeyValue | Deleted, ...]
) -> tuple[WatchPosition, tuple[Changes, ...]]:
    fresh: dict[int, list[KeyValue | Deleted]] = {}
    for event in events:
        if event.mod_revision >= position.next_revision:
            fresh.setdefault(event.mod_revision, []).append(event)
    changes = tuple(Changes(tuple(fresh[revision]), revision) for revision in sorted(fresh))
    return _moved(position, max(fresh, default=0) + 1), changes


def _moved(position: WatchPosition, next_revision: int) -> WatchPosition:
    newest = max(position.next_revision, next_revision)
    return WatchPosition(newest, position.cluster_id, position.raft_term)
