"""The agent put together: the only place that names concrete parts. How they live is in `lifecycle`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time

import msgspec
import structlog
import uvloop

from bridge_agent import records
from bridge_agent.activation import inherited_sockets
from bridge_agent.admin import admin_app
from bridge_agent.ancillaries import Ancillaries, RequestTasks
from bridge_agent.audit import past
from bridge_agent.audit.made import cosigning_of, made_of
from bridge_agent.audit.pages import admin_pages, node_pages
from bridge_agent.audit.vouching import Vouching
from bridge_agent.audit.witness import witness_of
from bridge_agent.authentication.authenticator import Authenticator
from bridge_agent.authentication.last_use import LastUse
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.authentication.refusal import Refused
from bridge_agent.authentication.token_book import TokenBook
from bridge_agent.concerns import Concerns
from bridge_agent.config import DRAIN_S, AgentConfig, StateDir, load_config
from bridge_agent.engines.address import engine_address
from bridge_agent.engines.supervisor import EngineSupervisor
from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.config import GatewayConfig, ListenerKind, RequestRecord
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_agent.gateway.grpc_adapter.woken import Awake, WokenListener
from bridge_agent.health import made as health
from bridge_agent.health.rollout_probe import RolloutProber
from bridge_agent.health.service_tally import ServiceTally
from bridge_agent.lifecycle import Lifecycle
from bridge_agent.limits.default_class import default_class
from bridge_agent.limits.gpus import GpuKeeper
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_agent.limits.node_isolation import NodeIsolation, in_force
from bridge_agent.limits.surroundings import engine_groups, open_gpus
from bridge_agent.listeners import NAMES, address_of, bind_all, connections_of, raise_descriptors
from bridge_agent.listening import Listening
from bridge_agent.loading.model_loads import ModelLoads
from bridge_agent.lock import AgentLock
from bridge_agent.membership.advertise import subject_names
from bridge_agent.membership.clock import ClockWatch
from bridge_agent.membership.link_status import LinkReport
from bridge_agent.membership.mesh_trust import MeshTrust
from bridge_agent.membership.presence import FIRST_WORD_S, Presence, holder_id
from bridge_agent.membership.registration import Registration
from bridge_agent.membership.registries import Registries, known_guards
from bridge_agent.membership.registry_api import LoadReport
from bridge_agent.membership.registry_client import RegistryClient
from bridge_agent.membership.renewal import Renewal
from bridge_agent.membership.revocation import Revocations
from bridge_agent.membership.subscription import SnapshotSubscription
from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.desk import ModelDesk, store_of
from bridge_agent.peers.hop import VARYING
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.quotas.leasing import QuotaLeasing
from bridge_agent.quotas.meter import Meter
from bridge_agent.reports import Reports
from bridge_agent.routing.view import MeshView, Target
from bridge_agent.scaling.demand_tally import DemandTally
from bridge_agent.scaling.holding import ModelHolding
from bridge_agent.signing.gate import SignatureGate
from bridge_agent.telemetry.load_reporter import LoadReporter
from bridge_agent.telemetry.request_log import request_log
from bridge_agent.telemetry.scrapes import Scrapes
from bridge_agent.telemetry.sources import QuotaFigures
from bridge_agent.telemetry.tally import BackendTally, ModelTally
from bridge_agent.tracing.context_rules import FIELDS as TRACE_FIELDS
from bridge_agent.tracing.made import tracing_of
from bridge_core import golden
from bridge_core.addresses import join_address, split_address
from bridge_core.audit.anchoring import Anchoring
from bridge_core.http1 import Request, coroutine_app
from bridge_core.http1.pool import Address
from bridge_core.identity.spiffe import GUARD_SERVER_NAME
from bridge_core.logs.setup import ProgramLog
from bridge_core.model_store.layout import ModelStore
from bridge_core.sealing import open_sealer
from bridge_core.snapshot import Snapshot
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.store.etcd import ClientTls, EtcdStore
from bridge_core.systemd.notify import Notifier
from bridge_core.tls import TlsIdentity

log = structlog.get_logger()


def run_agent(
    state: StateDir,
    config: AgentConfig,
    *,
    keep_engines: bool = False,
    drain_s: float = DRAIN_S,
    program_log: ProgramLog | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        state: The node's files.
        config: The node's configuration, with the listeners to use.
        keep_engines: Leave the engines running at the end; the next start adopts them.
        drain_s: How long running requests may take to finish.
        program_log: This process's, to which requests are written; None: they are not.

    Raises:
        BridgeError: it cannot start, with a sentence for the operator.
    """
    lock = AgentLock(state.lock)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(state, config, program_log, keep_engines=keep_engines, drain_s=drain_s))
    finally:
        lock.release()


