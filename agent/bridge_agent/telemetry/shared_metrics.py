"""What the agent's metrics say of shared storage; nothing where the node has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from bridge_core.model_answers import SharedSaid

_COUNTERS: Final = {
    "blobs": "Blobs that pulls had from shared storage.",
    "bytes": "Bytes read from shared storage.",
    "lacked": "Blobs that shared storage was asked for and does not have.",
    "wrong": "Times that a blob in shared storage had another digest or size.",
    "faults": "Times that shared storage refused, or did not answer in time.",
}


def shared_metrics(said: SharedSaid | None) -> Iterator[Metric]:
    """All of them, at this moment."""
    if said is None:
        return
    yield GaugeMetricFamily(
        "bridge_shared_storage_up", "1 while shared storage answers.", value=float(not said.fault)
    )
    yield GaugeMetricFamily(
        "bridge_shared_storage_hanging", "Reads and writes that hang there.", value=float(said.hanging)
    )
    for field, help_ in _COUNTERS.items():
        value = float(getattr(said.counts, field))
        yield CounterMetricFamily(f"bridge_shared_storage_{field}", help_, value=value)
