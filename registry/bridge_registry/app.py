"""The registry's composition root: builds every part and opens the one TaskGroup."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import grpc.aio
import msgspec
import structlog

from bridge_core import http1, keyspace
from bridge_core.addresses import join_address
from bridge_core.audit.anchoring import Anchoring
from bridge_core.bounds import MAX_REASON
from bridge_core.errors import Fatal, Unavailable
from bridge_core.files import write_atomically
from bridge_core.quantities import say_span
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.store.api import Store, StoreRefused
from bridge_core.store.endpoints import Endpoints, StoreTiming
from bridge_core.store.etcd import EtcdStore
from bridge_core.systemd.notify import Notifier
from bridge_core.tls import TlsIdentity
from bridge_registry import audit
from bridge_registry.admin_http import AdminApp, Readiness, RegistryFigures
from bridge_registry.alerts.alert_metrics import AlertFigures
from bridge_registry.alerts.made import Alerting
from bridge_registry.clients.admin_desk import AdminDesk
from bridge_registry.clients.certifier import Certifier
from bridge_registry.clients.client_desk import ClientDesk
from bridge_registry.clients.mesh_secrets import MeshSecrets
from bridge_registry.clients.role_rules import role_of
from bridge_registry.console.act_rules import ALERTING_CALLS, CALLS
from bridge_registry.console.clients_page import ClientsPage
from bridge_registry.console.console_service import ConsoleDoor, ConsoleService
from bridge_registry.console.feed import Feed
from bridge_registry.console.mesh_metrics import MeshFigures
from bridge_registry.console.pages import ConsolePages
from bridge_registry.console.painter import Painter
from bridge_registry.console.sign_in import SignIn
from bridge_registry.console.streams import Streams
from bridge_registry.console.traffic_rules import TrafficBook
from bridge_registry.election import Election
from bridge_registry.enrolment.authority_desk import AuthorityDesk
from bridge_registry.enrolment.authority_keeper import AuthorityKeeper
from bridge_registry.enrolment.enroller import Enroller
from bridge_registry.enrolment.nonces import Nonces
from bridge_registry.enrolment.pki_files import GUARD_USER, REGISTRY_USER, Ensured
from bridge_registry.enrolment.store_access import EtcdAccess, OpenAccess, StoreAccess
from bridge_registry.enrolment.token_desk import TokenDesk
from bridge_registry.enrolment.token_review import TokenReviewer
from bridge_registry.forecasts.forecast_metrics import ForecastFigures
from bridge_registry.health.keeper import HealthKeeper
from bridge_registry.key_sets.fetching import fetch_key_set
from bridge_registry.key_sets.keeper import KeySetKeeper
from bridge_registry.leadership import Leadership
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.options import RegistryOptions
from bridge_registry.publication.publisher import Publisher
from bridge_registry.quotas.office import QuotaOffice
from bridge_registry.records import Candidate
from bridge_registry.restore import Restorer
from bridge_registry.rollouts.controller import RolloutController
from bridge_registry.rpc.admin_service import AdminService
from bridge_registry.rpc.alerting_service import AlertingService
from bridge_registry.rpc.authority_service import AuthorityService
from bridge_registry.rpc.clients_service import ClientsService
from bridge_registry.rpc.enrolment_service import EnrolmentService
from bridge_registry.rpc.forecast_service import ForecastService
from bridge_registry.rpc.gate import Gate
from bridge_registry.rpc.health_service import HealthService
from bridge_registry.rpc.inner_calls import InnerCalls
from bridge_registry.rpc.mesh_service import MeshService
from bridge_registry.rpc.policies_service import PoliciesService
from bridge_registry.rpc.quota_service import QuotaAdminService, QuotaService
from bridge_registry.rpc.scaling_service import ExternalScalerService, ScalingService
from bridge_registry.rpc.shared_storage_service import SharedStorageService
from bridge_registry.rpc.tls_front import TlsFront
from bridge_registry.scaling.controller import ScalingController
from bridge_registry.scaling.figures import ScalingFigures
from bridge_registry.shared_storage.publications import Publications
from bridge_registry.standing import Standing
from bridge_registry.store_memory import HINT, StoreMemory
from bridge_registry.traffic.config_desk import ConfigDesk
from bridge_registry.traffic.directory_watch import DirectoryWatch
from bridge_registry.upkeep import Upkeep
from bridge_wire.v1 import quota_pb2_grpc
from bridge_wire.v1 import registry_pb2_grpc as rpc
from bridge_wire.v1.alerting_pb2_grpc import add_AlertingServicer_to_server
from bridge_wire.v1.authority_pb2_grpc import add_AuthorityServicer_to_server
from bridge_wire.v1.clients_pb2_grpc import add_ClientsServicer_to_server
from bridge_wire.v1.console_pb2_grpc import add_ConsoleServicer_to_server
from bridge_wire.v1.externalscaler_pb2_grpc import add_ExternalScalerServicer_to_server
from bridge_wire.v1.forecast_pb2_grpc import add_ForecastsServicer_to_server
from bridge_wire.v1.health_pb2_grpc import add_HealthServicer_to_server
from bridge_wire.v1.policy_pb2_grpc import add_PoliciesServicer_to_server
from bridge_wire.v1.scaling_pb2_grpc import add_ScalingServicer_to_server
from bridge_wire.v1.shared_storage_pb2_grpc import add_SharedStorageServicer_to_server

log = structlog.get_logger()

LEADER_TTL_S: Final = 5.0
_RETRY_S: Final = 1.0
_GUARD_PATIENCE_S: Final = 15.0  # a guard that is started anew is no concern
_GRACE_S: Final = 1.0

_GRPC_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    # Agents ping every 10 s, also while nothing happens.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


class Registry:
    """A running registry. `serve` runs it; `stop` ends it.

    Args:
        settings: How to run.
        store: Where the truth is; closed by whoever made it.
        access: Who may write there.
        ensured: The open CA.

    Attributes:
        grpc_port: The gRPC listener's port, once `started` is set.
        admin_port: The admin listener's.
        publisher: What is known of the mesh, and published.
        rollouts: Moves them on.
        health: What there is to say against instances.
        alerting: Alerts, and who is told of them.
        alert_figures: Metrics of both.
        feed: What people watch.
        quotas: Lends them, and keeps what was used.
        mesh_config_watch: Applies the folder of `--mesh-config`; None without one.
        started: Set when both listen.
    """

    def __init__(
        self, settings: RegistryOptions, store: Store, access: StoreAccess, ensured: Ensured
    ) -> None:
        self.settings = settings
        self.grpc_port = self.admin_port = 0
        self.started = asyncio.Event()
        self._admin_app: AdminApp | None = None
        self._stop = asyncio.Event()
        self._store = store
        cert, key = settings.pki.pair("registry")
        self._identity = TlsIdentity(cert, key, settings.pki.issuers)
        self._keeper = AuthorityKeeper(settings.pki, ensured, settings.all_hosts, self._identity)
        domain = ensured.trust_domain
        own = Candidate(settings.name, settings.advertised, settings.advertised_guards)
        self._election = Election(store, keyspace.LEADER, msgspec.json.encode(own), LEADER_TTL_S)
        self._memory = StoreMemory(settings.store_file)
        self._leadership = Leadership(self._election, own, time.monotonic, self._memory.check)
        fence = self._leadership.fence
        secrets = self._secrets = MeshSecrets(store, ensured.sealer, fence)
        self.publisher = Publisher(
            store,
            self._election,
            domain,
            SnapshotFile(settings.snapshot_file, ensured.sealer, now=time.time),
            self._memory,
            on_authorities=self._keeper.take,
            secrets=secrets,
            verdicts=lambda: self.health.verdicts(),  # noqa: PLW0108 - made below, of the publisher
        )
        table, hub = self.publisher.table, self.publisher.hub
        self._front = TlsFront(settings.state_dir / "sockets")
        self.health = HealthKeeper(lambda: hub.current, self._leadership.leads, self.publisher.touch)
        inner = InnerCalls(self._front.caller)
        gate = Gate(inner.caller, domain, table.is_revoked, lambda name: role_of(name, table.admins))
        nonces = Nonces(time.monotonic)
        self._audit = audit.log_of(
            settings.state_dir, domain, settings.name, lambda: hub.current, ensured.sealer
        )
        self._recording = audit.AuditInterceptor(self._audit, inner.caller, settings.name)
        self._anchoring = Anchoring(self._audit, lambda: hub.current.mesh.audit)
        self._cosigning, self._links = audit.cosigning_of(
            self._audit, self._identity, domain, lambda: hub.current
        )
        enroller = Enroller(
            store=store,
            signer=self._keeper,
            trust_domain=domain,
            directory=table,
            certificate_ttl_s=lambda: table.mesh_spec.certificate_ttl if table.mesh_spec else 86_400.0,
            renewal_grace_s=lambda: table.mesh_spec.security.renewal_grace if table.mesh_spec else 0.0,
            nonces=nonces,
            fence=fence,
            clock=time.time,
            pods=TokenReviewer(settings.kubernetes, domain, time.monotonic) if settings.kubernetes else None,
        )
        self._config = ConfigDesk(store, domain, fence, time.time)
        load = LoadReports()
        self._traffic = TrafficBook(time.time())
        restorer = Restorer(
            store=store,
            memory=self._memory,
            records=lambda: {**self._memory.history, **table.records},
            access=access,
            authorities=lambda: self._keeper.authorities,
            fence=self._leadership.office_fence,
        )
        self.rollouts = RolloutController(store, self._leadership, table, load, lambda: hub.current)
        self.scaling = ScalingController(store, self._leadership, table, load, lambda: hub.current)
        certifier = Certifier(store, self._keeper, domain, time.time)
        clients = ClientDesk(
            store=store,
            secrets=secrets,
            certifier=certifier,
            trust_domain=domain,
            count=lambda: len(table.clients),
            fence=fence,
            clock=time.time,
        )
        admins = AdminDesk(
            store=store, certifier=certifier, trust_domain=domain, fence=fence, clock=time.time
        )
        self._clients = ClientsService(gate, clients, admins, lambda name: load.clients.get(name, 0))
        self._key_sets = KeySetKeeper(store, self._leadership, table, fetch_key_set, time.time)
        self.quotas = QuotaOffice(store, self._leadership, lambda: hub.current)
        self._policies = PoliciesService(gate, table, hub, domain, time.time)
        self._services = (
            EnrolmentService(
                gate,
                enroller,
                hub,
                settings.advertised_guards,
                trust_domain=domain,
                nonces=nonces,
                clock=time.time,
            ),
            MeshService(
                gate,
                enroller,
                hub,
                load,
                self._leadership.check_serving,
                health=self.health,
                traffic=self._traffic,
            ),
            AdminService(
                gate=gate,
                tokens=TokenDesk(store, lambda: self._keeper.pin, fence, time.time),
                config=self._config,
                enroller=enroller,
                rollouts=self.rollouts,
                load=load,
                store=store,
                table=table,
                hub=hub,
                trust_domain=domain,
                fence=fence,
                standing=self._standing,
                lives=lambda: self._keeper.lives,
                restorer=restorer,
            ),
            QuotaService(gate, self.quotas),
            QuotaAdminService(gate, self.quotas),
        )
        self.alerting = Alerting(
            store,
            self._leadership,
            table,
            self.health,
            snapshot=lambda: hub.current,
            moving=lambda: {plan.name for plan, at in self.rollouts.positions() if at.phase == "progressing"},
            mesh=domain,
            state=settings.state_dir,
        )
        self.alert_figures = AlertFigures(self.alerting.desk, self.alerting.courier)
        self._alerting_service = AlertingService(gate, self.alerting, self._leadership.check_serving)
        self._health_service = HealthService(
            gate,
            self.health,
            self.alerting.desk,
            lambda: hub.current,
            check_serving=self._leadership.check_serving,
            now=time.monotonic,
        )
        self._forecast_service = ForecastService(gate, self.alerting.desk, self._leadership.check_serving)
        self._scaling_service = ScalingService(gate, self.scaling)
        self._shared_storage = SharedStorageService(gate, Publications(store, self._leadership))
        self._external_scaler = ExternalScalerService(gate, self.scaling)
        authorities = AuthorityDesk(
            store=store,
            keeper=self._keeper,
            # Who reports no more may trust less by now.
            trusts=lambda: {name: one.trusts for name, one in load.nodes.items() if one.at > 0.0},
            trust_domain=domain,
            fence=fence,
            clock=time.time,
        )
        self._authority_service = AuthorityService(gate, authorities, self._keeper)
        painter = Painter(
            self.publisher,
            load,
            self.rollouts,
            lambda: self.alerting.desk.alerts,
            self._traffic,
            silences=lambda: self.alerting.desk.silences.lasting,
            gauges=lambda: {name: one.gauges for name, one in self.health.heard.items()},
            trust_domain=domain,
            standing=self._standing,
        )
        self.feed = Feed(painter.paint)
        self._streams = Streams(self.feed)
        self.feed.looked = lambda: self._streams.tell(time.monotonic())
        sign_in = self._sign_in = SignIn(
            inner,
            gate,
            recorded=self._recording.recorded,
            acts={
                name: self._recording.recorded(getattr(service, name), name)
                for service, names in ((self._services[2], CALLS), (self._alerting_service, ALERTING_CALLS))
                for name in names
            },
            registry=settings.name,
        )
        asked = {
            **{name: getattr(self._services[4], name) for name in ("Usage", "Use")},
            "ListClients": self._clients.ListClients,
        }
        self._clients_page = ClientsPage(
            sign_in, inner, {name: self._recording.recorded(one, name) for name, one in asked.items()}
        )
        self._pages = ConsolePages(
            self._streams,
            self._traffic,
            lambda: hub.current.nodes,
            self._links.to,
            self._config.history,
        )
        self._console = ConsoleService(
            gate,
            self.feed,
            self._leadership.check_serving,
            lambda: ConsoleDoor(sign_in, self.admin_port, settings.name),
        )
        self.mesh_config_watch = (
            DirectoryWatch(settings.mesh_config, self._config, self._leadership.leads)
            if settings.mesh_config is not None
            else None
        )
        self._upkeep = Upkeep(
            store,
            self._leadership,
            access,
            lambda: self._keeper.authorities,
            mesh_id=lambda: self._memory.mesh_id,
            secrets=secrets,
            restorer=restorer,
        )

    def stop(self) -> None:
        """Makes `serve` return."""
        self._stop.set()

    async def serve(self) -> None:
        """Runs until stopped.

        Raises:
            Fatal: a port is taken, or the store belongs to another mesh.
        """
        server = grpc.aio.server(interceptors=[self._recording], options=_GRPC_OPTIONS)
        rpc.add_EnrolmentServicer_to_server(self._services[0], server)  # type: ignore[no-untyped-call]  # generated
        rpc.add_MeshServicer_to_server(self._services[1], server)  # type: ignore[no-untyped-call]  # generated
        rpc.add_AdminServicer_to_server(self._services[2], server)  # type: ignore[no-untyped-call]  # generated
        add_AuthorityServicer_to_server(self._authority_service, server)  # type: ignore[no-untyped-call]  # generated
        add_ClientsServicer_to_server(self._clients, server)  # type: ignore[no-untyped-call]  # generated
        quota_pb2_grpc.add_QuotasServicer_to_server(self._services[3], server)  # type: ignore[no-untyped-call]  # generated
        quota_pb2_grpc.add_QuotaAdminServicer_to_server(self._services[4], server)  # type: ignore[no-untyped-call]  # generated
        add_ForecastsServicer_to_server(self._forecast_service, server)  # type: ignore[no-untyped-call]  # generated
        add_HealthServicer_to_server(self._health_service, server)  # type: ignore[no-untyped-call]  # generated
        add_ScalingServicer_to_server(self._scaling_service, server)  # type: ignore[no-untyped-call]  # generated
        add_ExternalScalerServicer_to_server(self._external_scaler, server)  # type: ignore[no-untyped-call]  # generated
        add_AlertingServicer_to_server(self._alerting_service, server)  # type: ignore[no-untyped-call]  # generated
        add_SharedStorageServicer_to_server(self._shared_storage, server)  # type: ignore[no-untyped-call]  # generated
        add_ConsoleServicer_to_server(self._console, server)  # type: ignore[no-untyped-call]  # generated
        add_PoliciesServicer_to_server(self._policies, server)  # type: ignore[no-untyped-call]  # generated
        server.add_insecure_port(self._front.inner_target)
        admin: http1.Server | None = None
        try:
            await server.start()
            await self._front.serve(*self.settings.grpc, self._identity.server(require_client=False))
            figures = RegistryFigures(
                self.publisher,
                self._leadership.leads,
                lambda: bool(self._memory.foreign),
                lambda: self._keeper.lives,
            )
            collectors = (
                figures,
                ScalingFigures(self.scaling),
                MeshFigures(self.feed, self._traffic),
                self.alert_figures,
                ForecastFigures(partial(self.alerting.desk.forecasts, hit=True), self.alerting.desk.fullest),
            )
            app = self._admin_app = AdminApp(collectors, self._readiness, socket.gethostname())
            host, port = self.settings.admin
            admin = await http1.serve(app, name="registry-admin", host=host, port=port)
            self.grpc_port, self.admin_port = self._front.port, admin.port
            self.started.set()
            await self._work()
        finally:
            self._streams.close()
            if admin is not None:
                await admin.close(0.0)
            self.publisher.hub.close()  # streams end by themselves; gRPC would cancel them noisily
            await server.stop(_GRACE_S)
            await self._front.close()
            await self._links.close()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_persist("election", self._election.run)),
                group.create_task(_persist("publication", self.publisher.run)),
                group.create_task(_kept("audit", self._audit.run)),
                group.create_task(_kept("cosigning", self._cosigning.run)),
                group.create_task(_kept("alerts", self.alerting.desk.run)),
                group.create_task(_kept("alert-delivery", self.alerting.courier.run)),
                group.create_task(_kept("anchoring", self._anchoring.run)),
                group.create_task(_kept("console", self.feed.run)),
                group.create_task(self._upkeep.run()),
                group.create_task(self.rollouts.run(), name="rollouts"),
                group.create_task(_kept("scaling", self.scaling.run), name="scaling"),
                group.create_task(self._key_sets.run(), name="key-sets"),
                group.create_task(self.quotas.run(), name="quotas"),
                group.create_task(self._keeper.run(), name="own-certificates"),
            ]
            if self._admin_app is not None:
                self._admin_app.pages = {
                    **self._pages.apps(group),
                    **self._sign_in.pages(group),
                    **self._clients_page.pages(group),
                }
                self._admin_app.posts = self._sign_in.posts(group)
            if self.mesh_config_watch is not None:
                tasks.append(group.create_task(self.mesh_config_watch.run()))
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    def _standing(self) -> Standing:
        fault = self._store.fault
        away = f"for {time.monotonic() - fault.since:.0f} s: {fault.reason}" if fault is not None else ""
        # Who leads and has not read the store through yet may lead in another one: it cannot tell.
        leads = self._leadership.leads() and self._memory.candidacy == self._leadership.office_fence().key
        leader = self._leadership.leader
        return Standing(
            leads,
            away,
            tuple(self._concerns()),
            self.settings.name,
            leader.name if leader is not None else "",
            leader.address if leader is not None else "",
        )

    def _concerns(self) -> Iterator[str]:
        yield from self._keeper.concerns()
        yield from self.health.concerns()
        yield from self.alerting.courier.concerns()
        yield from self._audit.concerns()
        yield from self._cosigning.concerns()
        yield from self._anchoring.concerns()
        if self._memory.foreign:
            yield f"{self._memory.foreign}; nothing is written or published until then: {HINT}"
        since = self.publisher.table.unguarded_since
        if since is not None and (gone := time.monotonic() - since) > _GUARD_PATIENCE_S:
            yield (
                f"no store guard has answered for {say_span(gone)}: no node can renew its lease or register; "
                "those that are there are kept meanwhile. Start one: systemctl start bridge-store-guard"
            )
        if unread := self.publisher.table.faults:
            key, reason = min(unread.items())
            many = "1 record" if len(unread) == 1 else f"{len(unread)} records"
            does = "does" if len(unread) == 1 else "do"
            yield f"{many} in the store {does} not decode: {key} ({reason[:MAX_REASON]})"
        yield from self._secrets.faults.values()
        for key, reason in self.publisher.entry_faults.items():
            yield f"{key} is not published as it is, agents would refuse it: {reason[:MAX_REASON]}"
        yield from self._key_sets.concerns()
        if self.mesh_config_watch is not None:
            for fault in self.mesh_config_watch.faults:
                yield f"the folder of mesh_config is not applied: {fault[:MAX_REASON]}"

    def _readiness(self) -> Readiness:
        standing = self._standing()
        if not self.publisher.ready:
            return Readiness(
                ready=False, reason=f"no state yet; store {standing.store_fault or 'not read yet'}"
            )
        if self._memory.foreign:
            return Readiness(ready=True, reason=f"serving the last snapshot; {self._memory.foreign} ({HINT})")
        if standing.store_fault:
            return Readiness(
                ready=True, reason=f"serving the last snapshot; store away {standing.store_fault}"
            )
        try:
            self._leadership.check_serving()
        except Unavailable as fault:
            return Readiness(ready=True, reason=str(fault))
        if not standing.leader:
            return Readiness(ready=False, reason="no registry leads yet")
        try:
            self._leadership.fence()
        except Unavailable as fault:
            return Readiness(ready=False, reason=fault.message)
        return Readiness(ready=True, reason="leading")


async def run(settings: RegistryOptions) -> None:
    """Runs a registry until SIGTERM or SIGINT.

    Raises:
        Fatal: it cannot start or go on.
    """
    notifier = Notifier()
    ensured = settings.ensure_pki()
    tls = settings.pki.etcd_client("registry")
    store = EtcdStore(settings.etcd, tls)
    channels = Endpoints(settings.etcd, tls, StoreTiming())
    try:
        access = EtcdAccess(channels.write, REGISTRY_USER, GUARD_USER) if settings.etcd_rbac else OpenAccess()
        registry = Registry(settings, store, access, ensured)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, registry.stop)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(registry.serve())
            announcing = group.create_task(_announce(registry, notifier))
            serving.add_done_callback(lambda _: announcing.cancel())
    except* Fatal as faults:
        raise _first(faults) from None
    finally:
        await channels.close()
        await store.close()


async def _announce(registry: Registry, notifier: Notifier) -> None:
    """Says where it listens, then that it lives; cancelled when it has stopped."""
    await registry.started.wait()
    settings = registry.settings
    where = {
        "pid": os.getpid(),
        "grpc": join_address(settings.grpc[0], registry.grpc_port),
        "admin": join_address(settings.admin[0], registry.admin_port),
    }
    log.info("registry_listening", name=settings.name, grpc=where["grpc"], admin=where["admin"])
    if settings.ready_file is not None:
        write_atomically(settings.ready_file, msgspec.json.encode(where))
    notifier.tell("READY=1")
    await notifier.keep_alive()


async def _kept(what: str, work: Callable[[], Awaitable[None]]) -> None:
    # The registry's own work does not end because something beside it did.
    while True:
        try:
            await work()
        except Exception:  # the task's root
            log.exception("task_failed", task=what)
        await asyncio.sleep(_RETRY_S)


async def _persist(what: str, work: Callable[[], Awaitable[None]]) -> None:
    # A refusal of the store (a certificate that has to be replaced, access that is not granted yet)
    # is no reason to stop serving what is known.
    said = ""
    while True:
        try:
            await work()
        except* StoreRefused as faults:
            reason = str(_first(faults))
            if reason != said:
                log.error("store_refuses", what=what, reason=reason)
                said = reason
        await asyncio.sleep(_RETRY_S)


def _first(faults: BaseExceptionGroup[Fatal] | BaseExceptionGroup[StoreRefused]) -> Exception:
    fault: BaseException = faults
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    assert isinstance(fault, Exception)  # noqa: S101 - both kinds are
    return fault