async def _main(
    state: StateDir,
    config: AgentConfig,
    program_log: ProgramLog | None,
    *,
    keep_engines: bool,
    drain_s: float,
) -> None:
    signals: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, None)
    agent = Agent(state, config, program_log)
    try:
        await agent.run(signals, keep_engines=keep_engines, drain_s=drain_s)
    finally:
        await agent.close()


class Agent:
    """One node's agent. Make it inside a running loop, `run` it once, `close` it.

    Raises:
        BridgeError: identity, ports or configuration cannot be used.
    """

    def __init__(self, state: StateDir, config: AgentConfig, program_log: ProgramLog | None = None) -> None:
        self._state = state
        self._config = config
        self._log = program_log
        self._rng = random.Random()  # noqa: S311 - jitter
        self._host_name = socket.gethostname()
        self._notifier = Notifier()
        self._ancillaries = Ancillaries(self._rng)
        self._requests = RequestTasks(self._ancillaries)
        self._sealer = open_sealer(state.seal_folder(config.seal))
        self._identity = TlsIdentity(state.certificate, state.key, state.issuers)
        self._node = config.own_id(self._identity.info.identity)
        self._inherited = inherited_sockets(NAMES)
        raise_descriptors()
        self._sockets = bind_all(config.listeners, self._inherited)
        self._addresses = {name: address_of(sock) for name, sock in self._sockets.items()}
        self._join_mesh()
        self._make_engines()
        self._serve_requests()
        self._live()

    async def run(self, signals: asyncio.Queue[None], *, keep_engines: bool, drain_s: float) -> None:
        """Serves until the first item of `signals`, then drains; a second item cuts the drain short."""
        await self._lifecycle.run(
            signals,
            listen=self._listen,
            vital={"subscription": self._subscription.run},
            ancillary={
                "registration": self._registration.run,
                "renewal": self._renewal.run,
                "clock": self._clock.run,
                "audit": self._audit.run,
                "cosigning": self._cosigning.run,
                "anchoring": self._anchoring.run,
                "grpc-renewal": self._listening.follow_renewals,
                "watchdog": self._notifier.keep_alive,
                "peers": self._gateway.watch_peers,
                "load-reports": self._reporter.run,
                "quotas": self._leasing.run,
                "rollout-probes": self._prober.run,
                "golden-prompts": self._asker.run,
                "health": self._health.run,
                "model-holding": self._holding.run,
                "model-loads": self._loads.run,
                "isolation": self._launcher.run,
                "gpus": self._keeper.run,
                "node-class": self._isolation.run,
                "signatures": self._signatures.run,
                **({} if self._models is None else self._models.tasks),
                **({} if self._tracing is None else {"traces": self._tracing.exporter.run}),
            },
            keep_engines=keep_engines,
            drain_s=drain_s,
        )
        log.info("agent_stopped", node=str(self._node))

    async def close(self) -> None:
        """Lets go of what `run` left open, also after a start that failed half-way."""
        await self._listening.release()
        await self._upstreams.close()
        await self._store.close()

    # -- the parts

    def _join_mesh(self) -> None:
        config, state, rng = self._config, self._state, self._rng
        peer_address = self._peer_address()
        self._secrets = MeshSecrets((state.secrets, self._sealer))
        registries = self._registries = Registries(
            config.registries, lambda address: RegistryClient(address, state, peer_address=peer_address)
        )
        self._subscription = SnapshotSubscription(
            registries,
            SnapshotFile(state.snapshot, self._sealer, now=time.time),
            on_snapshot=self._take_snapshot,
            on_secrets=self._secrets.take,
            on_confirmed=self._take_confirmed,
            now=time.time,
            rng=rng,
        )
        snapshot = self._subscription.snapshot
        registries.learn(snapshot.mesh)
        self._view = MeshView(config.name, snapshot)
        self._revocations = Revocations(snapshot)
        self._upstreams = Upstreams(self._view, self._identity, self._engine_address)
        tls = ClientTls(state.certificate, state.key, state.issuers, GUARD_SERVER_NAME)
        self._store = EtcdStore(known_guards(config.etcd, snapshot.mesh), tls)
        holder = holder_id(state.root)
        self._registration = Registration(
            self._store,
            ttl_s=snapshot.mesh.lease_ttl_s,
            now=time.time,
            rng=rng,
            holder=holder,
            patience_s=FIRST_WORD_S,
        )
        self._presence = Presence(config.name, holder, peer_address, now=time.time, clock=time.monotonic)
        self._clock = ClockWatch(lambda: registries.addresses, state.ca, now=time.time)
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
            refused=self._not_a_member,
        )
        self._trust = MeshTrust(state, self._identity, self._renewed)
        self._reporter = LoadReporter(registries, self._load, rng)
        self._meter = Meter(config.name, self._view)
        self._leasing = QuotaLeasing(registries, self._meter, rng)

    def _make_engines(self) -> None:
        config, root = self._config, self._state.root
        default = default_class()
        wanted = in_force(
            self._subscription.snapshot, config.name, config.labels, config.own_class, default=default
        )
        self._launcher = IsolatedLauncher(
            root,
            node_class=wanted,
            cgroups=None,
            open_cgroups=lambda: engine_groups(config.name, root),
        )
        self._supervisor = EngineSupervisor(
            config.engines,
            root,
            self._publish_engines,
            node=config.name,
            launcher=self._launcher,
            ancillaries=self._ancillaries,
        )
        inventory, no_gpus = open_gpus()
        self._keeper = GpuKeeper(
            inventory,
            without=no_gpus,
            folder=root / "mps",
            node=config.name,
            # An engine that is to see no GPU takes none; one that somebody else runs has its own.
            instances=[
                (instance, one.gpus)
                for instance, one in config.instances.items()
                if one.gpus != "" and one.attach is None
            ],
            sharing=wanted.gpu,
            engines=self._supervisor,
            changed=self._engines_changed,
            ancillaries=self._ancillaries,
        )
        self._launcher.give_devices(self._keeper)
        self._launcher.tidy(config.instances)
        self._isolation = NodeIsolation(
            config.name,
            config.labels,
            config.own_class,
            default=default,
            launcher=self._launcher,
            keeper=self._keeper,
            engines=self._supervisor,
            idle=lambda: not self._load().in_flight,
        )
        self._prober = RolloutProber(
            config.name,
            lambda: self._view.current,
            self._supervisor.instances,
            health.connect,
            time.monotonic,
        )
        self._holding = ModelHolding(
            lambda: self._view.current,
            self._supervisor.instances,
            health.connect,
            changed=self._supervisor.refresh,
            clock=time.monotonic,
        )
        self._loads = ModelLoads(
            self._supervisor.instances,
            health.connect,
            changed=self._loads_changed,
            now=time.monotonic,
            wall=time.time,
        )

    def _serve_requests(self) -> None:
        state = self._state
        folder = state.root / "audit"
        lines = request_log(self._log, os.environ)
        tracing = self._tracing = tracing_of(
            self._config.traces, self._config.name, self._config.trust_domain, self._rng
        )
        self._audit = made_of(
            folder,
            str(self._node),
            self._config.name,
            self._view,
            self._sealer,
            seen=[
                *(() if lines is None else (lines.take,)),
                *(() if tracing is None else (tracing.maker.take,)),
            ],
        )
        self._tally = BackendTally()
        instances = self._config.instances
        self._own = frozenset(instances)
        self._run_here = frozenset(id_ for id_, one in instances.items() if one.attach is None)
        self._service = ServiceTally(self._own.__contains__, time.monotonic)
        self._demand = DemandTally(self._config.name, self._view)
        self._model_tally = ModelTally()
        self._last_use = LastUse()
        config = GatewayConfig(
            node=self._config.name,
            host_name=self._host_name,
            **msgspec.structs.asdict(self._config.gateway),
        )
        self._tokens = TokenBook()
        authenticator = Authenticator(self._view, self._config.name, self._secrets, tokens=self._tokens)
        self._gateway = Gateway(
            config,
            self._view,
            self._upstreams,
            self._requests,
            meter=self._meter,
            tracer=None if tracing is None else tracing.tracer,
            authenticator=authenticator,
        )
        self._gateway.load_with(self._loads)
        self._models: ModelDesk | None = self._make_models()
        self._signatures = self._make_signatures()
        self._gateway.sign_with(self._signatures)
        self._gateway.on_record(self._take_record)
        self._audit.on_refusal(self._gateway.refuse_all)
        self._gateway.on_progress(self._take_progress)
        self._golden = health.page_of(self._view, self._supervisor, self._gateway)
        self._gateway.serve_nodes(golden.PATH, self._golden.app(self._requests))
        self._asker = health.asker_of(self._view, self._upstreams)
        self._gateway.serve_admins(past.PATH, past.past_app(self._audit.stored, self._requests))
        self._witness = witness_of(folder, self._audit)
        self._cosigning = cosigning_of(self._audit, self._view, self._upstreams)
        self._anchoring = Anchoring(self._audit, lambda: self._view.current.mesh.audit)
        for path, page in node_pages(self._audit, self._witness, self._requests).items():
            self._gateway.serve_nodes(path, page)
        vouching = Vouching(state.certificate, state.key)
        for path, page in admin_pages(self._audit, self._witness, vouching, self._requests).items():
            self._gateway.serve_admins(path, page)
        serving = Serving()
        self._pipeline = self._gateway.http_app(ListenerKind.TLS)
        calls = Calls()
        grpc = WokenListener(
            self._sockets["grpc"],
            lambda: self._grpc_listener(serving, calls),
            group=self._requests,
            ended=self._grpc_ended,
        )
        self._listening = Listening(
            self._sockets,
            self._identity,
            self._revocations.identify,
            grpc=grpc,
            calls=calls,
            serving=serving,
            shared=self._inherited.keys(),
        )

    def _grpc_listener(self, serving: Serving, calls: Calls) -> Awake:
        """The gRPC listener; loads what it is made of."""
        from bridge_agent.gateway.grpc_adapter.application import GrpcApplication
        from bridge_agent.gateway.grpc_adapter.listener import GrpcListener

        return GrpcListener(
            GrpcApplication(self._pipeline, serving, refusal=self._refusal, calls=calls),
            self._sockets["grpc"],
            cert=self._state.certificate,
            key=self._state.key,
            ca=self._state.issuers,
            group=self._requests,
            ended=self._grpc_ended,
            connections=connections_of("grpc"),
        )

    def _make_models(self) -> ModelDesk | None:
        """Who brings models here; None where the store is somebody else's, or the engines are to do it."""
        root = store_of(self._config.engines, self._state.models)
        if root is None or self._config.models.pull_by_engine:
            return None
        desk = ModelDesk(
            root,
            self._config.models,
            view=self._view,
            upstreams=self._upstreams,
            group=self._requests,
            busy=lambda: self._gateway.own_work > 0,
            changed=self._models_changed,
            running=self._gateway.running,
            recorded=self._gateway.record_admin,
            instances=self._own_engines,
            loading=lambda: self._loads.busy,
            warmed=self._engines_changed,
            habits=self._state.habits,
            programs=self._state.programs,
            processes=self._loaded_engines,
            keys=BlobKeys(lambda: self._state.seal_folder(load_config(self._state).seal)),
            registries=self._registries,
        )
        self._gateway.pull_with(desk.pulls, desk.shelf, desk.receiver)
        for path, page in desk.admin_pages().items():
            self._gateway.serve_admins(path, page)
        for path, page in desk.node_pages().items():
            self._gateway.serve_nodes(path, page)
        return desk

    def _make_signatures(self) -> SignatureGate:
        """Who says which models have to be signed, also where the agent brings none itself."""
        if self._models is not None:
            return self._models.signatures
        root = store_of(self._config.engines, self._state.models)
        own = None if root is None else (Blobs(root), lambda: ModelStore(root))
        return SignatureGate(self._view, own, self._own_engines, self._engines_changed)

    def _live(self) -> None:
        self._lifecycle = Lifecycle(
            engines=self._supervisor,
            leave_engines=self._keeper.leave,
            work=self._gateway,
            listeners=self._listening,
            membership=self._registration,
            manager=self._notifier,
            ancillaries=self._ancillaries,
            requests=self._requests,
            inherited=bool(self._inherited),
        )
        self._concerns = Concerns(
            self._config,
            self._state.root,
            identity=self._identity,
            grace_s=lambda: self._view.current.mesh.security.renewal_grace_s,
            trust=self._trust,
            presence=self._presence,
            clock=self._clock.status,
            store=lambda: self._registration.report(time.monotonic()),
            lease_ttl_s=self._subscription.snapshot.mesh.lease_ttl_s,
            registries=(self._subscription.status, self._renewal.status),
            addresses=lambda: self._registries.addresses,
            engines=self._supervisor.status,
            ejections=self._gateway.ejections,
            secrets=lambda: [
                *self._secrets.concerns(self._view.current),
                *self._tokens.concerns(self._view.current),
                *(() if self._models is None else self._models.concerns()),
                *self._signatures.concerns(),
                *(() if self._tracing is None else self._tracing.exporter.concerns()),
            ],
        )
        self._health = health.watch_of(
            self._state.root,
            view=self._view,
            engines=self._supervisor,
            isolation=self._isolation,
            gateway=self._gateway,
            tally=self._service,
            asker=self._asker,
        )
        self._reports = Reports(
            self._config,
            identity=self._identity,
            listeners=self._addresses,
            view=self._view,
            gateway=self._gateway,
            engines=self._supervisor,
            isolation=self._isolation,
            prober=self._prober,
            tally=self._tally,
            demand=self._demand,
            models=self._model_tally,
            loads=self._loads,
            audit=self._audit,
            log=None if self._log is None else self._log.sink,
            spans=None if self._tracing is None else self._tracing.queue,
            cosigning=self._cosigning,
            anchoring=self._anchoring,
            witness=self._witness,
            ancillaries=self._ancillaries,
            quotas=QuotaFigures(self._meter, lambda: self._leasing.leased),
            shared=lambda: None if self._models is None else self._models.shared_said(),
            concerns=self._concerns,
            trust=self._trust,
            last_use=self._last_use,
            health=self._health,
            links=self._links,
            phase=lambda: self._lifecycle.phase,
        )

    async def _listen(self) -> None:
        gateway, listening = self._gateway, self._listening
        # Their values vary: a head is known again all the same, where they are not passed on as they came.
        traces = TRACE_FIELDS if self._tracing is not None else frozenset()
        await listening.open_gateway("http", gateway.http_app(ListenerKind.LOCAL), gateway, varying=traces)
        await listening.open_gateway("https", self._pipeline, gateway, require_client=False, varying=traces)
        await listening.open_gateway(
            "peer", gateway.peer_app, gateway, require_client=True, varying=VARYING | traces
        )
        await listening.open_grpc()
        admin = admin_app(
            metrics=coroutine_app(Scrapes(self._reports.sources()).answer, self._requests),
            report=self._reports.report,
            not_ready=self._reports.not_ready,
            own_name=self._host_name,
            explain=coroutine_app(gateway.explain, self._requests),
            recent=gateway.recent,
        )
        await listening.open_admin(admin)
        log.info("agent_serving", node=str(self._node), **self._addresses)

    # -- what parts tell each other

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        self._trust.take(snapshot.mesh.trust)
        self._renewal.prefer(snapshot.mesh.trust.issuing, len(snapshot.nodes))
        self._registries.learn(snapshot.mesh)
        self._store.reach_at(known_guards(self._config.etcd, snapshot.mesh))
        self._view.publish(snapshot)
        self._isolation.told(snapshot)
        cut = self._revocations.update(snapshot)
        if cut:
            log.warning("revoked", identities=sorted(cut))
            self._listening.cut(cut)

    def _take_confirmed(self, snapshot: Snapshot) -> None:
        self._registration.stand(self._presence.take(snapshot, self._registration.registered))
        if self._presence.address_differs():
            self._renewal.renew_now()

    def _refusal(self, request: Request, serial: str) -> Refused | None:
        """Why a gRPC call is nobody's who may call."""
        identity = request.identity
        revoked = identity is not None and not self._revocations.admits(identity, serial)
        return self._gateway.refusal(request, revoked=revoked)

    def _engine_address(self, target: Target) -> Address:
        """Where an engine is connected to; only through here is one in a network of its own reached."""
        one = next(one for one in self._supervisor.instances() if one.id == target.id)
        return engine_address(one.host, one.port, one.network_pid)

    def _publish_engines(self, found: tuple[LocalInstance, ...]) -> None:
        instances = self._loads.shown(self._isolation.view(found))
        instances = self._signatures.shown(instances)
        if self._models is not None:
            instances = self._models.shown(instances)
        self._view.publish_local(instances)
        if self._lifecycle.phase != "draining":
            self._registration.publish(records.registered(instances, self._config.name))

    def _take_record(self, record: RequestRecord, body: bytes) -> None:
        self._audit.put(record, body)
        self._tally.take(record)
        self._service.take(record)
        if record.instance in self._own:
            self._golden.used(record.instance, record.model)
            if self._models is not None:
                self._models.asked(record.decision.model if record.decision is not None else record.model)
        self._demand.take(record)
        self._model_tally.take(record)
        self._last_use.take(record.caller)
        self._lifecycle.settled()
        for attempt in record.failed:
            self._concerns.failures.take(attempt.instance, attempt.detail)
        if records.changes_models(record):
            self._supervisor.refresh(record.instance)
        generated = records.generated(record)
        if generated is not None:
            self._supervisor.activity(record.instance, model=record.model, progress=generated)

    def _own_engines(self) -> tuple[LocalInstance, ...]:
        """The instances that this agent runs: their models are in its own store."""
        return tuple(one for one in self._supervisor.instances() if one.id in self._run_here)

    def _loaded_engines(self) -> tuple[tuple[int, int], ...]:
        """Pid and start time of those that have a model loaded: what its load took of libraries is there."""
        found = (self._supervisor.process(one.id) for one in self._own_engines() if one.loaded)
        return tuple(one for one in found if one is not None)

    def _models_changed(self) -> None:
        for instance in self._own:
            self._supervisor.refresh(instance)

    def _engines_changed(self) -> None:
        self._publish_engines(self._supervisor.instances())

    def _loads_changed(self, instance: str) -> None:
        self._engines_changed()
        self._supervisor.refresh(instance)

    def _take_progress(self, instance: str, model: str) -> None:
        self._service.progressed(instance)
        self._supervisor.activity(instance, model=model, progress=True)

    def _renewed(self) -> None:
        self._listening.renewed()

    def _grpc_ended(self) -> None:
        self._listening.grpc_ended()

    def _not_a_member(self) -> str:
        return self._concerns.not_a_member()

    def _load(self) -> LoadReport:
        return self._reports.load()

    def _links(self) -> tuple[LinkReport, ...]:
        return (
            self._subscription.status.report(),
            self._registration.report(time.monotonic()),
            self._renewal.status.report(),
            self._presence.status.report(),
            self._clock.status.report(),
        )

    def _peer_address(self) -> str:
        """Where others reach this node: the host it joined with, the port it listens on now."""
        host, _ = split_address(self._config.peer_address, flag="peer_address")
        return join_address(host, int(self._sockets["peer"].getsockname()[1]))
