"""What `bridgectl top` and `bridgectl events` call."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from bridge_registry.console.feed import Feed
from bridge_registry.rpc.gate import Context, Gate
from bridge_wire.v1 import console_pb2 as pb
from bridge_wire.v1 import console_pb2_grpc as rpc

_LOOK_AGAIN_S: Final = 5.0  # at the latest: a caller that was revoked is noticed


class ConsoleService(rpc.ConsoleServicer):
    """See console.proto.

    Args:
        gate: Admits calls.
        feed: The picture and the events.
        check_serving: Raises Unavailable when another registry leads.
    """

    def __init__(self, gate: Gate, feed: Feed, check_serving: Callable[[], None]) -> None:
        self._gate = gate
        self._feed = feed
        self._check_serving = check_serving

    async def Look(self, request: pb.LookRequest, context: Context) -> pb.LookResponse:
        """See console.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            self._check_serving()
            picture = self._feed.picture or self._feed.look()
            return pb.LookResponse(picture=msgspec.json.encode(picture))

    async def WatchEvents(self, request: pb.WatchEventsRequest, context: Context) -> None:
        """See console.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            after = request.after
            while True:
                self._check_serving()
                for one in self._feed.events_after(after):
                    await context.write(pb.MeshEvent(**msgspec.structs.asdict(one)))
                    after = one.id
                if not request.follow or not self._gate.still_admitted(context, "admin"):
                    return
                await self._feed.news(_LOOK_AGAIN_S)
