"""A registry over gRPC with the node's certificate.

A channel's certificate is fixed when it is made, so each call makes its own from the files as
they are then: a renewed certificate is used by the next call without anybody being told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import grpc
import grpc.aio

from bridge_agent.config import StateDir
from bridge_agent.health.report import gauge_messages, golden_messages, health_messages
from bridge_agent.membership.registry_api import (
    Grants,
    IssuedIdentity,
    LoadReport,
    LoadStream,
    NotAMember,
    QuotaCall,
    SnapshotStream,
    Update,
)
from bridge_agent.models.shared.hold import PublishCall, PublishHold
from bridge_agent.quotas.messages import grants_of, report_message
from bridge_agent.quotas.stream_rules import QuotaReport
from bridge_core.count_messages import fields_of
from bridge_core.counts import Counts
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.formats import WRITTEN
from bridge_core.registry_channel import open_channel
from bridge_core.snapshot import Delta, Version
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.console_pb2 import ModelLoad
from bridge_wire.v1.quota_pb2_grpc import QuotasStub
from bridge_wire.v1.registry_pb2_grpc import EnrolmentStub, MeshStub
from bridge_wire.v1.shared_storage_pb2 import PublishBeat
from bridge_wire.v1.shared_storage_pb2_grpc import SharedStorageStub

_CALL_S = 10.0
_MOST_VALID_MS = 300_000
_RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_NOT_A_MEMBER = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})


class RegistryClient:
    """One registry at `address`, called with the identity in `state`."""

    def __init__(self, address: str, state: StateDir, *, peer_address: str = "") -> None:
        """`peer_address` is where other agents reach this one; told with every renewal."""
        self.address = address
        self._state = state
        self._facts = pb.NodeFacts(peer_address=peer_address, version=version("deepseek-ollama-bridge"))

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[SnapshotStream]:
        """See `Registry.watch`."""
        async with self._stub() as stub:
            call = stub.WatchSnapshot()
            try:
                yield _Stream(self.address, call)
            finally:
                call.cancel()

    @contextlib.asynccontextmanager
    async def report_load(self) -> AsyncIterator[LoadStream]:
        """See `Registry.report_load`."""
        async with self._stub() as stub:
            call = stub.ReportLoad()
            try:
                yield _Reports(self.address, call)
            finally:
                call.cancel()

    @contextlib.asynccontextmanager
    async def lease_cells(self) -> AsyncIterator[QuotaCall]:
        """See `Registry.lease_cells`."""
        async with self._stub(QuotasStub) as stub:
            call = stub.LeaseCells()
            try:
                yield _Quotas(self.address, call)
            finally:
                call.cancel()

    @contextlib.asynccontextmanager
    async def publish(self) -> AsyncIterator[PublishCall]:
        """See `PublishRegistry.publish`."""
        async with self._stub(SharedStorageStub) as stub:
            call = stub.Publish()
            try:
                yield _Publication(self.address, call)
            finally:
                call.cancel()

    async def renew(self, csr: bytes) -> IssuedIdentity:
        """See `Registry.renew`."""
        async with self._stub() as stub:
            with _translated(self.address):
                response = await stub.Renew(pb.RenewRequest(csr_pem=csr, facts=self._facts), timeout=_CALL_S)
        return issued(response.identity)

    async def nonce(self) -> bytes:
        """See `Registry.nonce`."""
        async with self._anonymous() as stub:
            with _translated(self.address):
                return bytes((await stub.Hello(pb.HelloRequest(), timeout=_CALL_S)).nonce)

    async def renew_expired(
        self, csr: bytes, certificate: bytes, *, nonce: bytes, signature: bytes
    ) -> IssuedIdentity:
        """See `Registry.renew_expired`."""
        request = pb.RenewExpiredRequest(
            csr_pem=csr, facts=self._facts, certificate_pem=certificate, nonce=nonce, signature=signature
        )
        async with self._anonymous() as stub:
            with _translated(self.address):
                response = await stub.RenewExpired(request, timeout=_CALL_S)
        return issued(response.identity)

    async def check(self) -> None:
        """See `Registry.check`: a stream of load reports that has none."""
        async with self._stub() as stub:
            with _translated(self.address):
                call = stub.ReportLoad(timeout=_CALL_S)
                with contextlib.suppress(grpc.aio.InternalError):  # it has ended already; how, is next
                    await call.done_writing()
                await call

    async def leave(self) -> None:
        """See `Registry.leave`."""
        async with self._stub() as stub:
            with _translated(self.address):
                await stub.Leave(pb.LeaveRequest(), timeout=_CALL_S)

    @contextlib.asynccontextmanager
    async def _anonymous(self) -> AsyncIterator[Any]:
        try:
            ca = self._state.ca.read_bytes()
        except OSError as fault:
            raise BridgeError(f"cannot read the node's identity: {fault}") from fault
        async with open_channel(self.address, ca) as channel:
            yield EnrolmentStub(channel)  # type: ignore[no-untyped-call]  # generated

    @contextlib.asynccontextmanager
    async def _stub(self, kind: Any = MeshStub) -> AsyncIterator[Any]:
        try:
            ca, key, cert = (
                path.read_bytes() for path in (self._state.ca, self._state.key, self._state.certificate)
            )
        except OSError as fault:
            raise BridgeError(f"cannot read the node's identity: {fault}") from fault
        async with open_channel(self.address, ca, cert_pem=cert, key_pem=key) as channel:
            yield kind(channel)


class _Stream:
    def __init__(self, address: str, call: Any) -> None:
        self._address = address
        self._call = call

    async def send(self, have: Version | None, rejected: str = "") -> None:
        with _translated(self._address):
            await self._call.write(pb.SnapshotAck(have=_version_message(have), rejected=rejected))

    async def receive(self) -> Update:
        with _translated(self._address):
            message = await self._call.read()
        if message is grpc.aio.EOF:
            raise Unavailable(f"registry {self._address} ended the snapshot stream")
        return update_of(message)


class _Reports:
    def __init__(self, address: str, call: Any) -> None:
        self._address = address
        self._call = call

    async def send(self, report: LoadReport, news: Mapping[tuple[str, str], Counts]) -> None:
        with _translated(self._address, "load reports"):
            if self._call.done():
                await self._call  # says why
                raise Unavailable(f"registry {self._address} ended the load reports")
            await self._call.write(_load_message(report, news))


class _Quotas:
    def __init__(self, address: str, call: Any) -> None:
        self._address = address
        self._call = call

    async def send(self, began_unix_ms: int, report: QuotaReport) -> None:
        with _translated(self._address, "quota leases"):
            await self._call.write(report_message(began_unix_ms, report))

    async def receive(self) -> Grants:
        with _translated(self._address, "quota leases"):
            message = await self._call.read()
        if message is grpc.aio.EOF:
            raise Unavailable(f"registry {self._address} ended the quota leases")
        return grants_of(message)


class _Publication:
    def __init__(self, address: str, call: Any) -> None:
        self._address = address
        self._call = call

    async def send(self, tier: str, model: str, *, alone: bool = False) -> None:
        await self._write(PublishBeat(tier=tier, model=model, alone=alone))

    async def done(self) -> None:
        await self._write(PublishBeat(done=True))
        with _translated(self._address, "lease"):
            await self._call.read()  # its end: the lease is given back

    async def _write(self, beat: PublishBeat) -> None:
        with _translated(self._address, "lease"):
            if self._call.done():
                await self._call  # says why
                raise Unavailable(f"registry {self._address} ended the lease")
            await self._call.write(beat)

    async def receive(self) -> PublishHold:
        with _translated(self._address, "lease"):
            message = await self._call.read()
        if message is grpc.aio.EOF:
            raise Unavailable(f"registry {self._address} ended the lease")
        return PublishHold(message.token, min(message.valid_ms, _MOST_VALID_MS) / 1000.0, message.alone)


def update_of(message: pb.SnapshotUpdate) -> Update:
    """The update in a message."""
    delta = Delta(
        version=_version(message.version),
        base=_version(message.base) if message.HasField("base") else None,
        changed={entry.key: entry.value for entry in message.entries},
        removed=tuple(message.removed),
        digest=message.digest,
    )
    return Update(delta, message.ring_digest, dict(message.secrets))


def issued(identity: pb.Identity) -> IssuedIdentity:
    """The certificates in a message."""
    return IssuedIdentity(identity.certificate_chain_pem, identity.trust_bundle_pem, identity.issuers_pem)


def translate(address: str, code: grpc.StatusCode, details: str | None) -> BridgeError:
    """What a call's failure means to the agent."""
    words = details or code.name
    if code in _RETRYABLE:
        return Unavailable(f"registry {address} does not answer: {words}")
    if code in _NOT_A_MEMBER:
        return NotAMember(f"registry {address} refused: {words}")
    return BridgeError(f"registry {address} refused: {words}")


