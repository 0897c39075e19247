"""Putting the mesh back into a store that lost it, at an admin's word.

Everything is written under the leader's fence, and the founding record last: as long as that is not
there no registry takes the store for the mesh's, so a restore that broke off is simply repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.errors import Unavailable
from bridge_core.store.api import Delete, KeyValue, Op, Put, Store, StoreRefused, Unchanged
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.enrolment.store_access import StoreAccess
from bridge_registry.membership import store_identity_rules as rules
from bridge_registry.records import ConfigRecord, RecordFault, decode_authorities, encode, unpack
from bridge_registry.store_memory import StoreMemory, identity_of

log = structlog.get_logger()

_BATCH_OPS: Final = 64  # of etcd's 128 a transaction
_BATCH_BYTES: Final = 512 * 1024  # of etcd's 1.5 MiB a request


class Restored(msgspec.Struct, frozen=True):
    """What a restore did."""

    reason: str
    put: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    documents: int = 0

    def count(self, prefix: str) -> int:
        """How many records under `prefix` were put back."""
        return sum(key.startswith(prefix) for key in self.put)


class Restorer:
    """See the module.

    Args:
        store: etcd.
        memory: Says what is wrong with it.
        records: Gives the records that the mesh had.
        access: etcd's access control.
        authorities: Gives the mesh's CAs, as this registry has them.
        fence: Gives the condition under which the leader may write, whatever store it is.
    """

    def __init__(
        self,
        *,
        store: Store,
        memory: StoreMemory,
        records: Callable[[], Mapping[str, bytes]],
        access: StoreAccess,
        authorities: Callable[[], Authorities],
        fence: Callable[[], Unchanged],
    ) -> None:
        self._store = store
        self._memory = memory
        self._records = records
        self._access = access
        self._authorities = authorities
        self._fence = fence

    async def restore(self, *, accept_store: bool, author: str) -> Restored:
        """Makes the store at hand the mesh's.

        A registry that came back from a backup with its store knows of nothing amiss, but agents that saw
        more than the backup refuse what it publishes: `accept_store` has them follow again.

        Args:
            accept_store: Its records are right as they are; else they become those that were known.
            author: Who says so.

        Raises:
            StoreRefused: it is the mesh's already, as nobody doubts, or another mesh's.
            Unavailable: it does not answer, or this registry does not lead; may be repeated.
        """
        reason, known = self._memory.foreign, self._memory.known
        if known is None or not (reason or accept_store):
            raise StoreRefused("the store is the one that this registry knows: there is nothing to restore")
        await self._access.prepare()
        listing = await self._store.list(keyspace.ROOT)
        there = {item.key: item for item in listing.items}
        kept, own = there.get(keyspace.AUTHORITIES), self._authorities()
        if kept is not None and not decode_authorities(kept.value).roots.keys() & own.roots.keys():
            raise StoreRefused("this etcd belongs to a mesh with another CA", hint="point --etcd elsewhere")
        done = Restored(reason or "nothing that this registry could see")
        if not accept_store:
            done = await self._put_back(reason, there)
        await self._commit([Put(keyspace.AUTHORITIES, encode(own))])
        record = rules.restored(known, identity_of(listing))
        await self._commit([Put(keyspace.STORE, encode(record))])
        log.warning(
            "store_restored_by_admin",
            by=author,
            reason=reason,
            accepted=accept_store,
            generation=record.generation,
            put=len(done.put),
            removed=done.removed,
        )
        return done

    async def put_back_as_asked(self) -> None:
        """Fills an empty store where an admin restored a backup beside it; anything else is left alone.

        Raises:
            Unavailable: the store was not read yet, or this registry does not lead; may be repeated.
        """
        if not self._memory.put_back:
            return
        if self._memory.seen is None:
            raise Unavailable("the store was not read yet", hint="try again in some seconds")
        # A store that holds a mesh is not overwritten unasked, be it an older state of this one.
        if self._memory.foreign and not self._memory.seen.id:
            await self.restore(accept_store=False, author="bridgectl restore")

    async def _put_back(self, reason: str, there: Mapping[str, KeyValue]) -> Restored:
        wanted = self._records()
        removed = tuple(sorted(key for key in there.keys() - wanted.keys() if keyspace.is_lasting(key)))
        put = {key: raw for key, raw in wanted.items() if key not in there or there[key].value != raw}
        await self._commit(
            [*(Delete(key) for key in removed), *(Put(key, raw) for key, raw in sorted(put.items()))]
        )
        return Restored(reason, tuple(sorted(put)), removed, _documents(put))

    async def _commit(self, ops: Sequence[Op]) -> None:
        for batch in _batches(ops):
            if not (await self._store.commit(batch, if_=[self._fence()])).committed:
                raise Unavailable("another registry leads by now", hint="repeat the restore there")


def _batches(ops: Iterable[Op]) -> Iterator[list[Op]]:
    batch, size = list[Op](), 0
    for op in ops:
        length = len(op.key) + (len(op.value) if isinstance(op, Put) else 0)
        if batch and (len(batch) == _BATCH_OPS or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(op)
        size += length
    if batch:
        yield batch


def _documents(put: Mapping[str, bytes]) -> int:
    """How many documents of the config are among what is put back."""
    raw = put.get(keyspace.CONFIG)
    if raw is None:
        return 0
    try:
        return len(unpack(KeyValue(keyspace.CONFIG, raw, 0, 0), ConfigRecord).documents)
    except RecordFault:
        return 0
