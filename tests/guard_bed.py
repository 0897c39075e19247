"""An etcd, a store guard in this process, and certificates of every kind: without a registry."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bridge_cli.etcd_ready import ready
from bridge_core import keyspace
from bridge_core.etcd_server import EtcdOptions
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.identity.spiffe import GUARD_SERVER_NAME
from bridge_core.store.api import Delete, KeyListing, Put, StoreRefused
from bridge_core.store.endpoints import Endpoints, StoreTiming
from bridge_core.store.etcd import ClientTls, EtcdStore
from bridge_registry.enrolment import pki_files
from bridge_registry.enrolment.pki_files import GUARD_USER, REGISTRY_USER
from bridge_registry.enrolment.store_access import EtcdAccess
from bridge_registry.records import NodeRecord, SerialRecord, encode
from bridge_registry.store_guard import app as guard_app
from bridge_registry.store_guard.app import GuardOptions, GuardProcess
from tests.contract.store.beds import QUICK
from tests.etcd_server import EtcdServer
from tests.ports import free_port
from tests.support import eventually, kept

MESH = "bridge.local"


class GuardBed:
    """The server side. `etcd` runs after `start`; guards run inside `guard`."""

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        self.folder = folder
        self.pki = pki_files.Pki(folder / "pki", "r1")
        self.ensured = pki_files.ensure(self.pki, None, ["127.0.0.1", "localhost"], now=time.time())
        cert, key = self.pki.pair("etcd")
        self.etcd = EtcdServer(
            EtcdOptions(
                data_dir=folder / "etcd",
                log_file=folder / "etcd.log",
                client_port=free_port(),
                peer_port=free_port(),
                cert=cert,
                key=key,
                ca=self.pki.etcd_ca,
                binary=binary,
            )
        )
        self.etcd_url = self.etcd.settings.url
        self.guard_url = ""

    async def start(self) -> None:
        """Starts etcd and turns its access control on, as the registry does at its first start."""
        self.etcd.start()
        await self.answers()
        channels = Endpoints([self.etcd_url], self.pki.etcd_client("registry"), StoreTiming())
        await EtcdAccess(channels.write, REGISTRY_USER, GUARD_USER).prepare()
        await channels.close()

    async def answers(self) -> None:
        await ready([self.etcd_url], self.pki.etcd_client("registry"), 20.0)

    @contextlib.asynccontextmanager
    async def guard(self, port: int = 0) -> AsyncIterator[GuardProcess]:
        """A guard that serves, stopped at the end."""
        options = GuardOptions(
            pki=self.pki,
            sockets=self.folder / "sockets",
            listen=("127.0.0.1", port),
            admin=("127.0.0.1", 0),
            etcd=(self.etcd_url,),
        )
        async with guard_app._clients(options) as (store, endpoints):
            guard = GuardProcess(options, store, endpoints)
            serving = asyncio.create_task(guard.serve())
            try:
                await asyncio.wait_for(guard.started.wait(), 60)
                self.guard_url = f"https://127.0.0.1:{guard.port}"
                await eventually(lambda: guard.table.whole)
                yield guard
            finally:
                guard.stop()
                await serving

    @contextlib.asynccontextmanager
    async def registry(self) -> AsyncIterator[EtcdStore]:
        """etcd as a registry sees it: all of it."""
        store = EtcdStore([self.etcd_url], self.pki.etcd_client("registry"), timing=QUICK)
        try:
            yield store
        finally:
            await store.close()

    async def enrol(self, name: str, **more: str) -> Holder:
        """A node's certificate and its record."""
        holder = self.certificate("node", name)
        record = NodeRecord(name, serial=holder.serial, **more)
        async with self.registry() as store:
            serial = SerialRecord(f"spiffe://{MESH}/node/{name}", time.time() + 3_600)
            ops = [
                Put(keyspace.NODES + name, encode(record)),
                Put(keyspace.SERIALS + holder.serial, encode(serial)),
            ]
            assert (await store.commit(ops)).committed
        return holder

    async def revoke(self, holder: Holder) -> None:
        """As the registry does it."""
        async with self.registry() as store:
            name = holder.identity.name
            ops = [
                Put(keyspace.NODES + name, encode(NodeRecord(name, state="revoked"))),
                Put(keyspace.REVOKED + holder.serial, b"{}"),
                Delete(keyspace.members_of(name), prefix=True),
            ]
            assert (await store.commit(ops)).committed

    def certificate(
        self,
        kind: str,
        name: str,
        *,
        domain: str = MESH,
        authority: x509.Authority | None = None,
        **more: Any,
    ) -> Holder:
        """A certificate of the mesh's CA."""
        signer = authority or self.ensured.authority
        identity, key = SpiffeId(domain, kind, name), x509.generate_key()
        values = {"now": time.time(), "ttl_s": 3_600.0, **more}
        leaf = x509.issue(signer, key.public_key(), identity, **values)
        folder = self.folder / f"{domain}-{kind}-{name}"
        folder.mkdir()
        (folder / "cert.pem").write_bytes(x509.to_pem(leaf) + signer.chain)
        (folder / "key.pem").write_bytes(x509.key_to_pem(key))
        tls = ClientTls(folder / "cert.pem", folder / "key.pem", self.pki.issuers, GUARD_SERVER_NAME)
        return Holder(self, identity, f"{leaf.serial_number:x}", tls)

    async def everything(self) -> KeyListing:
        """All keys there are."""
        async with self.registry() as store:
            return await store.list("")


class Holder:
    """Somebody with a certificate, and ways to call with it."""

    def __init__(self, bed: GuardBed, identity: SpiffeId, serial: str, tls: ClientTls) -> None:
        self.bed, self.identity, self.serial, self.tls = bed, identity, serial, tls

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[EtcdStore]:
        """The store as an agent opens it."""
        store = EtcdStore([self.bed.guard_url], self.tls, timing=QUICK)
        try:
            yield store
        finally:
            await store.close()

    @contextlib.asynccontextmanager
    async def channel(self, url: str | None = None) -> AsyncIterator[grpc.aio.Channel]:
        """A bare channel, to the guard unless to `url`."""
        with self._credentials() as credentials:
            named = [("grpc.ssl_target_name_override", GUARD_SERVER_NAME)] if url is None else []
            target = (url or self.bed.guard_url).removeprefix("https://")
            async with grpc.aio.secure_channel(target, credentials, options=named) as channel:
                yield channel

    @contextlib.contextmanager
    def _credentials(self) -> Iterator[grpc.ChannelCredentials]:
        # Both CAs, so that it is the server that refuses.
        trusted = self.bed.pki.ca.read_bytes() + self.bed.pki.etcd_ca.read_bytes()
        yield grpc.ssl_channel_credentials(trusted, self.tls.key.read_bytes(), self.tls.cert.read_bytes())


async def registered(store: EtcdStore, key: str, value: bytes = b"{}", ttl_s: float = 30.0) -> Any:
    """Puts a record under a lease of its own; returns the lease."""
    lease = kept(store, ttl_s)
    await asyncio.wait_for(lease.changed(0), 60)
    assert (await store.commit([Put(key, value, lease=lease.id)])).committed
    return lease


__all__ = ["MESH", "GuardBed", "Holder", "StoreRefused", "registered"]
