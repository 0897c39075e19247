"""The store on a real etcd, over the stubs of its public v3 API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc.aio

from bridge_core.store.api import (
    KeyListing,
    KeyValue,
    Op,
    StoreFault,
    TxnOutcome,
    Unchanged,
    WatchEvent,
)
from bridge_core.store.convert import key_value_of, listing_of, range_of, transaction
from bridge_core.store.endpoints import ClientTls, Endpoints, StoreTiming
from bridge_core.store.leases import Lease
from bridge_core.store.watching import StoreWatch
from bridge_wire.etcd.rpc_pb2 import RangeRequest
from bridge_wire.etcd.rpc_pb2_grpc import KVStub

__all__ = ["ClientTls", "EtcdStore", "StoreTiming"]


class EtcdStore:
    """Implements `bridge_core.store.api.Store`.

    Make it inside a running event loop and close it there.

    Args:
        endpoints: `https://host:port`, at least one; the one that answers is used.
        tls: The client's certificate, for https.
        timing: How long to wait for what.

    Raises:
        Fatal: an endpoint is not an address.
    """

    def __init__(
        self, endpoints: Sequence[str], tls: ClientTls | None = None, *, timing: StoreTiming | None = None
    ) -> None:
        self._endpoints = Endpoints(endpoints, tls, timing or StoreTiming())
        self._watches: set[StoreWatch] = set()

    @property
    def fault(self) -> StoreFault | None:
        """None while the store answers."""
        return self._endpoints.fault

    async def get(self, key: str) -> KeyValue | None:
        """See `Store.get`."""
        answer = await self._range(RangeRequest(key=key.encode()))
        return key_value_of(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> KeyListing:
        """See `Store.list`."""
        return listing_of(await self._range(range_of(prefix)))

    async def commit(self, ops: Sequence[Op], *, if_: Sequence[Unchanged] = ()) -> TxnOutcome:
        """See `Store.commit`."""
        request = transaction(ops, if_)

        async def call(channel: grpc.aio.Channel, timeout: float) -> Any:
            return await KVStub(channel).Txn(request, timeout=timeout)  # type: ignore[no-untyped-call]  # generated

        answer = await self._endpoints.write(call)
        return TxnOutcome(answer.succeeded, answer.header.revision)

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """See `Store.watch`."""
        watch = StoreWatch(self._endpoints, prefix)
        self._watches.add(watch)
        try:
            async with contextlib.aclosing(watch.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._watches.discard(watch)

    def lease(self, ttl_s: float) -> Lease:
        """See `Store.lease`."""
        return Lease(self._endpoints, ttl_s)

    def reach_at(self, endpoints: Sequence[str]) -> None:
        """Uses these endpoints from now on; what runs on one that is none of them is cut.

        Raises:
            Fatal: one is not an address; nothing has changed then.
        """
        self._endpoints.replace(endpoints)

    async def close(self) -> None:
        """See `Store.close`."""
        for watch in self._watches:
            watch.closed = True
        await self._endpoints.close()

    async def _range(self, request: RangeRequest) -> Any:
        async def call(channel: grpc.aio.Channel, timeout: float) -> Any:
            return await KVStub(channel).Range(request, timeout=timeout)  # type: ignore[no-untyped-call]  # generated

        answer, _ = await self._endpoints.read(call)
        return answer
