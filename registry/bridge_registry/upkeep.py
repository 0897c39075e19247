"""What a registry does from time to time: found the mesh in etcd, clear away what ended."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import msgspec
import structlog

from bridge_core import keyspace
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.store.api import Delete, KeyValue, Put, Store, Unchanged
from bridge_registry.clients.mesh_secrets import MeshSecrets
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.enrolment.store_access import StoreAccess
from bridge_registry.leadership import Leadership
from bridge_registry.membership.store_identity_rules import StoreRecord
from bridge_registry.records import RecordFault, decode, decode_authorities, encode
from bridge_registry.restore import Restorer

log = structlog.get_logger()

_TOKEN_REMEMBERED_S: Final = 86_400.0  # so that a late use is told that the token was used or expired
_CLEAR_EVERY_S: Final = 600.0
_FIRST_RETRY_S: Final = 0.05
_RETRY_S: Final = 1.0
_BATCH: Final = 100  # operations of one etcd transaction


class _Ends(msgspec.Struct, frozen=True):
    expires: float = float("inf")


def ended(items: Iterable[KeyValue], now: float, remembered_s: float = 0.0) -> list[KeyValue]:
    """The records whose `expires` lies more than `remembered_s` back."""
    result = []
    for item in items:
        try:
            record = decode(item, _Ends)
        except RecordFault:
            continue
        if record.expires + remembered_s < now:
            result.append(item)
    return result


class Upkeep:
    """See the module.

    Args:
        store: etcd.
        leadership: Only the leader writes.
        access: etcd's access control.
        authorities: Gives the mesh's CAs, which every store of the mesh holds.
        mesh_id: Gives the mesh's own id in every store, once it has one.
        secrets: Made with the mesh.
        restorer: Fills an empty store where a backup was restored.
    """

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        access: StoreAccess,
        authorities: Callable[[], Authorities],
        *,
        mesh_id: Callable[[], str],
        secrets: MeshSecrets,
        restorer: Restorer,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._access = access
        self._authorities = authorities
        self._mesh_id = mesh_id
        self._secrets = secrets
        self._restorer = restorer

    async def run(self) -> None:
        """Founds the mesh as soon as the store answers and clears it up until cancelled.

        Raises:
            Fatal: the store belongs to another mesh.
        """
        await self._until_done(self._access.prepare)
        await self._until_done(self._restorer.put_back_as_asked)
        await self._until_done(self._found)
        await self._until_done(self._secrets.found)
        while True:
            await self._until_done(self._clear)
            await asyncio.sleep(_CLEAR_EVERY_S)

    async def _found(self) -> None:
        kept = await self._store.get(keyspace.AUTHORITIES)
        own = self._authorities()
        if kept is None:
            await self._add(keyspace.AUTHORITIES, [Put(keyspace.AUTHORITIES, encode(own))])
        elif not decode_authorities(kept.value).roots.keys() & own.roots.keys():
            raise Fatal(
                "this etcd belongs to a mesh with another CA",
                hint="point --etcd elsewhere, or bring pki/ of that mesh's registry",
            )
        if await self._store.get(keyspace.STORE) is None:
            record = StoreRecord(self._mesh_id() or os.urandom(16).hex())
            await self._add(keyspace.STORE, [Put(keyspace.STORE, encode(record))])

    async def _add(self, key: str, ops: Sequence[Put]) -> None:
        fence = self._leadership.fence()
        if not (await self._store.commit(ops, if_=[Unchanged(key, 0), fence])).committed:
            raise Unavailable("another registry founds the mesh at this moment")

    async def _clear(self) -> None:
        if not self._leadership.leads():
            return
        now, fence = time.time(), self._leadership.fence()
        gone: list[KeyValue] = []
        for prefix in (keyspace.SERIALS, keyspace.REVOKED):
            gone += ended((await self._store.list(prefix)).items, now)
        gone += ended((await self._store.list(keyspace.TOKENS)).items, now, _TOKEN_REMEMBERED_S)
        for at in range(0, len(gone), _BATCH):
            await self._store.commit([Delete(item.key) for item in gone[at : at + _BATCH]], if_=[fence])
        if gone:
            log.info("ended_records_cleared", count=len(gone))

    async def _until_done(self, step: Callable[[], Awaitable[None]]) -> None:
        # Mostly it only waits to be elected, and a mesh that begins waits for this.
        said, backoff = "", Backoff(random.Random(), first_s=_FIRST_RETRY_S, most_s=_RETRY_S)  # noqa: S311 - jitter
        while True:
            try:
                await step()
                return
            except Fatal:
                raise
            except BridgeError as fault:
                if str(fault) != said:
                    log.warning("upkeep_waits", step=getattr(step, "__name__", ""), reason=str(fault))
                    said = str(fault)
                await asyncio.sleep(backoff.next_s())
