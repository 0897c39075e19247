"""What the store's contract suite runs on: the fake, and a real etcd behind TLS."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
import trustme

from bridge_cli.etcd_ready import ready
from bridge_core.errors import Fatal
from bridge_core.etcd_server import EtcdOptions
from bridge_core.store.api import Store
from bridge_core.store.etcd import ClientTls, EtcdStore, StoreTiming
from bridge_wire.etcd.rpc_pb2 import CompactionRequest
from bridge_wire.etcd.rpc_pb2_grpc import KVStub
from tests.etcd_server import EtcdServer
from tests.fakes.store import FakeEtcd, FakeStore
from tests.ports import free_port
from tests.support import eventually

# Silence is noticed within a test's patience, and a busy machine is not taken for it.
QUICK = StoreTiming(connect_s=3.0, answer_s=3.0, idle_s=0.3, backoff_first_s=0.02, backoff_most_s=0.2)


class Bed(Protocol):
    """A store server under a test's control."""

    lease_s: float  # the shortest lease it grants

    def client(self) -> Store: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def restart(self) -> None: ...
    async def compact(self, revision: int) -> None: ...


class FakeBed:
    lease_s = 0.3

    def __init__(self) -> None:
        self.etcd = FakeEtcd()

    def client(self) -> Store:
        return FakeStore(self.etcd)

    async def pause(self) -> None:
        self.etcd.pause()

    async def resume(self) -> None:
        self.etcd.resume()

    async def restart(self) -> None:
        self.etcd.pause()
        await asyncio.sleep(0)
        self.etcd.resume()

    async def compact(self, revision: int) -> None:
        assert revision <= self.etcd.revision
        self.etcd.compact()


class Certificates:
    """A CA, a server's certificate and clients', as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)
        self.server_cert, self.server_key = self.issue("server", "127.0.0.1", "localhost")
        self.client = self.client_tls("client")

    def issue(self, name: str, *names: str) -> tuple[Path, Path]:
        issued = self._authority.issue_cert(*(names or (f"{name}.test",)), common_name=name)
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return cert, key

    def client_tls(self, name: str) -> ClientTls:
        cert, key = self.issue(name)
        return ClientTls(cert=cert, key=key, ca=self.ca)


class EtcdBed:
    lease_s = 2.0  # etcd's least: one and a half election timeouts, rounded up

    def __init__(self, folder: Path, certificates: Certificates, *, default_limits: bool = False) -> None:
        self.certificates = certificates
        self.server = EtcdServer(
            EtcdOptions(
                data_dir=folder / "data",
                log_file=folder / "etcd.log",
                client_port=free_port(),
                peer_port=free_port(),
                cert=certificates.server_cert,
                key=certificates.server_key,
                ca=certificates.ca,
            ),
            default_limits=default_limits,
        )
        self.url = self.server.settings.url

    def client(self) -> Store:
        return EtcdStore([self.url], self.certificates.client, timing=QUICK)

    async def pause(self) -> None:
        self.server.signal(signal.SIGSTOP)
        await eventually(self._stopped)

    def _stopped(self) -> bool:
        # Of many threads some may still answer after the signal was sent.
        stats = Path(f"/proc/{self.server.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)

    async def resume(self) -> None:
        self.server.signal(signal.SIGCONT)

    async def restart(self) -> None:
        self.server.kill()
        self.server.start()
        await self.ready()

    async def ready(self) -> None:
        await ready([self.url], self.certificates.client, 20.0)

    def channel(self, tls: ClientTls | None = None) -> Any:
        tls = tls or self.certificates.client
        credentials = grpc.ssl_channel_credentials(
            tls.ca.read_bytes(), tls.key.read_bytes(), tls.cert.read_bytes()
        )
        return grpc.aio.secure_channel(self.url.removeprefix("https://"), credentials)

    async def compact(self, revision: int) -> None:
        async with self.channel() as channel:
            await KVStub(channel).Compact(CompactionRequest(revision=revision, physical=True), timeout=60)


@asynccontextmanager
async def store_clients(kind: str, folder: Path) -> AsyncIterator[Callable[[], Store]]:
    """Makes clients of one store: "fake", of one in memory; else of a real etcd, its files in `folder`."""
    if kind == "fake":
        yield FakeBed().client
        return
    folder.mkdir()
    real = EtcdBed(folder, Certificates(folder))
    try:
        real.server.start()
    except Fatal as fault:
        pytest.skip(str(fault))
    try:
        await real.ready()
        yield real.client
    finally:
        real.server.stop()


@asynccontextmanager
async def limited_store(folder: Path) -> AsyncIterator[EtcdStore]:
    """A store on an etcd with its default limits: 128 operations a transaction, requests of 1.5 MiB."""
    bed = EtcdBed(folder, Certificates(folder), default_limits=True)
    bed.server.start()
    try:
        await bed.ready()
        client = EtcdStore([bed.url], bed.certificates.client)
        yield client
        await client.close()
    finally:
        bed.server.stop()
