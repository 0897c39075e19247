"""Where the agent's metrics come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from bridge_agent.audit.witness import Witness
from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.counters import GatewayCounters
from bridge_agent.limits.gpu import Gpu
from bridge_agent.limits.isolation_report import DomainReport, IsolationReport
from bridge_agent.loading.model_loads import LoadFigures
from bridge_agent.membership.link_status import LinkReport
from bridge_agent.quotas.meter import Meter
from bridge_agent.tracing.span_queue import SpanQueue
from bridge_core.audit.anchoring import Anchoring
from bridge_core.audit.cosigning import Cosigning
from bridge_core.audit.queue import AuditLog
from bridge_core.gauges import Gauge
from bridge_core.logs.sink import LogSink
from bridge_core.model_answers import SharedSaid
from bridge_core.snapshot import Snapshot
from bridge_core.verdicts import Verdict


class QuotaFigures:
    """Where those of quotas come from.

    Args:
        meter: Counts.
        leased: Whether a registry answers.
    """

    def __init__(self, meter: Meter, leased: Callable[[], bool]) -> None:
        self.meter = meter
        self.leased = leased


class Sources:
    """Where the figures come from; every one is called at a scrape.

    Attributes:
        counters: The gateway's.
        ejections: Instances and nodes skipped after failures, with the seconds left.
        links: Registry, etcd, certificate.
        snapshot: The one in force.
        instances: The node's own.
        expires_unix: When the first certificate of each kind ends.
        audit: What was written and lost.
        log: The program's own log, likewise; None: it is a terminal's.
        spans: Those of traces, likewise; None: none are made.
        cosigning: Who vouches for it; None: nobody is asked.
        anchoring: How far it is stamped; None: nobody is asked.
        witness: What was seen of others' audit logs; None: nothing.
        waiting: Requests that wait for a slot, by instance.
        loads: What came of loads of models; None: nobody counts.
        isolation: Limits, walls and usage of the node's engines.
        gpus: The node's GPUs.
        domains: Fault domains under MPS.
        task_faults: How often tasks beside the serving failed, by name.
        quotas: What callers use of their quotas; None: nobody counts.
        verdicts: How the node's instances are.
        gauges: What the node measured.
        shared: How its shared storage stands; None: it has none.
    """

    def __init__(
        self,
        *,
        counters: GatewayCounters,
        ejections: Callable[[], dict[str, float]],
        links: Callable[[], Iterable[LinkReport]],
        snapshot: Callable[[], Snapshot],
        instances: Callable[[], Iterable[LocalInstance]],
        expires_unix: Callable[[], Mapping[str, float]],
        audit: AuditLog,
        waiting: Callable[[], dict[str, int]] = dict,
        loads: LoadFigures | None = None,
        isolation: Callable[[], Iterable[IsolationReport]] = tuple,
        gpus: Callable[[], Sequence[Gpu]] = tuple,
        domains: Callable[[], Iterable[DomainReport]] = tuple,
        task_faults: Callable[[], Mapping[str, int]] = dict,
        quotas: QuotaFigures | None = None,
        cosigning: Cosigning | None = None,
        anchoring: Anchoring | None = None,
        witness: Witness | None = None,
        verdicts: Callable[[], Iterable[Verdict]] = tuple,
        gauges: Callable[[], Iterable[Gauge]] = tuple,
        log: LogSink | None = None,
        shared: Callable[[], SharedSaid | None] = lambda: None,
        spans: SpanQueue | None = None,
    ) -> None:
        self.counters = counters
        self.ejections = ejections
        self.links = links
        self.snapshot = snapshot
        self.instances = instances
        self.expires_unix = expires_unix
        self.audit = audit
        self.waiting = waiting
        self.loads = loads
        self.isolation = isolation
        self.gpus = gpus
        self.domains = domains
        self.task_faults = task_faults
        self.quotas = quotas
        self.cosigning = cosigning
        self.anchoring = anchoring
        self.witness = witness
        self.verdicts = verdicts
        self.gauges = gauges
        self.log = log
        self.shared = shared
        self.spans = spans
