"""What nodes call: renewal, leaving, snapshots, load."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

from bridge_core.bounds import MAX_REASON
from bridge_core.errors import Unavailable
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Snapshot, Version
from bridge_registry.console.traffic_rules import TrafficBook
from bridge_registry.enrolment.enroller import Enroller
from bridge_registry.health.keeper import HealthKeeper
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.publication.hub import Acknowledgement, Hub
from bridge_registry.publication.subscription_rules import RESEND_S, Subscription, acknowledged, next_send
from bridge_registry.rpc.gate import Context, Gate
from bridge_registry.rpc.health_messages import health_of
from bridge_registry.rpc.load_messages import report_of
from bridge_registry.rpc.messages import identity_message, update_message, version_of
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc


class MeshService(rpc.MeshServicer):
    """See registry.proto.

    Args:
        gate: Admits calls.
        enroller: Renews and revokes.
        hub: Has the snapshots.
        load: Takes what agents report.
        check_serving: Raises Unavailable when another registry leads: agents go there.
        health: Takes what they report of health.
        traffic: Adds up how much models and nodes are used.
    """

    def __init__(
        self,
        gate: Gate,
        enroller: Enroller,
        hub: Hub,
        load: LoadReports,
        check_serving: Callable[[], None],
        *,
        health: HealthKeeper,
        traffic: TrafficBook,
    ) -> None:
        self._gate = gate
        self._enroller = enroller
        self._hub = hub
        self._load = load
        self._health = health
        self._check_serving = check_serving
        self._traffic = traffic
        self._known: tuple[Snapshot | None, frozenset[str]] = (None, frozenset())

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "node") as peer:
            assert peer is not None  # noqa: S101 - the gate saw to it
            facts = request.facts
            issued = await self._enroller.renew(peer, request.csr_pem, facts.peer_address, facts.version)
            return pb.RenewResponse(identity=identity_message(issued))

    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveResponse:
        """See registry.proto."""
        async with self._gate.admit(context, "node") as peer:
            assert peer is not None  # noqa: S101 - the gate saw to it
            await self._enroller.leave(peer)
            return pb.LeaveResponse()

    async def WatchSnapshot(self, requests: AsyncIterator[pb.SnapshotAck], context: Context) -> None:
        """See registry.proto."""
        async with self._gate.admit(context, "node") as peer:
            assert peer is not None  # noqa: S101 - the gate saw to it
            await _Stream(self._hub, context, peer.identity.name, self._check).run(requests)

    async def ReportLoad(
        self, requests: AsyncIterator[pb.LoadReport], context: Context
    ) -> pb.LoadReportSummary:
        """See registry.proto. Ends when this registry stops leading: reports are for the leader."""
        async with self._gate.admit(context, "node") as peer:
            assert peer is not None  # noqa: S101 - the gate saw to it
            node, received = peer.identity.name, 0
            try:
                async for message in requests:
                    self._check_serving()
                    if not self._gate.still_admitted(context, "node"):
                        break
                    now, wall = time.monotonic(), time.time()
                    report = report_of(message, node, self._hub.current, wall)
                    self._load.take_report(node, report, now)
                    self._health.take(node, health_of(message, node, self._hub.current, wall), now)
                    known = self._models()
                    self._traffic.take(node, report.began, report.models, known, now=now, wall=wall)
                    received += 1
            finally:
                self._load.gone(node)
            return pb.LoadReportSummary(received=received)

    def _models(self) -> frozenset[str]:
        """Every model that the mesh has; found once for each snapshot, however many agents report."""
        current = self._hub.current
        if self._known[0] is not current:
            instances = current.instances.values()
            names = (canonical_or_same(one.name) for each in instances for one in each.models)
            self._known = (current, frozenset(names))
        return self._known[1]

    def _check(self, context: Context) -> bool:
        if self._hub.closed:
            raise Unavailable("this registry stops")
        self._check_serving()
        return self._gate.still_admitted(context, "node")


class _Stream:
    """One agent's stream of snapshots."""

    def __init__(self, hub: Hub, context: Context, node: str, check: Callable[[Context], bool]) -> None:
        self._hub = hub
        self._context = context
        self._node = node
        self._check = check
        self._state = Subscription()
        self._heard = asyncio.Event()
        self._said: Acknowledgement | None = None
        self._ended = False
        self._told: Mapping[str, bytes] | None = None

    async def run(self, requests: AsyncIterator[pb.SnapshotAck]) -> None:
        """Sends until the agent goes or may not go on."""
        listener = asyncio.create_task(self._listen(requests))
        try:
            await self._heard.wait()  # the agent's first message says what it has
            while not self._ended and self._check(self._context):
                self._heard.clear()
                change = self._hub.next_change
                if not await self._send():
                    await self._wait(listener, change)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
            # An agent that came back has another stream, whose word stays.
            if self._hub.acknowledged.get(self._node) is self._said:
                self._hub.acknowledged.pop(self._node, None)

    async def _listen(self, requests: AsyncIterator[pb.SnapshotAck]) -> None:
        try:
            async for ack in requests:
                have = version_of(ack.have) if ack.HasField("have") else None
                if have == Version():
                    have = None
                self._state = acknowledged(self._state, have, ack.rejected, time.monotonic())
                self._said = self._hub.acknowledged[self._node] = Acknowledgement(
                    have, ack.rejected[:MAX_REASON]
                )
                self._heard.set()
        finally:
            self._ended = True
            self._heard.set()

    async def _send(self) -> bool:
        current = self._hub.current
        if not current.entries:  # nothing is published yet
            return False
        secrets = self._hub.secrets
        untold = secrets is not self._told
        send, self._state = next_send(
            self._state, current.version, self._hub.known, time.monotonic(), untold=untold
        )
        if send is None:
            return False
        update = update_message(
            self._hub.delta(send.base), self._hub.ring_digest, secrets if untold else None
        )
        self._told = secrets
        await self._context.write(update)
        return True

    async def _wait(self, listener: asyncio.Task[None], change: asyncio.Event) -> None:
        # Bounded: a revoked caller is noticed, and a rejected snapshot is offered again.
        news = asyncio.create_task(change.wait())
        heard = asyncio.create_task(self._heard.wait())
        try:
            await asyncio.wait({news, heard, listener}, timeout=RESEND_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            heard.cancel()
