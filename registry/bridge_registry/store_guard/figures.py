"""The guard's figures on /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bridge_registry.store_guard.guard_table import GuardTable
from bridge_registry.store_guard.service import StoreGuard


class GuardFigures(Collector):
    """Reads the figures when they are asked for. `fault` says why etcd does not answer; "": it does."""

    def __init__(self, service: StoreGuard, table: GuardTable, fault: Callable[[], str]) -> None:
        self._service = service
        self._table = table
        self._fault = fault

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        for name, text, value in (
            ("store_up", "1 while etcd answers", int(not self._fault())),
            ("nodes", "Enrolled nodes", len(self._table.nodes)),
            ("revoked_certificates", "Certificates that are no longer accepted", self._table.revoked),
            ("leases", "Live leases that were granted through guards", len(self._table.leases)),
        ):
            yield GaugeMetricFamily(f"bridge_store_guard_{name}", text, value=value)
        allowed = CounterMetricFamily(
            "bridge_store_guard_allowed", "Requests sent on to etcd", labels=["method"]
        )
        for method, count in self._service.allowed.items():
            allowed.add_metric([method.rpartition("/")[2]], count)
        yield allowed
        refused = CounterMetricFamily("bridge_store_guard_refused", "Requests refused", labels=["reason"])
        for reason, count in self._service.refused.items():
            refused.add_metric([reason.value], count)
        yield refused
