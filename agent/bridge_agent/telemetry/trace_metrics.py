"""What became of the spans of traces, as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from bridge_agent.tracing.delivery_rules import Drop
from bridge_agent.tracing.span_queue import SpanQueue


def trace_metrics(spans: SpanQueue) -> Iterator[Metric]:
    """Spans that the collector took, and those that came to nothing by why."""
    yield CounterMetricFamily("bridge_trace_spans_sent", "Spans that the collector took.", spans.sent)
    lost = CounterMetricFamily(
        "bridge_trace_spans_dropped", "Spans that were to be kept and came to nothing.", labels=["reason"]
    )
    dropped = spans.dropped
    for why in Drop:
        lost.add_metric([why.value], dropped.get(why, 0))
    yield lost
