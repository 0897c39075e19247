"""What nodes ask that write models into shared storage."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from bridge_core.errors import Unavailable
from bridge_core.store.api import StoreRefused
from bridge_core.token_bucket import TokenBucket
from bridge_registry.rpc.gate import Context, Gate
from bridge_registry.shared_storage.hold_rules import BEATS, BEATS_A_S
from bridge_registry.shared_storage.publications import Publications
from bridge_wire.v1 import shared_storage_pb2 as pb
from bridge_wire.v1 import shared_storage_pb2_grpc as rpc


class SharedStorageService(rpc.SharedStorageServicer):
    """See shared_storage.proto.

    Args:
        gate: Admits calls.
        publications: Gives the leases.
        now: Monotonic seconds.
    """

    def __init__(
        self, gate: Gate, publications: Publications, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._gate = gate
        self._publications = publications

    async def Publish(self, requests: AsyncIterator[pb.PublishBeat], context: Context) -> None:
        """See shared_storage.proto. A stream that ends without a word is one that broke off."""
        async with self._gate.admit(context, "node") as peer:
            assert peer is not None  # noqa: S101 - the gate saw to it
            beats = aiter(requests)
            first = await self._next(beats)
            if first is None:
                raise StoreRefused("a stream without a beat holds nothing")
            holds = self._publications.hold(peer.identity.name, first.tier, first.model, alone=first.alone)
            beating = TokenBucket(BEATS, BEATS_A_S, self._now())
            async with holds as holding:
                while True:
                    valid = await holding.valid_ms()
                    await context.write(
                        pb.PublishHold(token=holding.token, valid_ms=valid, alone=first.alone)
                    )
                    await self._paced(beating)
                    beat = await self._next(beats)
                    if beat is None or beat.done:
                        holding.done = beat is not None
                        return
                    if not self._gate.still_admitted(context, "node"):
                        raise StoreRefused("this node may not publish any more")

    async def _paced(self, beating: TokenBucket) -> None:
        """Returns when the next beat may be read; the stream's flow control holds back the others."""
        while not beating.take(self._now()):  # noqa: ASYNC110 - what it waits for is time
            await asyncio.sleep(1.0 / BEATS_A_S)

    async def _next(self, beats: AsyncIterator[pb.PublishBeat]) -> pb.PublishBeat | None:
        """The next beat; None: there are no more. Raises Unavailable: none came for a lease's life."""
        try:
            async with asyncio.timeout(self._publications.ttl_s):
                return await anext(beats)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            raise Unavailable(f"the writer said nothing for {self._publications.ttl_s:g} s") from None