@contextlib.contextmanager
def _translated(address: str, what: str = "snapshot stream") -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as fault:
        raise translate(address, fault.code(), fault.details()) from fault
    except (grpc.aio.BaseError, asyncio.InvalidStateError) as fault:  # the call ended between two messages
        raise Unavailable(f"registry {address} ended the {what}") from fault


def _version(message: pb.SnapshotVersion) -> Version:
    return Version(message.epoch, message.revision)


def _version_message(version: Version | None) -> pb.SnapshotVersion | None:
    return None if version is None else pb.SnapshotVersion(epoch=version.epoch, revision=version.revision)


def _load_message(report: LoadReport, news: Mapping[tuple[str, str], Counts]) -> pb.LoadReport:
    return pb.LoadReport(
        began_unix_ms=report.began_unix_ms,
        in_flight=report.in_flight,
        snapshot=_version_message(report.version),
        instances=[
            pb.InstanceLoad(instance=one.id, in_flight=one.in_flight, queued=one.queued, slots=one.slots)
            for one in report.instances
        ],
        backends=[
            pb.BackendLoad(route=route, backend=backend, **fields_of(counts))
            for (route, backend), counts in news.items()
        ],
        probes=[
            pb.ProbeResult(
                rollout=one.rollout,
                round=one.round,
                instance=one.instance,
                passed=one.passed,
                detail=one.detail,
            )
            for one in report.results
        ],
        silent_peers=[
            pb.SilentPeer(node=node, since_unix=int(since)) for node, since in report.silent_peers.items()
        ],
        trusts=report.trusts,
        version=report.program,
        now_unix=report.now,
        speaks=WRITTEN,
        clients_used_unix=report.clients,
        health=health_messages(report.health),
        gauges=gauge_messages(report.health),
        golden=golden_messages(report.health),
        models=[ModelLoad(model=model, **fields_of(counts)) for model, counts in report.models.items()],
        scaled_models=[
            pb.ScaledModelLoad(
                model=one.model,
                asked=one.asked,
                ttft_buckets=one.counts.ttft,
                ttft_seconds=one.counts.ttft_s,
            )
            for one in report.demand
        ],
    )
