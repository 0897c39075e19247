"""The guard's process: its listeners, its view of the mesh, and the task group they live in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc.aio
import msgspec
import structlog

from bridge_core import http1, keyspace
from bridge_core.errors import BridgeError, Fatal
from bridge_core.etcd_server import parse_version, trusted_alone
from bridge_core.files import write_atomically
from bridge_core.store.api import Put, StoreRefused
from bridge_core.store.endpoints import Endpoints, StoreTiming
from bridge_core.store.etcd import EtcdStore
from bridge_core.systemd.notify import Notifier
from bridge_core.tls import TlsIdentity
from bridge_registry.admin_http import AdminApp, Readiness
from bridge_registry.enrolment.pki_files import Pki
from bridge_registry.rpc.tls_front import TlsFront
from bridge_registry.store_guard.figures import GuardFigures
from bridge_registry.store_guard.guard_rules import MAX_OPS, MAX_VALUE_BYTES
from bridge_registry.store_guard.guard_table import PREFIXES, GuardTable
from bridge_registry.store_guard.service import StoreGuard
from bridge_wire.etcd.rpc_pb2 import StatusRequest
from bridge_wire.etcd.rpc_pb2_grpc import MaintenanceStub

log = structlog.get_logger()

_RETRY_S: Final = 1.0
_GRACE_S: Final = 0.5
_KNOWN_TTL_S: Final = 2.0  # etcd's least: gone before any node's lease is
_LOOK_S: Final = 1.0  # how often the files of its certificate and of whom it trusts are looked at
_MAX_REQUEST_BYTES: Final = 1024 * 1024  # etcd's default is 1.5 MiB
_CONNECTIONS_EACH: Final = 8  # of one node: an agent needs one, and one more when it restarts
_GRPC_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    ("grpc.max_concurrent_streams", 32),
    # Agents ping every 10 s, also while nothing happens.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    # A certificate that has expired meanwhile does not live on in its connection.
    ("grpc.max_connection_age_ms", 15 * 60_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
    ("grpc.so_reuseport", 0),
)

assert MAX_VALUE_BYTES < _MAX_REQUEST_BYTES and MAX_OPS < 128  # noqa: PT018, S101 - what etcd takes by default


class GuardOptions(msgspec.Struct, frozen=True):
    """How a guard runs.

    Attributes:
        pki: The registry's files, of which it reads its own two pairs and the two CAs.
        sockets: Folder of its own for private sockets.
        listen: (host, port) that nodes reach it at; port 0: any.
        admin: (host, port) of the admin listener; port 0: any.
        etcd: Endpoints.
        ready_file: Written when it listens: `{"pid", "listen", "admin"}`.
    """

    pki: Pki
    sockets: Path
    listen: tuple[str, int]
    admin: tuple[str, int]
    etcd: tuple[str, ...]
    ready_file: Path | None = None


class GuardProcess:
    """A running guard. `serve` runs it; `stop` ends it.

    Attributes:
        port: The listener's, once `started` is set.
        admin_port: The admin listener's.
        started: Set when both listen.
        service: What answers nodes.
    """

    def __init__(self, options: GuardOptions, store: EtcdStore, endpoints: Endpoints) -> None:
        cert, key = options.pki.pair("guard")
        self._identity = TlsIdentity(cert, key, options.pki.issuers)
        own = self._identity.info.identity
        if own is None or own.kind != "guard":
            raise Fatal(f"{cert} is not a store guard's", hint="run `bridge-registry init` once more")
        self._options = options
        self._store = store
        self._endpoints = endpoints
        self._stop = asyncio.Event()
        self._front = TlsFront(options.sockets, flag="--listen", most_each=_CONNECTIONS_EACH)
        self.table = GuardTable()
        self.service = StoreGuard(
            endpoints=endpoints,
            store=store,
            table=self.table,
            trust_domain=own.trust_domain,
            caller_of=self._front.caller,
            now=time.monotonic,
        )
        self.port = self.admin_port = 0
        self.started = asyncio.Event()

    def stop(self) -> None:
        """Makes `serve` return."""
        self._stop.set()

    async def serve(self) -> None:
        """Runs until stopped.

        Raises:
            Fatal: a port is taken.
        """
        server = grpc.aio.server(options=_GRPC_OPTIONS)
        server.add_generic_rpc_handlers((self.service,))
        server.add_insecure_port(self._front.inner_target)
        admin: http1.Server | None = None
        try:
            await server.start()
            await self._front.serve(*self._options.listen, self._identity.server(require_client=True))
            figures = GuardFigures(self.service, self.table, lambda: self._fault)
            app = AdminApp((figures,), self._readiness, socket.gethostname())
            host, port = self._options.admin
            admin = await http1.serve(app, name="guard-admin", host=host, port=port)
            self.port, self.admin_port = self._front.port, admin.port
            self.started.set()
            await self._work()
        finally:
            if admin is not None:
                await admin.close(0.0)
            self.service.close()
            await server.stop(_GRACE_S)
            await self._front.close()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow(prefix), name=f"watch {prefix}") for prefix in PREFIXES]
            tasks += [group.create_task(self._renew_identity()), group.create_task(self._judge_etcd())]
            tasks.append(group.create_task(self._be_known()))
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    async def _be_known(self) -> None:
        """Keeps this guard's key: while there is none, registries believe no lease's end (rule 3d there)."""
        key = keyspace.GUARDS + self._options.pki.name
        lease = self._store.lease(_KNOWN_TTL_S)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(lease.keep(), name="guard-lease")
                held = 0
                while True:
                    held = await lease.changed(held)
                    while lease.id == held:
                        with contextlib.suppress(BridgeError):
                            await self._store.commit([Put(key, b"{}", lease=held)])
                            break
                        await asyncio.sleep(_RETRY_S)
        finally:
            await asyncio.shield(lease.revoke())

    @property
    def _fault(self) -> str:
        fault = self._store.fault
        return "" if fault is None else fault.reason

    def _readiness(self) -> Readiness:
        if not self.table.whole:
            reason = self._fault or "not read yet"
            return Readiness(ready=False, reason=f"nothing is known of the mesh; store {reason}")
        if self._fault:
            return Readiness(ready=False, reason=f"store away: {self._fault}")
        return Readiness(ready=True, reason="guarding")

    async def _follow(self, prefix: str) -> None:
        said = ""
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(prefix)) as events:
                    async for event in events:
                        self.table.apply(prefix, event)
            except StoreRefused as fault:  # its user is not there yet: the registry makes it
                if str(fault) != said:
                    said = str(fault)
                    log.warning("store_refuses_the_guard", prefix=prefix, reason=said)
            await asyncio.sleep(_RETRY_S)

    async def _renew_identity(self) -> None:
        files = self._identity.cert, self._identity.ca
        seen = [_stamp(path) for path in files]
        while True:
            await asyncio.sleep(_LOOK_S)
            if (stamp := [_stamp(path) for path in files]) == seen:
                continue
            try:
                self._identity.reload()
                seen = stamp
                log.info("own_certificate_taken_up", expires_unix=self._identity.info.not_after)
            except BridgeError as fault:
                log.error("own_certificate_not_taken_up", reason=str(fault))

    async def _judge_etcd(self) -> None:
        """Says once which etcd is behind this guard, and whether it could stand alone."""

        async def status(channel: grpc.aio.Channel, timeout: float) -> Any:
            stub = MaintenanceStub(channel)  # type: ignore[no-untyped-call]  # generated
            return await stub.Status(StatusRequest(), timeout=timeout)

        while True:
            try:
                answer, _ = await self._endpoints.read(status)
                break
            except BridgeError:
                await asyncio.sleep(_RETRY_S)
        version = parse_version(answer.version)
        if version is not None and trusted_alone(version):
            log.info("etcd_version", version=answer.version)
        else:
            log.warning(
                "etcd_needs_its_guard",
                version=answer.version,
                reason="it does not look into nested transactions: whoever reaches it may write every key",
                hint="let nobody but registries and guards reach it; 3.5.31 and 3.6.9 look into them",
            )


def _stamp(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


@contextlib.asynccontextmanager
async def _clients(options: GuardOptions) -> AsyncIterator[tuple[EtcdStore, Endpoints]]:
    tls = options.pki.etcd_client("guard")
    store, endpoints = EtcdStore(options.etcd, tls), Endpoints(options.etcd, tls, StoreTiming())
    try:
        yield store, endpoints
    finally:
        await endpoints.close()
        await store.close()


async def run(options: GuardOptions) -> None:
    """Runs a guard until SIGTERM or SIGINT.

    Raises:
        BridgeError: it cannot start.
    """
    notifier = Notifier()
    async with _clients(options) as (store, endpoints):
        guard = GuardProcess(options, store, endpoints)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, guard.stop)
        announcing = asyncio.create_task(_announce(guard, options, notifier))
        try:
            await guard.serve()
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)


async def _announce(guard: GuardProcess, options: GuardOptions, notifier: Notifier) -> None:
    """Says where it listens, then that it lives; cancelled when it has stopped."""
    await guard.started.wait()
    where = {
        "pid": os.getpid(),
        "listen": f"{options.listen[0]}:{guard.port}",
        "admin": f"{options.admin[0]}:{guard.admin_port}",
    }
    log.info("store_guard_listening", **where)
    if options.ready_file is not None:
        write_atomically(options.ready_file, msgspec.json.encode(where))
    notifier.tell("READY=1")
    await notifier.keep_alive()
