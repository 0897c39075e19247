"""All nodes' renewals on a few streams to etcd: a stream for each would be most of what the guard costs."""

from __future__ import annotations

import asyncio
from typing import Final

from bridge_core.store.endpoints import Endpoints
from bridge_core.store.leases import RenewalStream
from bridge_wire.etcd.rpc_pb2 import LeaseKeepAliveResponse

# A follower asks its leader about each renewal before it answers, so one stream would wait in turns.
_STREAMS: Final = 8


class Renewals:
    """See the module."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._streams = [(asyncio.Lock(), RenewalStream()) for _ in range(_STREAMS)]

    async def renew(self, lease: int) -> LeaseKeepAliveResponse:
        """What etcd answers; a TTL of 0: it does not have the lease.

        Raises:
            StoreUnavailable, StoreRefused: it was not renewed.
        """
        lock, stream = self._streams[lease % _STREAMS]
        async with lock:
            answer, _ = await self._endpoints.read(lambda channel, t: stream.ask(channel, lease, t))
        return answer

    def close(self) -> None:
        """Ends the streams."""
        for _, stream in self._streams:
            stream.close()
