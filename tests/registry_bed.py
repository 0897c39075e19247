"""A registry in this process, on a store of the test's choice, and callers of its gRPC services."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio

from bridge_core.errors import Unavailable
from bridge_core.identity import JoinToken, SpiffeId
from bridge_core.identity.certificates import create_csr, generate_key, key_to_pem
from bridge_core.registry_channel import fetch_ca, open_channel
from bridge_core.snapshot import Delta, Instance, Snapshot, SnapshotRejected, Version, apply, encode_entry
from bridge_core.store.api import Put, Store
from bridge_registry.app import Registry
from bridge_registry.enrolment.store_access import OpenAccess, StoreAccess
from bridge_registry.options import RegistryOptions
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc
from bridge_wire.v1.clients_pb2_grpc import ClientsStub
from tests.fakes.store import FakeEtcd, FakeStore
from tests.support import eventually, kept

MESH = "bridge.local"


class Node:
    """An enrolled node: its key and certificate, and calls made with them."""

    def __init__(self, bed: Bed, name: str, key_pem: bytes, response: pb.JoinResponse) -> None:
        self.bed, self.name, self.key_pem, self.joined = bed, name, key_pem, response
        self.cert_pem = response.identity.certificate_chain_pem

    @contextlib.asynccontextmanager
    async def mesh(self, bed: Bed | None = None) -> AsyncIterator[rpc.MeshStub]:
        to = bed or self.bed
        async with open_channel(
            to.address, to.ca_pem, cert_pem=self.cert_pem, key_pem=self.key_pem
        ) as channel:
            yield rpc.MeshStub(channel)

    async def register(self, store: Store, n: int = 0, ttl_s: float = 60.0, **more: object) -> object:
        """Puts an instance under a lease of its own; returns the lease."""
        lease = kept(store, ttl_s)
        await lease.changed(0)
        instance = Instance(id=f"{self.name}/{n}", node=self.name, **more)  # type: ignore[arg-type]  # test shorthand
        key = f"/bridge/v1/members/{self.name}/{n}"
        assert (await store.commit([Put(key, encode_entry(instance), lease=lease.id)])).committed
        return lease


class Bed:
    """One registry and what is needed to call it."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        pki = registry.settings.pki
        self.ca_pem = pki.ca.read_bytes()
        self._admin = tuple(path.read_bytes() for path in pki.pair("admin"))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.registry.grpc_port}"

    async def leads(self) -> None:
        """Waits until this registry leads, may write, and has published, its founding among it."""
        await eventually(
            lambda: self._may_write() and bool(self.registry.publisher.hub.current.mesh.store_id)
        )

    def _may_write(self) -> bool:
        """Whether it leads and has read the store since; with a snapshot on disk it publishes before."""
        try:
            self.registry._leadership.fence()
        except Unavailable:
            return False
        return True

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncIterator[rpc.AdminStub]:
        cert, key = self._admin
        async with open_channel(self.address, self.ca_pem, cert_pem=cert, key_pem=key) as channel:
            yield rpc.AdminStub(channel)

    @contextlib.asynccontextmanager
    async def called_by(self, cert_pem: bytes, key_pem: bytes) -> AsyncIterator[grpc.aio.Channel]:
        """A channel with an identity of the test's choice."""
        async with open_channel(self.address, self.ca_pem, cert_pem=cert_pem, key_pem=key_pem) as channel:
            yield channel

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[ClientsStub]:
        """The clients' service, called by the founder."""
        async with self.called_by(*self._admin) as channel:
            yield ClientsStub(channel)

    async def token(self, **fields: object) -> str:
        async with self.admin() as admin:
            return str((await admin.CreateToken(pb.CreateTokenRequest(**fields))).token)  # type: ignore[arg-type]

    async def join(self, name: str, token: str | None = None, *, key: object = None, **more: object) -> Node:
        """Enrols a node as an agent does, its CA fetched by the token's pin."""
        text = token if token is not None else await self.token()
        private = key or generate_key()
        ca_pem = await fetch_ca(self.address, JoinToken.parse(text).ca_pin)
        csr = more.pop("csr_pem", None) or create_csr(private, SpiffeId(MESH, "node", "any"))  # type: ignore[arg-type]
        facts = pb.NodeFacts(peer_address="127.0.0.1:11445", version="test")
        async with open_channel(self.address, ca_pem) as channel:
            response = await rpc.EnrolmentStub(channel).Join(
                pb.JoinRequest(token=text, node_name=name, csr_pem=csr, facts=facts)  # type: ignore[arg-type]
            )
        return Node(self, name, key_to_pem(private), response)  # type: ignore[arg-type]


