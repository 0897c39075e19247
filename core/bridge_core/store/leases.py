"""A lease kept alive on real etcd."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import grpc
import grpc.aio
import structlog

from bridge_core.errors import BridgeError
from bridge_core.store.api import LeaseGone, StoreUnavailable
from bridge_core.store.endpoints import Endpoints, StoreSilent
from bridge_wire.etcd.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseRevokeRequest,
)
from bridge_wire.etcd.rpc_pb2_grpc import LeaseStub

log = structlog.get_logger()

_REVOKE_DEADLINE_S = 2.0


class RenewalStream:
    """One stream of renewals, opened when it is needed and kept: a call a renewal costs five times as much.

    For one caller at a time.
    """

    def __init__(self) -> None:
        self._channel: grpc.aio.Channel | None = None
        self._stream: Any = None

    async def ask(self, channel: grpc.aio.Channel, lease: int, timeout: float) -> LeaseKeepAliveResponse:
        """Renews it over `channel`. Raises grpc.RpcError, StoreUnavailable; StoreSilent after `timeout`."""
        if self._stream is None or self._channel is not channel or self._stream.done():
            self.close()
            stub = LeaseStub(channel)  # type: ignore[no-untyped-call]  # generated
            self._channel, self._stream = channel, stub.LeaseKeepAlive()
        try:
            async with asyncio.timeout(timeout):
                await self._stream.write(LeaseKeepAliveRequest(ID=lease))
                answer: LeaseKeepAliveResponse = await self._stream.read()
        except TimeoutError as fault:
            self.close()
            raise StoreSilent("etcd did not answer a keep-alive in time") from fault
        except asyncio.InvalidStateError as fault:  # the call ended before the write
            self.close()
            raise StoreUnavailable("etcd ended the keep-alive") from fault
        except BaseException:
            self.close()  # an answer that still comes would be taken for the next one's
            raise
        if answer is grpc.aio.EOF:
            self.close()
            raise StoreUnavailable("etcd ended the keep-alive")
        return answer

    def close(self) -> None:
        """Ends the stream, if there is one."""
        if self._stream is not None:
            self._stream.cancel()
        self._channel = self._stream = None


class Lease:
    """See `bridge_core.store.api.LeaseHandle`; renewed every third of its life."""

    def __init__(self, endpoints: Endpoints, ttl_s: float) -> None:
        self._endpoints = endpoints
        self._ttl_s = max(1, math.ceil(ttl_s))  # etcd counts whole seconds
        self.id = 0
        self.expires_at = -math.inf
        self._replaced = asyncio.Condition()
        self._over = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._renewals = RenewalStream()

    async def keep(self) -> None:
        """See `LeaseHandle`."""
        self._idle.clear()
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep_on(), name="lease-keeper")
                await self._over.wait()
                keeping.cancel()
        finally:
            self._renewals.close()
            self._idle.set()

    async def changed(self, seen: int) -> int:
        """See `LeaseHandle`."""
        async with self._replaced:
            await self._replaced.wait_for(lambda: self.id not in {0, seen})
            return self.id

    async def revoke(self) -> None:
        """See `LeaseHandle`."""
        self._over.set()
        await self._idle.wait()  # a grant on its way would be one that nobody gives back
        lease_id, self.id, self.expires_at = self.id, 0, -math.inf
        if not lease_id:
            return

        async def call(channel: grpc.aio.Channel, timeout: float) -> Any:
            stub = LeaseStub(channel)  # type: ignore[no-untyped-call]  # generated
            return await stub.LeaseRevoke(LeaseRevokeRequest(ID=lease_id), timeout=timeout)

        try:
            async with asyncio.timeout(_REVOKE_DEADLINE_S):
                await self._endpoints.read(call)  # repeating a revocation harms nothing
        except LeaseGone:
            pass
        except (BridgeError, TimeoutError) as fault:
            log.info("lease_not_revoked", lease=f"{lease_id:x}", reason=str(fault) or "no answer in time")

    async def _keep_on(self) -> None:
        backoff = self._endpoints.timing.backoff()
        failing = False
        while True:
            try:
                if self.id == 0:
                    await self._grant()
                elif not await self._renew():
                    log.warning("lease_lost", lease=f"{self.id:x}")
                    self.id, self.expires_at = 0, -math.inf
                    continue
                backoff.reset()
                failing = False
                await asyncio.sleep(self._ttl_s / 3)
            except BridgeError as fault:
                if not failing:  # once an outage, not once an attempt
                    log.warning("lease_not_renewed", lease=f"{self.id:x}", reason=fault.message)
                failing = True
                await asyncio.sleep(backoff.next_s())

    async def _grant(self) -> None:
        request = LeaseGrantRequest(TTL=self._ttl_s)

        async def call(channel: grpc.aio.Channel, timeout: float) -> Any:
            return await LeaseStub(channel).LeaseGrant(request, timeout=timeout)  # type: ignore[no-untyped-call]  # generated

        sent = time.monotonic()
        # A grant whose answer was lost expires unused, so it may be repeated.
        answer, _ = await self._endpoints.read(call)
        async with self._replaced:
            self.id, self.expires_at = answer.ID, sent + answer.TTL
            self._replaced.notify_all()

    async def _renew(self) -> bool:
        """Whether the store still has the lease."""
        sent = 0.0

        async def call(channel: grpc.aio.Channel, timeout: float) -> Any:
            nonlocal sent
            sent = time.monotonic()
            return await self._renewals.ask(channel, self.id, timeout)

        answer, _ = await self._endpoints.read(call)
        if answer.TTL <= 0:
            return False
        self.expires_at = sent + answer.TTL
        return True
