"""The agent's metrics, read when somebody scrapes: nothing is counted twice on the way of a request.

Loaded with the first scrape (`scrapes`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from bridge_agent.gateway.counters import GatewayCounters, Histogram
from bridge_agent.telemetry.exemplar_rules import exemplars_of
from bridge_agent.telemetry.health_metrics import health_metrics
from bridge_agent.telemetry.isolation_metrics import isolation_metrics
from bridge_agent.telemetry.log_metrics import log_metrics
from bridge_agent.telemetry.quota_metrics import quota_metrics
from bridge_agent.telemetry.shared_metrics import shared_metrics
from bridge_agent.telemetry.sources import Sources
from bridge_agent.telemetry.trace_metrics import trace_metrics


def metrics_of(sources: Sources) -> CollectorRegistry:
    """All metrics, read from the sources whenever they are collected."""
    registry = CollectorRegistry()
    registry.register(_AgentCollector(sources))
    ProcessCollector(registry=registry)
    return registry


class _AgentCollector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        return []  # named at collection; without this, registering would collect once

    def collect(self) -> Iterator[Metric]:
        yield from _requests(self._sources.counters)
        yield from self._mesh()
        yield from self._engines()
        if self._sources.quotas is not None:
            yield from quota_metrics(self._sources.quotas)
        sources = self._sources
        yield from isolation_metrics(sources.isolation(), sources.gpus(), sources.domains())
        yield from health_metrics(sources.verdicts(), sources.gauges())
        yield from shared_metrics(sources.shared())

    def _mesh(self) -> Iterator[Metric]:
        sources = self._sources
        up = GaugeMetricFamily("bridge_link_up", "1 while the dependency answers.", labels=["link"])
        since = GaugeMetricFamily(
            "bridge_link_since_seconds", "Unix time of the last change of bridge_link_up.", labels=["link"]
        )
        for link in sources.links():
            up.add_metric([link.name], float(link.up))
            since.add_metric([link.name], link.since_unix)
        yield up
        yield since
        snapshot = sources.snapshot()
        yield _gauge(
            "bridge_snapshot_revision", "Revision of the snapshot served.", snapshot.version.revision
        )
        yield _gauge("bridge_snapshot_epoch", "Epoch of the snapshot served.", snapshot.version.epoch)
        yield _gauge("bridge_snapshot_instances", "Instances in the snapshot.", len(snapshot.instances))
        ends = GaugeMetricFamily(
            "bridge_certificate_expires_seconds",
            "Unix time of the end of the first certificate of a kind that ends.",
            labels=["kind"],
        )
        for kind, at in sources.expires_unix().items():
            ends.add_metric([kind], at)
        yield ends
        ejected = GaugeMetricFamily(
            "bridge_ejected_seconds", "Seconds for which it is still passed over.", labels=["subject"]
        )
        for subject, left in sources.ejections().items():
            ejected.add_metric([subject], left)
        yield ejected
        waiting = GaugeMetricFamily("bridge_waiting", "Requests that wait for a slot.", labels=["instance"])
        for instance, count in sources.waiting().items():
            waiting.add_metric([instance], count)
        yield waiting
        if sources.log is not None:
            yield from log_metrics(sources.log)
        if sources.spans is not None:
            yield from trace_metrics(sources.spans)
        yield _counter("bridge_audit_written", "Audit records written.", sources.audit.written)
        yield _counter("bridge_audit_lost", "Audit records lost.", sources.audit.lost)
        yield _counter(
            "bridge_audit_unhashed", "Requests too large at once to be hashed.", sources.audit.unhashed
        )
        head, cosigning = sources.audit.head, sources.cosigning
        yield _gauge("bridge_audit_size", "Records in the audit log.", 0 if head is None else head.size)
        if cosigning is not None:
            yield _gauge(
                "bridge_audit_cosigned_size", "Of them, those that other nodes vouch for.", cosigning.cosigned
            )
        if sources.anchoring is not None and sources.anchoring.state.at:
            stamped = sources.anchoring.state
            yield _gauge("bridge_audit_stamped_size", "Of them, those with a time stamp.", stamped.size)
            yield _gauge("bridge_audit_stamped_seconds", "When that stamp was got, Unix time.", stamped.at)
        if sources.witness is not None:
            yield _counter(
                "bridge_audit_cosigned_for_others", "Heads of others cosigned.", sources.witness.cosigned
            )
            yield _gauge(
                "bridge_audit_convicted_logs",
                "Logs of other nodes that were found rewritten, cut or replaced.",
                len(sources.witness.findings),
            )
        yield _counters(
            "bridge_task_faults", "Faults of tasks beside the serving.", "task", sources.task_faults()
        )

    def _engines(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("bridge_engine_ready", "1 while it takes requests.", labels=["instance"])
        slots = GaugeMetricFamily(
            "bridge_engine_slots", "Requests it decodes at a time.", labels=["instance"]
        )
        loaded = GaugeMetricFamily("bridge_engine_models_loaded", "Models in memory.", labels=["instance"])
        for instance in self._sources.instances():
            ready.add_metric([instance.id], float(instance.state == "ready"))
            slots.add_metric([instance.id], instance.slots)
            loaded.add_metric([instance.id], len(instance.loaded))
        yield from (ready, slots, loaded)
        loads = self._sources.loads
        if loads is not None:
            outcomes = {"done": loads.done, "failed": loads.failed}
            yield _counters("bridge_model_loads", "Loads of models that ended.", "outcome", outcomes)
            yield _counter("bridge_model_loads_begun", "Loads of models that began.", loads.begun)
            yield _counter("bridge_model_load_waiters", "Requests that waited for a load.", loads.joined)
            yield _counter(
                "bridge_model_loads_left", "Loads done that nobody waited for any more.", loads.left_behind
            )


def _requests(counters: GatewayCounters) -> Iterator[Metric]:
    ended = counters.ended
    requests = CounterMetricFamily(
        "bridge_requests", "Requests answered.", labels=["path", "status", "listener"]
    )
    for (path, status, listener), count in list(ended.requests.items()):
        requests.add_metric([path, str(status), listener], count)
    yield requests
    by_backend = CounterMetricFamily(
        "bridge_route_requests",
        "Requests that came in here by a route, by the backend that was chosen.",
        labels=["route", "backend", "status"],
    )
    for (route, backend, status), count in list(counters.by_backend.items()):
        by_backend.add_metric([route, backend, str(status)], count)
    yield by_backend
    yield _counters("bridge_outcomes", "How requests ended.", "outcome", ended.outcomes)
    yield _counters(
        "bridge_authentication_refused",
        "Requests of nobody who may call.",
        "reason",
        counters.turned_away,
    )
    yield _counters("bridge_policy_denied", "Requests that policies refused.", "action", counters.denied)
    yield _counters(
        "bridge_policy_shadowed",
        "Requests that a policy in shadow would have refused.",
        "policy",
        ended.shadowed,
    )
    yield _counters("bridge_refused", "Requests refused for want of room.", "reason", counters.refused)
    yield _counters(
        "bridge_streams_broken", "Streams ended by an error told in them.", "framing", counters.streams_broken
    )
    yield _counters(
        "bridge_streams_resumed",
        "Deaths of streams that went on at another instance.",
        "reason",
        counters.streams_resumed,
    )
    yield _counters(
        "bridge_streams_not_resumed",
        "Deaths of streams that could not go on.",
        "reason",
        counters.streams_not_resumed,
    )
    failed = CounterMetricFamily(
        "bridge_attempts_failed", "Attempts that failed.", labels=["instance", "failure"]
    )
    for (instance, failure), count in list(counters.attempts_failed.items()):
        failed.add_metric([instance, failure], count)
    yield failed
    yield _counter("bridge_retries", "Attempts after the first.", counters.retries)
    yield _counter("bridge_hedges", "Second attempts beside a slow first one.", counters.hedges)
    yield _counter("bridge_hedges_won", "Hedges that answered first.", counters.hedges_won)
    yield _counter("bridge_batches", "Embedding requests of several clients, as one.", counters.batches)
    yield _counter("bridge_batched", "Requests that went in batches.", counters.batched)
    yield _counter(
        "bridge_batches_failed", "Batches that were asked for one by one after all.", counters.batches_failed
    )
    flight = GaugeMetricFamily("bridge_in_flight", "Requests at an instance now.", labels=["instance"])
    for instance, count in list(counters.in_flight.items()):
        flight.add_metric([instance], count)
    yield flight
    yield _histogram("bridge_request_duration_seconds", "From request to end of answer.", ended.duration)
    yield _histogram("bridge_first_byte_seconds", "From request to head of answer.", ended.first_byte)
    yield _histogram("bridge_wait_seconds", "Waited for a slot, of those that had to.", ended.wait)
    yield _histogram(
        "bridge_load_wait_seconds",
        "Waited for a model to be loaded, of those that had to.",
        ended.load_wait,
    )
    yield _histogram("bridge_overhead_seconds", "Added by the gateway itself.", ended.overhead)


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_, value=value)


def _counters(name: str, help_: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=[label])
    for key, count in list(values.items()):
        family.add_metric([key], count)
    return family


def _histogram(name: str, help_: str, histogram: Histogram) -> Metric:
    buckets, seen = list[tuple[str, float] | tuple[str, float, Exemplar]](), 0
    exemplars = exemplars_of(histogram, ahead=time.time() - time.monotonic())
    bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
    for at, (bound, count) in enumerate(zip(bounds, histogram.counts, strict=True)):
        seen += count
        exemplar = exemplars.get(at)
        buckets.append((bound, seen) if exemplar is None else (bound, seen, exemplar))
    return HistogramMetricFamily(name, help_, buckets=buckets, sum_value=histogram.total)
