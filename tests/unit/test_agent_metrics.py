"""The metrics page has what the gateway counted, in a form that Prometheus reads."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.gateway.counters import GatewayCounters
from bridge_agent.membership.link_status import LinkReport
from bridge_agent.telemetry.metrics import metrics_of
from bridge_agent.telemetry.sources import Sources
from bridge_agent.telemetry.trace_metrics import trace_metrics
from bridge_agent.tracing.context_rules import Trace
from bridge_agent.tracing.delivery_rules import Drop
from bridge_agent.tracing.span_queue import SpanQueue
from bridge_core import exposition
from bridge_core.audit.queue import AuditLog
from bridge_core.identity.principal import Principal
from bridge_core.model_answers import SharedCounts, SharedSaid
from bridge_core.snapshot import Snapshot, Version


def request(id_: str, trace: Trace | None = None) -> RequestRecord:
    """One that ended now."""
    caller = Caller(Principal("client", "ann", "client:ann"), ListenerKind.TLS)
    at = time.monotonic()
    return RequestRecord(
        *(
            id_,
            caller,
            "POST",
            "/api/chat",
            "m:latest",
            200,
            Outcome.OK,
            at,
            at,
            at,
            at,
            None,
            "n/0",
            (),
            1,
            1,
        ),
        trace=trace,
    )


async def test_counters_histograms_links_and_engines() -> None:
    counters = GatewayCounters()
    counters.ended.requests["/api/chat", 200, "local"] += 3
    counters.attempts_failed["n/0", "connect"] += 2
    counters.begin("n/0")
    over = [request("short", trace=Trace(b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331", True))]
    over += [request("x" * 118), request("x" * 119)]
    counters.ended.duration.observe((0.0005, 0.02, 400.0), over)
    audit = AuditLog(Path("unused"), "m.local/node/n", lambda record, _: (record,), capacity=1)
    for number in range(5):
        audit.put(number)
    page = metrics_of(
        Sources(
            counters=counters,
            ejections=lambda: {"n/0": 2.5},
            links=lambda: [LinkReport("etcd", False, 17.0, "away")],
            snapshot=lambda: Snapshot(Version(2, 9), {}),
            instances=lambda: [LocalInstance("n/0", "127.0.0.1", 1, "ready", slots=4)],
            expires_unix=lambda: {"node": 99.0, "root": 100.0},
            audit=audit,
            task_faults=lambda: {"audit": 2},
            shared=lambda: SharedSaid("/mnt/models", False, "it hangs", 3, SharedCounts(1, 2, 4, 8, 16)),
        )
    )
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(page).decode())
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return samples[name, tuple(sorted(labels.items()))]

    assert value("bridge_requests_total", path="/api/chat", status="200", listener="local") == 3
    assert value("bridge_attempts_failed_total", instance="n/0", failure="connect") == 2
    assert value("bridge_in_flight", instance="n/0") == 1
    assert value("bridge_link_up", link="etcd") == 0
    assert value("bridge_link_since_seconds", link="etcd") == 17
    assert value("bridge_snapshot_revision") == 9
    assert value("bridge_engine_slots", instance="n/0") == 4
    assert value("bridge_ejected_seconds", subject="n/0") == 2.5
    assert value("bridge_certificate_expires_seconds", kind="node") == 99
    assert value("bridge_audit_lost_total") == 4
    assert value("bridge_shared_storage_up") == 0
    assert value("bridge_shared_storage_hanging") == 3
    counted = ("blobs", "bytes", "lacked", "wrong", "faults")
    assert [value(f"bridge_shared_storage_{one}_total") for one in counted] == [1, 2, 4, 8, 16]
    assert value("bridge_task_faults_total", task="audit") == 2
    assert value("bridge_request_duration_seconds_bucket", le="0.001") == 1
    assert value("bridge_request_duration_seconds_bucket", le="300.0") == 2
    assert value("bridge_request_duration_seconds_bucket", le="+Inf") == 3
    assert value("bridge_request_duration_seconds_count") == 3
    assert value("bridge_request_duration_seconds_sum") == 400.0205
    assert any(name.startswith("process_resident") for name, _ in samples)

    plain = generate_latest(page).decode()
    assert "short" not in plain, "the text format has no exemplars"
    exact = {
        sample.labels["le"]: sample.exemplar
        for family in openmetrics(exposition.rendered(page, exposition.OPENMETRICS)[1].decode())
        for sample in family.samples
        if sample.name == "bridge_request_duration_seconds_bucket" and sample.exemplar
    }
    assert {bound: (one.labels, one.value) for bound, one in exact.items()} == {
        "0.001": ({"trace_id": "0af7651916cd43dd8448eb211c80319c", "request_id": "short"}, 0.0005),
        "0.025": ({"request_id": "x" * 118}, 0.02),
    }
    now = time.time()
    assert all(abs(now - float(one.timestamp)) < 600 for one in exact.values())


async def test_spans_are_counted_by_what_became_of_them() -> None:
    spans = SpanQueue(most_bytes=1)
    spans.put(b"long")
    spans.note_sent(3)
    page = b"\n".join(
        line.encode()
        for metric in trace_metrics(spans)
        for line in (f"{one.name} {dict(one.labels)} {one.value}" for one in metric.samples)
    ).decode()
    assert "bridge_trace_spans_sent_total {} 3" in page
    assert "bridge_trace_spans_dropped_total {'reason': 'queue'} 1" in page
    assert page.count("bridge_trace_spans_dropped_total") == len(Drop)
