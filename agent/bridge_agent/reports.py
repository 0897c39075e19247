"""What a running agent says of itself: to operators, to the registry, to whoever asks if it is ready."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Final

from bridge_agent.ancillaries import Ancillaries
from bridge_agent.audit.witness import Witness
from bridge_agent.authentication.last_use import LastUse
from bridge_agent.concerns import Concerns
from bridge_agent.config import AgentConfig
from bridge_agent.engines.supervisor import EngineSupervisor
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.health.health_watch import HealthWatch
from bridge_agent.health.rollout_probe import RolloutProber
from bridge_agent.lifecycle import Phase
from bridge_agent.limits.isolation_report import IsolationReport, concerns
from bridge_agent.limits.node_isolation import NodeIsolation
from bridge_agent.loading.model_loads import ModelLoads
from bridge_agent.membership.link_status import LinkReport
from bridge_agent.membership.mesh_trust import MeshTrust
from bridge_agent.membership.registry_api import InstanceLoad, LoadReport
from bridge_agent.routing.view import MeshView
from bridge_agent.scaling.demand_tally import DemandTally
from bridge_agent.status_report import (
    AgentReport,
    AuthorityReport,
    CertificateReport,
    SnapshotReport,
    instance_reports,
)
from bridge_agent.telemetry.sources import QuotaFigures, Sources
from bridge_agent.telemetry.tally import BackendTally, ModelTally
from bridge_agent.tracing.span_queue import SpanQueue
from bridge_core.audit.anchoring import Anchoring
from bridge_core.audit.cosigning import Cosigning
from bridge_core.audit.queue import AuditLog
from bridge_core.form import form
from bridge_core.logs.sink import LogSink
from bridge_core.model_answers import SharedSaid
from bridge_core.tls import TlsIdentity

_PROGRAM: Final = version("deepseek-ollama-bridge")


class Reports:
    """Reads the agent's parts when it is asked.

    Args:
        config: The node's.
        identity: Its certificate.
        listeners: Where it listens, by name.
        view: The mesh.
        gateway: Requests.
        engines: The node's instances.
        isolation: Their limits, walls and GPUs.
        prober: Rollouts' questions.
        tally: What became of requests, by backend.
        demand: What models that are scaled were asked here.
        models: The same by model.
        loads: What its engines bring into memory.
        audit: What was written and lost.
        log: The program's own, likewise; None: it is a terminal's.
        spans: Those of traces, likewise; None: none are made.
        cosigning: Who vouches for it.
        anchoring: How far it is stamped.
        witness: What was found of others' audit logs.
        ancillaries: Which tasks failed.
        quotas: What callers use of theirs.
        shared: How its shared storage stands; None: it has none.
        concerns: What an operator should look at.
        trust: Whom the node trusts.
        last_use: When clients last called.
        health: How its instances are.
        links: Whether what the agent depends on answers.
        phase: Where it is in its life.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        identity: TlsIdentity,
        listeners: Mapping[str, str],
        view: MeshView,
        gateway: Gateway,
        engines: EngineSupervisor,
        isolation: NodeIsolation,
        prober: RolloutProber,
        tally: BackendTally,
        demand: DemandTally,
        models: ModelTally,
        loads: ModelLoads,
        audit: AuditLog,
        log: LogSink | None,
        spans: SpanQueue | None,
        cosigning: Cosigning,
        anchoring: Anchoring,
        witness: Witness,
        ancillaries: Ancillaries,
        quotas: QuotaFigures,
        shared: Callable[[], SharedSaid | None],
        concerns: Concerns,
        trust: MeshTrust,
        last_use: LastUse,
        health: HealthWatch,
        links: Callable[[], tuple[LinkReport, ...]],
        phase: Callable[[], Phase],
    ) -> None:
        self._config = config
        self._identity = identity
        self._listeners = dict(listeners)
        self._view = view
        self._gateway = gateway
        self._engines = engines
        self._isolation = isolation
        self._prober = prober
        self._tally = tally
        self._demand = demand
        self._models = models
        self._loads = loads
        self._audit = audit
        self._log = log
        self._spans = spans
        self._cosigning = cosigning
        self._anchoring = anchoring
        self._witness = witness
        self._ancillaries = ancillaries
        self._quotas = quotas
        self._shared = shared
        self._concerns = concerns
        self._trust = trust
        self._last_use = last_use
        self._health = health
        self._links = links
        self._phase = phase
        self._started = time.time()
        self._form = form().words

    def not_ready(self) -> str:
        """Why requests cannot be served; empty when they can."""
        phase = self._phase()
        if phase != "serving":
            return f"the agent is {phase}"
        if not any(target.available for target in self._view.index.targets.values()):
            return "no engine is ready, here or elsewhere in the mesh"
        starting = {one.id for one in self._engines.instances() if one.state == "starting"}
        return "; ".join(
            f"{id_} is starting{f' again: {reason}' if reason else ''}"
            for id_, reason in self._engines.reasons().items()
            if id_ in starting
        )

    def load(self) -> LoadReport:
        """How the node stands, for the registry."""
        in_flight, waiting = self._gateway.counters.in_flight, self._gateway.waiting()
        return LoadReport(
            began_unix_ms=int(self._started * 1000),
            # Those that wait for a slot, too: a drained node is not safe to stop before they are served.
            in_flight=sum(in_flight.values()) + sum(waiting.values()),
            version=self._view.current.version,
            instances=tuple(
                InstanceLoad(one.id, in_flight.get(one.id, 0), waiting.get(one.id, 0), one.slots)
                for one in self._engines.instances()
            ),
            backends=self._tally.counts,
            results=self._prober.results,
            silent_peers=self._gateway.silent_peers(),
            trusts=self._trust.pins,
            clients=self._last_use.clients,
            health=self._health.report(),
            models=self._models.counts,
            demand=self._demand.loads,
            program=_PROGRAM,
            now=time.time(),
        )

    def report(self) -> AgentReport:
        """All of it, for `bridge-agent status`."""
        isolation, reports = self._isolation, self.isolation()
        return AgentReport(
            name=self._config.name,
            trust_domain=self._config.trust_domain,
            version=_PROGRAM,
            form=self._form,
            pid=os.getpid(),
            state=self._phase(),
            started_unix=self._started,
            listeners=self._listeners,
            snapshot=SnapshotReport.of(self._view.current),
            certificate=CertificateReport(
                self._identity.info.serial, self._identity.info.not_after, self._concerns.not_a_member()
            ),
            authorities=tuple(AuthorityReport(one.kind, one.name, one.ends) for one in self._trust.lives),
            links=self._links(),
            instances=instance_reports(
                self._loads.shown(self._engines.instances()),
                self._engines.status(),
                reports,
                self._health.verdict,
            ),
            node_class=isolation.node_class.name,
            node_class_from=isolation.source,
            concerns=(
                *self._concerns.all(),
                *self._ancillaries.concerns(),
                *self._audit.concerns(),
                *self._cosigning.concerns(),
                *self._anchoring.concerns(),
                *self._witness.concerns(),
                *concerns(reports, isolation.domains()),
                *(
                    f"{one.id} takes no requests: {verdict.why}"
                    for one in self._engines.instances()
                    if (verdict := self._health.verdict(one.id)).out
                ),
            ),
            gpus=isolation.gpus(),
            domains=isolation.domains(),
        )

    def _expiries(self) -> dict[str, float]:
        """The first end of the certificates of each kind."""
        first = {"node": self._identity.info.not_after}
        for one in self._trust.lives:
            first[one.kind] = min(one.ends, first.get(one.kind, one.ends))
        return first

    def isolation(self) -> list[IsolationReport]:
        """Limits, walls and usage of each engine."""
        return [self._isolation.report(one.id) for one in self._engines.instances()]

    def sources(self) -> Sources:
        """Where the metrics come from."""
        return Sources(
            counters=self._gateway.counters,
            ejections=self._gateway.ejections,
            links=self._links,
            snapshot=lambda: self._view.current,
            instances=self._engines.instances,
            expires_unix=self._expiries,
            audit=self._audit,
            log=self._log,
            spans=self._spans,
            cosigning=self._cosigning,
            anchoring=self._anchoring,
            witness=self._witness,
            waiting=self._gateway.waiting,
            loads=self._loads.figures,
            isolation=self.isolation,
            gpus=self._isolation.gpus,
            domains=self._isolation.domains,
            task_faults=lambda: self._ancillaries.faults,
            quotas=self._quotas,
            shared=self._shared,
            verdicts=lambda: [self._health.verdict(one.id) for one in self._engines.instances()],
            gauges=self._health.gauges,
        )
