"""What `bridgectl top`, `bridgectl events` and `bridgectl console` call."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from bridge_registry.console.feed import Feed
from bridge_registry.console.session_rules import CODE_S
from bridge_registry.console.sign_in import SignIn
from bridge_registry.rpc.gate import Context, Gate
from bridge_wire.v1 import console_pb2 as pb
from bridge_wire.v1 import console_pb2_grpc as rpc

_LOOK_AGAIN_S: Final = 5.0  # at the latest: a caller that was revoked is noticed


class ConsoleDoor(msgspec.Struct, frozen=True):
    """Where a registry's page is, and who lets admins in."""

    sign_in: SignIn
    port: int
    registry: str


class ConsoleService(rpc.ConsoleServicer):
    """See console.proto.

    Args:
        gate: Admits calls.
        feed: The picture and the events.
        check_serving: Raises Unavailable when another registry leads.
        console: The page's door, at this moment.
    """

    def __init__(
        self, gate: Gate, feed: Feed, check_serving: Callable[[], None], console: Callable[[], ConsoleDoor]
    ) -> None:
        self._gate = gate
        self._feed = feed
        self._check_serving = check_serving
        self._console = console

    async def Look(self, request: pb.LookRequest, context: Context) -> pb.LookResponse:
        """See console.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            self._check_serving()
            picture = self._feed.picture or self._feed.look()
            return pb.LookResponse(picture=msgspec.json.encode(picture))

    async def SignIn(self, request: pb.SignInRequest, context: Context) -> pb.SignInResponse:
        """See console.proto. Only who leads lets anybody in: nobody else can do what is asked for there."""
        async with self._gate.admit(context, "admin", role="viewer") as peer:
            self._check_serving()
            assert peer is not None  # noqa: S101 - an admin was admitted
            door = self._console()
            return pb.SignInResponse(
                code=door.sign_in.invite(peer),
                seconds=int(CODE_S),
                admin_port=door.port,
                registry=door.registry,
                role=self._gate.role_of(peer.identity.name) or "",
            )

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
