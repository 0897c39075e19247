"""What became of the lines of the agent's own log, as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from bridge_core.logs.overload_rules import CLASSES
from bridge_core.logs.sink import LogSink


def log_metrics(sink: LogSink) -> Iterator[Metric]:
    """Lines written, and lines left out by class."""
    yield CounterMetricFamily("bridge_log_lines_written", "Lines of the program's log.", sink.written)
    left = CounterMetricFamily(
        "bridge_log_lines_dropped", "Lines left out: more than could be written.", labels=["class"]
    )
    dropped = sink.dropped
    for kind in CLASSES:
        left.add_metric([kind], dropped.get(kind, 0))
    yield left
