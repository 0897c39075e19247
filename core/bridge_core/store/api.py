"""The store as the rest of the Bridge sees it: keys, transactions, watches and leases.

`bridge_core.store.etcd` is the real one; the fake in tests/fakes passes the same contract suite.

Rules of a watch:
1. The first event is a `KeyListing` of the whole prefix; every later one is a `Changes`, in revision
   order, without a gap and without a repetition, until the next `KeyListing`.
2. A new `KeyListing` comes whenever continuity cannot be proved (compaction, a cancelled watch, a
   store restored to an older revision); its reader replaces what it had.
3. An unreachable store is not an event: the iterator waits, and `Store.fault` says since when.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, TypeAlias

import msgspec

from bridge_core.errors import BridgeError, Reaction, Unavailable


class KeyValue(msgspec.Struct, frozen=True):
    """A key as it stood at a revision. `lease` is 0 without one."""

    key: str
    value: bytes
    mod_revision: int
    create_revision: int
    lease: int = 0


class KeyListing(msgspec.Struct, frozen=True):
    """Everything under a prefix at one revision, and which cluster says so (0: it is not known)."""

    items: tuple[KeyValue, ...]
    revision: int
    cluster_id: int = 0


class Deleted(msgspec.Struct, frozen=True):
    """A key that went, by a delete or by its lease."""

    key: str
    mod_revision: int


class Changes(msgspec.Struct, frozen=True):
    """All changes under the prefix of one revision."""

    events: tuple[KeyValue | Deleted, ...]
    revision: int


WatchEvent: TypeAlias = KeyListing | Changes


class Put(msgspec.Struct, frozen=True):
    """Write a key; under a lease when `lease` is not 0."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    """Delete a key, or everything under it with `prefix`."""

    key: str
    prefix: bool = False


Op: TypeAlias = Put | Delete


class Unchanged(msgspec.Struct, frozen=True):
    """Holds while the key's mod_revision is this one; 0: while it does not exist."""

    key: str
    mod_revision: int


class TxnOutcome(msgspec.Struct, frozen=True):
    """What a transaction did. `revision` is the store's after it."""

    committed: bool
    revision: int


class StoreFault(msgspec.Struct, frozen=True):
    """Why the store does not answer, and since when (monotonic seconds)."""

    since: float
    reason: str


class StoreUnavailable(Unavailable):
    """No endpoint of the store answered. A write may or may not have happened."""


class StoreRefused(BridgeError):
    """The store answered and refused: wrong certificate, no permission, too large."""

    reaction = Reaction.REFUSE


class LeaseGone(StoreRefused):
    """A write under a lease that the store no longer has: wait for the handle's `changed`."""

    reaction = Reaction.RETRY


class LeaseHandle(Protocol):
    """A lease, kept alive while `keep` runs.

    `expires_at` is on the monotonic clock, counted from before the last successful request was
    sent, so it is never later than the store's own idea.
    """

    @property
    def id(self) -> int:
        """The lease's id; changes when a lost lease was replaced. 0: none held at present."""

    @property
    def expires_at(self) -> float:
        """Monotonic time after which the store may have dropped it."""

    async def keep(self) -> None:
        """Has the store grant it, renews it, and replaces it when it was lost, until it is revoked.

        Cancelled, it leaves the lease to be kept again, revoked, or to expire.
        """

    async def changed(self, seen: int) -> int:
        """Waits until `id` is not `seen` and not 0; returns it. Whoever put keys puts them again."""

    async def revoke(self) -> None:
        """Gives the lease back: its keys go at once. Best effort, bounded in time."""


class Store(Protocol):
    """A key-value store with watches, transactions and leases: etcd."""

    @property
    def fault(self) -> StoreFault | None:
        """None while the store answers."""

    async def get(self, key: str) -> KeyValue | None:
        """The key now (linearizable), or None. Raises StoreUnavailable, StoreRefused."""

    async def list(self, prefix: str) -> KeyListing:
        """Everything under `prefix` at one revision. Raises StoreUnavailable, StoreRefused."""

    async def commit(self, ops: Sequence[Op], *, if_: Sequence[Unchanged] = ()) -> TxnOutcome:
        """All of `ops` in one transaction if every condition holds, else nothing.

        Never repeated by itself after a request was sent: StoreUnavailable leaves the outcome
        unknown, and the caller reads before it tries again.
        """

    def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """See the module's rules. Ends only when closed (aclose) or refused (StoreRefused).

        Use it as `async with contextlib.aclosing(store.watch(prefix)) as events`.
        """

    def lease(self, ttl_s: float) -> LeaseHandle:
        """A lease of `ttl_s` for the caller to keep; its `id` is 0 until it was granted."""

    async def close(self) -> None:
        """Stops everything it started. Leases are left to expire unless revoked before."""
