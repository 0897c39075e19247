"""The agent put together: the only place that names concrete parts.

Everything lives in one TaskGroup. On SIGTERM the lease is revoked first, so that nobody sends new
work; then new requests are refused, running ones finish, and the engines stop. A second signal
cuts that short.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import socket
import time
from importlib.metadata import version

import structlog
import uvloop

from bridge_agent import records
from bridge_agent.activation import inherited_sockets
from bridge_agent.admin import admin_app
from bridge_agent.concerns import Concerns
from bridge_agent.config import AgentConfig, StateDir
from bridge_agent.engines.address import engine_address
from bridge_agent.engines.client import EngineClient
from bridge_agent.engines.supervisor import EngineSupervisor
from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.config import GatewayConfig, ListenerKind, RequestRecord
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.gateway.grpc_adapter.deferred import DeferredGrpc
from bridge_agent.gateway.grpc_adapter.listener import GrpcListener
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_agent.health.rollout_probe import RolloutProber
from bridge_agent.limits.gpus import GpuKeeper
from bridge_agent.limits.isolation_report import IsolationReport, concerns
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_agent.limits.node_isolation import NodeIsolation, in_force
from bridge_agent.limits.surroundings import engine_groups, open_gpus
from bridge_agent.listeners import NAMES, address_of, bind_all, close_all
from bridge_agent.lock import AgentLock
from bridge_agent.membership.advertise import subject_names
from bridge_agent.membership.clock import ClockWatch
from bridge_agent.membership.link_status import LinkReport
from bridge_agent.membership.presence import FIRST_WORD_S, Presence, holder_id
from bridge_agent.membership.registration import Registration
from bridge_agent.membership.registry_api import InstanceLoad, LoadReport
from bridge_agent.membership.registry_client import RegistryClient
from bridge_agent.membership.renewal import Renewal
from bridge_agent.membership.revocation import Revocations
from bridge_agent.membership.subscription import SnapshotSubscription
from bridge_agent.peers.hop import VARYING
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView, Target
from bridge_agent.status_report import AgentReport, CertificateReport, SnapshotReport, instance_reports
from bridge_agent.telemetry import past
from bridge_agent.telemetry.audit import AuditLog
from bridge_agent.telemetry.load_reporter import LoadReporter
from bridge_agent.telemetry.metrics import Sources, metrics_page
from bridge_agent.telemetry.tally import BackendTally
from bridge_core.addresses import join_address, split_address
from bridge_core.errors import BridgeError
from bridge_core.http1 import App, Server, coroutine_app, serve
from bridge_core.http1.pool import Address
from bridge_core.snapshot import Snapshot
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.store.etcd import ClientTls, EtcdStore
from bridge_core.systemd.notify import Notifier
from bridge_core.tls import TlsIdentity

log = structlog.get_logger()

DRAIN_S = 30.0
_TAKE_UP_S = 2.0  # for engines that run already
_CUT_S = 2.0  # for answers that ended to leave the buffers


def run_agent(
    state: StateDir, settings: AgentConfig, *, keep_engines: bool = False, drain_s: float = DRAIN_S
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        state: The node's files.
        settings: The node's settings, with the listeners to use.
        keep_engines: Leave the engines running at the end; the next start adopts them.
        drain_s: How long running requests may take to finish.

    Raises:
        BridgeError: it cannot start, with a sentence for the operator.
    """
    lock = AgentLock(state.lock)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(state, settings, keep_engines=keep_engines, drain_s=drain_s))
    finally:
        lock.release()


async def _main(state: StateDir, settings: AgentConfig, *, keep_engines: bool, drain_s: float) -> None:
    signals: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, None)
    agent = Agent(state, settings)
    try:
        await agent.run(signals, keep_engines=keep_engines, drain_s=drain_s)
    finally:
        await agent.close()


