"""The task that keeps the key sets of identity providers fresh, on the registry that leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Protocol

import structlog

from bridge_core import keyspace
from bridge_core.bounds import MAX_REASON
from bridge_core.config.documents import IdentityProviderDocument
from bridge_core.errors import BridgeError
from bridge_core.store.api import Delete, Op, Put, Store
from bridge_registry.key_sets.refresh_rules import Failures, concern, failed, is_due
from bridge_registry.leadership import Leadership
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.records import KeySetRecord, encode

log = structlog.get_logger()

_LOOK_EVERY_S: Final = 2.0


class Fetch(Protocol):
    """Gets a key set; see `fetching.fetch_key_set`."""

    def __call__(self, url: str, *, private: bool) -> Awaitable[str]:
        """The set. Raises BridgeError."""
        ...


class KeySetKeeper:
    """See the module.

    Args:
        store: Where the sets are put.
        leadership: Only the leader fetches and writes.
        table: Has the providers, and what was fetched for them.
        fetch: Gets a set.
        now: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        table: MeshTable,
        fetch: Fetch,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._table = table
        self._fetch = fetch
        self._now = now
        self._failures: dict[str, Failures] = {}

    async def run(self) -> None:
        """Fetches what is due until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # the task's root: what breaks us ends nothing, and says so
                log.exception("key_sets_look_failed")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Fetches what is due now, and removes what no provider asks for any more."""
        if not self._leadership.leads():
            self._failures.clear()
            return
        wanted = {one.metadata.name: one for one in self._table.providers if one.spec.jwks_uri is not None}
        self._failures = {name: one for name, one in self._failures.items() if name in wanted}
        gone = [name for name in self._table.key_sets if name not in wanted]
        await self._write([Delete(keyspace.KEY_SETS + name) for name in gone])
        await asyncio.gather(*(self._refresh(name, one) for name, one in wanted.items()))

    def concerns(self) -> Iterator[str]:
        """What an operator should know of, a sentence each."""
        for name, failures in sorted(self._failures.items()):
            yield concern(name, self._table.key_sets.get(name), failures, self._now())

    async def _refresh(self, name: str, document: IdentityProviderDocument) -> None:
        source, now = document.spec.jwks_uri or "", self._now()
        record, before = self._table.key_sets.get(name), self._failures.get(name)
        if not is_due(source, document.spec.refresh, record, before, now):
            return
        try:
            keys = await self._fetch(source, private=document.spec.allow_private_address)
            await self._write([Put(keyspace.KEY_SETS + name, encode(KeySetRecord(keys, now, source)))])
        except BridgeError as fault:
            self._failures[name] = failed(before, source, str(fault)[:MAX_REASON], now)
            if before is None or before.reason != self._failures[name].reason:
                log.warning("key_set_not_fetched", provider=name, source=source, reason=str(fault))
            return
        self._failures.pop(name, None)
        if record is None or record.keys != keys:
            log.info("key_set_changed", provider=name, source=source)

    async def _write(self, ops: list[Op]) -> None:
        if ops:
            await self._store.commit(ops, if_=[self._leadership.fence()])