def make_settings(state: Path, name: str = "r1", **more: object) -> RegistryOptions:
    """Settings with any free ports."""
    return RegistryOptions(
        state_dir=state,
        name=name,
        grpc=("127.0.0.1", 0),
        admin=("127.0.0.1", 0),
        etcd=("https://etcd.example:2379",),
        guards=("https://guard.example:11404",),
        **more,  # type: ignore[arg-type]  # test shorthand
    )


@contextlib.asynccontextmanager
async def leading(state: Path, etcd: FakeEtcd) -> AsyncIterator[Bed]:
    """A registry over a store in memory, which leads."""
    store = FakeStore(etcd)
    async with running(make_settings(state), store) as found:
        await found.leads()
        yield found
    await store.close()


@contextlib.asynccontextmanager
async def running(
    settings: RegistryOptions, store: Store, access: StoreAccess | None = None
) -> AsyncIterator[Bed]:
    """A registry that serves, stopped at the end."""
    registry = Registry(settings, store, access or OpenAccess(), settings.ensure_pki())
    serving = asyncio.create_task(registry.serve())
    started = asyncio.create_task(registry.started.wait())
    try:
        await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield Bed(registry)
    finally:
        started.cancel()
        registry.stop()
        await serving


async def refused(call: object) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that has to fail."""
    try:
        await call  # type: ignore[misc]  # an awaitable
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the call was not refused")


class Follower:
    """An agent as far as snapshots go: applies updates and acknowledges them."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot or Snapshot(Version(), {})
        self.updates: list[tuple[Version, bool]] = []  # version, whether it was whole
        self.reject_next = ""
        self.seen: list[set[str]] = []  # the instances after each update
        self.fault: grpc.aio.AioRpcError | None = None
        self.secrets: list[dict[str, bytes]] = []  # of each update

    async def follow(self, stub: rpc.MeshStub) -> None:
        """Until the stream ends."""
        call = stub.WatchSnapshot()
        try:
            await call.write(self._ack(""))
            while (update := await call.read()) is not grpc.aio.EOF:
                await call.write(self._ack(self._take(update)))
        except grpc.aio.AioRpcError as fault:
            self.fault = fault
        finally:
            call.cancel()

    def _take(self, update: pb.SnapshotUpdate) -> str:
        base = Version(update.base.epoch, update.base.revision) if update.HasField("base") else None
        version = Version(update.version.epoch, update.version.revision)
        self.updates.append((version, base is None))
        self.secrets.append(dict(update.secrets))
        if self.reject_next:
            reason, self.reject_next = self.reject_next, ""
            return reason
        delta = Delta(
            version,
            base,
            {entry.key: entry.value for entry in update.entries},
            tuple(update.removed),
            update.digest,
        )
        try:
            self.snapshot = apply(self.snapshot, delta)
        except SnapshotRejected as fault:
            return str(fault)
        self.seen.append(set(self.snapshot.instances))
        return ""

    def _ack(self, rejected: str) -> pb.SnapshotAck:
        version = self.snapshot.version
        have = (
            pb.SnapshotVersion(epoch=version.epoch, revision=version.revision)
            if self.snapshot.entries
            else None
        )
        return pb.SnapshotAck(have=have, rejected=rejected)


@contextlib.asynccontextmanager
async def following(node: Node, follower: Follower, bed: Bed | None = None) -> AsyncIterator[Follower]:
    """`follower` on a stream of `node`'s, which is cut at the end."""
    async with node.mesh(bed) as stub:
        task = asyncio.create_task(follower.follow(stub))
        try:
            yield follower
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