class Agent:
    """One node's agent. Make it inside a running loop, `run` it once, `close` it.

    Raises:
        BridgeError: identity, ports or settings cannot be used.
    """

    def __init__(self, state: StateDir, settings: AgentConfig) -> None:
        self._notifier = Notifier()
        self._state_dir = state
        self._settings = settings
        self._identity = TlsIdentity(state.certificate, state.key, state.ca)
        self._node = settings.own_id(self._identity.info.identity)
        self._inherited = inherited_sockets(NAMES)
        self._sockets = bind_all(settings.listeners, self._inherited)
        self._addresses = {name: address_of(sock) for name, sock in self._sockets.items()}
        self._started = time.time()
        self._phase = "starting"
        rng = random.Random()  # noqa: S311 - jitter
        peer_address = self._peer_address()
        registries = [
            RegistryClient(address, state, peer_address=peer_address) for address in settings.registries
        ]
        self._subscription = SnapshotSubscription(
            registries,
            SnapshotFile(state.snapshot, now=time.time),
            on_snapshot=self._take_snapshot,
            on_confirmed=self._take_confirmed,
            now=time.time,
            rng=rng,
        )
        snapshot = self._subscription.snapshot
        self._view = MeshView(settings.name, snapshot)
        self._revocations = Revocations(snapshot)
        self._upstreams = Upstreams(self._view, self._identity, self._engine_address)
        self._store = EtcdStore(settings.etcd, ClientTls(state.certificate, state.key, state.ca))
        holder = holder_id(state.root)
        self._registration = Registration(
            self._store,
            ttl_s=snapshot.mesh.lease_ttl_s,
            now=time.time,
            rng=rng,
            holder=holder,
            patience_s=FIRST_WORD_S,
        )
        self._presence = Presence(settings.name, holder, peer_address, now=time.time, clock=time.monotonic)
        self._clock = ClockWatch(settings.registries, state.ca, now=time.time)
        self._renewal = Renewal(
            self._identity,
            self._node,
            subject_names(split_address(peer_address, flag="peer_address")[0]),
            state,
            registries,
            on_renewed=self._renewed,
            now=time.time,
            rng=rng,
            may=lambda: self._presence.may_act,
        )
        self._launcher, self._supervisor, self._keeper = self._engines(snapshot)
        self._isolation = NodeIsolation(
            settings.name,
            settings.labels,
            settings.own_class,
            launcher=self._launcher,
            keeper=self._keeper,
            engines=self._supervisor,
            idle=lambda: not self._load().in_flight,
        )
        self._audit = AuditLog(state.root / "audit" / "audit.jsonl", records.audited)
        self._concerns = Concerns(
            settings,
            state.root,
            identity=self._identity,
            presence=self._presence,
            clock=self._clock.status,
            registries=(self._subscription.status, self._renewal.status),
            engines=self._supervisor.status,
            ejections=lambda: {} if self._gateway is None else self._gateway.ejections(),
            lost=lambda: self._audit.lost,
        )
        self._tally = BackendTally()
        self._reporter = LoadReporter(registries, self._load, rng)
        self._prober = RolloutProber(
            settings.name,
            lambda: self._view.current,
            self._supervisor.instances,
            lambda one: EngineClient(one.host, one.port, one.network_pid),
            time.monotonic,
        )
        self._serving = Serving()
        self._servers: list[Server] = []
        self._grpc: GrpcListener | None = None
        self._gateway: Gateway | None = None
        self._renewed_event = asyncio.Event()
        self._settled = asyncio.Event()

    async def run(self, signals: asyncio.Queue[None], *, keep_engines: bool, drain_s: float) -> None:
        """Serves until the first item of `signals`, then drains; a second item cuts the drain short."""
        async with asyncio.TaskGroup() as group:
            engines = group.create_task(self._supervisor.run(), name="engines")
            # Clients may be waiting in the sockets' queues; they are not to hear that models are unknown
            # only because the engines of the last run have not been looked at yet.
            await self._supervisor.taken_up(_TAKE_UP_S)
            try:
                gateway = await self._listen(group)
            except BridgeError:
                await self._supervisor.stop()
                raise
            tasks = [
                group.create_task(self._subscription.run(), name="subscription"),
                group.create_task(self._registration.run(), name="registration"),
                group.create_task(self._renewal.run(), name="renewal"),
                group.create_task(self._clock.run(), name="clock"),
                group.create_task(self._audit.run(), name="audit"),
                group.create_task(self._follow_renewals(), name="grpc-renewal"),
                group.create_task(self._notifier.keep_alive(), name="watchdog"),
                group.create_task(gateway.watch_peers(), name="peers"),
                group.create_task(self._reporter.run(), name="load-reports"),
                group.create_task(self._prober.run(), name="rollout-probes"),
                group.create_task(self._launcher.run(), name="isolation"),
                group.create_task(self._keeper.run(), name="gpus"),
                group.create_task(self._isolation.run(), name="node-class"),
            ]
            self._phase = "serving"
            self._notifier.tell("READY=1")
            gc.collect()
            gc.freeze()  # what was loaded stays: no need to look at it again and again
            log.info("agent_serving", node=str(self._node), **self._addresses)
            await signals.get()
            await self._drain(gateway, signals, drain_s)
            if keep_engines:
                self._keeper.leave()
                engines.cancel()
            else:
                await self._supervisor.stop()
            for task in tasks:
                task.cancel()
        log.info("agent_stopped", node=str(self._node))

    async def close(self) -> None:
        """Lets go of what `run` left open, also after a start that failed half-way."""
        await close_all(self._servers, 0.0)
        await self._upstreams.close()
        await self._store.close()
        for sock in self._sockets.values():
            sock.close()

    def _engines(self, snapshot: Snapshot) -> tuple[IsolatedLauncher, EngineSupervisor, GpuKeeper]:
        settings, state = self._settings, self._state_dir
        wanted = in_force(snapshot, settings.name, settings.labels, settings.own_class)
        launcher = IsolatedLauncher(
            state.root,
            node_class=wanted,
            cgroups=None,
            open_cgroups=lambda: engine_groups(settings.name, state.root),
        )
        supervisor = EngineSupervisor(
            settings.engines, state.root, self._publish_engines, node=settings.name, launcher=launcher
        )
        inventory, no_gpus = open_gpus()
        keeper = GpuKeeper(
            inventory,
            without=no_gpus,
            folder=state.root / "mps",
            node=settings.name,
            # An engine that is to see no GPU takes none; one that somebody else runs has its own.
            instances=[
                (instance, one.gpus)
                for instance, one in settings.instances.items()
                if one.gpus != "" and one.attach is None
            ],
            sharing=wanted.gpu,
            engines=supervisor,
            changed=lambda: self._publish_engines(supervisor.instances()),
        )
        launcher.give_devices(keeper)
        launcher.tidy(settings.instances)
        return launcher, supervisor, keeper

    # -- listeners

    async def _listen(self, group: asyncio.TaskGroup) -> Gateway:
        config = GatewayConfig(node=self._settings.name, host_name=socket.gethostname())
        gateway = Gateway(config, self._view, self._upstreams, group)
        gateway.on_record(self._take_record)
        gateway.on_progress(self._take_progress)
        gateway.serve_admins(past.PATH, past.past_app(self._state_dir.root / "audit", group))
        self._gateway = gateway
        pipeline = gateway.http_app(ListenerKind.TLS)
        await self._serve("http", gateway.http_app(ListenerKind.LOCAL), gateway)
        await self._serve("https", pipeline, gateway, require_client=False)
        await self._serve("peer", gateway.peer_app, gateway, require_client=True, varying=VARYING)
        self._grpc = GrpcListener(
            DeferredGrpc(pipeline, self._serving, admit=self._revocations.admits),
            self._sockets["grpc"],
            cert=self._state_dir.certificate,
            key=self._state_dir.key,
            ca=self._state_dir.ca,
            group=group,
        )
        await self._grpc.start()
        sources = Sources(
            counters=gateway.counters,
            ejections=gateway.ejections,
            links=self._links,
            snapshot=lambda: self._view.current,
            instances=self._supervisor.instances,
            expires_unix=lambda: self._identity.info.not_after,
            audit=self._audit,
            waiting=gateway.waiting,
            isolation=self._isolation_reports,
            gpus=self._isolation.gpus,
            domains=self._isolation.domains,
        )
        admin = admin_app(
            metrics=metrics_page(sources),
            report=self._report,
            not_ready=self._not_ready,
            own_name=config.host_name,
            explain=coroutine_app(gateway.explain, group),
        )
        self._servers.append(await serve(admin, name="admin", sock=self._sockets["admin"]))
        return gateway

    async def _serve(
        self,
        name: str,
        app: App,
        gateway: Gateway,
        *,
        require_client: bool | None = None,
        varying: frozenset[bytes] = frozenset(),
    ) -> None:
        """Opens a listener of the gateway; `require_client` None: in the clear."""
        context = None if require_client is None else self._identity.server(require_client=require_client)
        server = await serve(
            app,
            name=name,
            sock=self._sockets[name],
            ssl=context,
            stream_body=gateway.stream_body,
            identify=None if context is None else self._revocations.identify,
            error_body=gateway.error_body,
            varying=varying,
        )
        self._servers.append(server)

    async def _follow_renewals(self) -> None:
        """The gRPC listener takes a renewed certificate by a change of server, which has to be awaited."""
        while True:
            await self._renewed_event.wait()
            self._renewed_event.clear()
            if self._grpc is not None:
                try:
                    await self._grpc.renew()
                except BridgeError as fault:
                    log.error("grpc_listener_not_renewed", reason=str(fault))

    # -- what parts tell

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        self._view.publish(snapshot)
        self._isolation.follow(snapshot)
        cut = self._revocations.update(snapshot)
        if not cut:
            return
        log.warning("revoked", identities=sorted(cut))
        for server in self._servers:
            for connection in list(server.connections):
                if connection.identity in cut:
                    connection.cut()

    def _take_confirmed(self, snapshot: Snapshot) -> None:
        self._registration.stand(self._presence.take(snapshot, self._registration.registered))
        if self._presence.address_differs():
            self._renewal.renew_now()

    def _engine_address(self, target: Target) -> Address:
        """Where an engine is connected to; only through here is one in a network of its own reached."""
        one = next(one for one in self._supervisor.instances() if one.id == target.id)
        return engine_address(one.host, one.port, one.network_pid)

    def _publish_engines(self, found: tuple[LocalInstance, ...]) -> None:
        instances = self._isolation.view(found)
        self._view.publish_local(instances)
        if self._phase != "draining":
            self._registration.publish(records.registered(instances, self._settings.name))

    def _take_record(self, record: RequestRecord) -> None:
        self._audit.put(record)
        self._tally.take(record)
        self._settled.set()
        for attempt in record.failed:
            self._concerns.failures.take(attempt.instance, attempt.detail)
        changed = records.changes_models(record)
        if changed:
            self._supervisor.refresh(record.instance)
        generated = records.generated(record)
        if generated is not None:
            self._supervisor.activity(record.instance, model=record.model, progress=generated)

    def _take_progress(self, instance: str, model: str) -> None:
        self._supervisor.activity(instance, model=model, progress=True)

    def _renewed(self) -> None:
        self._renewed_event.set()

    # -- stopping

    async def _drain(self, gateway: Gateway, signals: asyncio.Queue[None], drain_s: float) -> None:
        log.info("agent_draining", in_flight=gateway.in_flight, deadline_s=drain_s)
        self._phase = "draining"
        self._notifier.tell("STOPPING=1")
        if self._inherited:
            self._leave_queues()
        await self._registration.revoke()
        gateway.drain()
        self._serving.value = False
        hurry = asyncio.create_task(signals.get())
        began = time.monotonic()
        try:
            async with asyncio.timeout(drain_s):
                while gateway.own_work and not hurry.done():
                    self._settled.clear()
                    settled = asyncio.create_task(self._settled.wait())
                    await asyncio.wait({settled, hurry}, return_when=asyncio.FIRST_COMPLETED)
                    settled.cancel()
        except TimeoutError:
            log.warning("requests_cut", in_flight=gateway.in_flight)
        # Only now are clients turned away: until here peers answered what they brought.
        left_s = max(_CUT_S, drain_s - (time.monotonic() - began))
        await self._stop_listening(0.0 if gateway.own_work else left_s, hurry)

    async def _stop_listening(self, grace_s: float, hurry: asyncio.Task[None]) -> None:
        """Closes every listener; answers under way, also those of peers, may take `grace_s` more."""
        servers, self._servers = self._servers, []

        async def close() -> None:
            await asyncio.gather(close_all(servers, grace_s), self._close_grpc(grace_s))

        closing = asyncio.create_task(close())
        await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done():
            for connection in [one for server in servers for one in server.connections]:
                connection.cut()
            await self._close_grpc(0.0)
        hurry.cancel()
        await closing

    def _leave_queues(self) -> None:
        """Whoever connects from now on waits in the sockets' queues, for the next agent to answer."""
        for server in self._servers:
            server.retire()
        if self._grpc is not None:
            self._grpc.retire()

    async def _close_grpc(self, grace_s: float) -> None:
        if self._grpc is not None:
            await self._grpc.close(grace_s)

    # -- what the agent says

    def _not_ready(self) -> str:
        """Why requests cannot be served; empty when they can."""
        if self._phase != "serving":
            return f"the agent is {self._phase}"
        if not any(target.available for target in self._view.index.targets.values()):
            return "no engine is ready, here or elsewhere in the mesh"
        starting = {one.id for one in self._supervisor.instances() if one.state == "starting"}
        return "; ".join(
            f"{one.id} is starting{f' again: {one.reason}' if one.reason else ''}"
            for one in (self._supervisor.status() if starting else ())
            if one.id in starting
        )

    def _links(self) -> tuple[LinkReport, ...]:
        return (
            self._subscription.status.report(),
            self._registration.report(time.monotonic()),
            self._renewal.status.report(),
            self._presence.status.report(),
            self._clock.status.report(),
        )

    def _load(self) -> LoadReport:
        gateway = self._gateway
        in_flight = gateway.counters.in_flight if gateway is not None else {}
        waiting = gateway.waiting() if gateway is not None else {}
        return LoadReport(
            began_unix_ms=int(self._started * 1000),
            # Those that wait for a slot, too: a drained node is not safe to stop before they are served.
            in_flight=sum(in_flight.values()) + sum(waiting.values()),
            version=self._view.current.version,
            instances=tuple(
                InstanceLoad(one.id, in_flight.get(one.id, 0), waiting.get(one.id, 0), one.slots)
                for one in self._supervisor.instances()
            ),
            backends=self._tally.counts,
            results=self._prober.results,
            silent_peers=gateway.silent_peers() if gateway is not None else {},
        )

    def _report(self) -> AgentReport:
        isolation = self._isolation
        return AgentReport(
            name=self._settings.name,
            trust_domain=self._settings.trust_domain,
            version=version("deepseek-ollama-bridge"),
            pid=os.getpid(),
            state=self._phase,
            started_unix=self._started,
            listeners=self._addresses,
            snapshot=SnapshotReport.of(self._view.current),
            certificate=CertificateReport(self._identity.info.serial, self._identity.info.not_after),
            links=self._links(),
            instances=instance_reports(
                self._supervisor.instances(), self._supervisor.status(), self._isolation_reports()
            ),
            node_class=isolation.node_class.name,
            node_class_from=isolation.source,
            concerns=(
                *self._concerns.all(),
                *concerns(self._isolation_reports(), isolation.domains()),
            ),
            gpus=isolation.gpus(),
            domains=isolation.domains(),
        )

    def _isolation_reports(self) -> list[IsolationReport]:
        return [self._isolation.report(one.id) for one in self._supervisor.instances()]

    def _peer_address(self) -> str:
        """Where others reach this node: the host it joined with, the port it listens on now."""
        host, _ = split_address(self._settings.peer_address, flag="peer_address")
        return join_address(host, int(self._sockets["peer"].getsockname()[1]))
