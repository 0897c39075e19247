"""Metrics of limits, walls and GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from bridge_agent.limits.gpu import Gpu
from bridge_agent.limits.isolation_report import DomainReport, IsolationReport

# Field of Usage, metric, help. Counters begin anew with every start of their engine.
_GAUGES: Final = (
    ("memory_bytes", "memory_bytes", "Memory that its groups use."),
    ("memory_peak_bytes", "memory_peak_bytes", "The most memory that its groups used."),
    ("pids", "processes", "Its processes and threads."),
    ("memory_pressure", "memory_pressure_percent", "Time that some of it waited for memory, of 10 s."),
    ("cpu_pressure", "cpu_pressure_percent", "Time that some of it waited for a CPU, of 10 s."),
)
_COUNTERS: Final = (
    ("cpu_seconds", "cpu_seconds", "CPU time that its groups used."),
    ("throttled_seconds", "cpu_throttled_seconds", "Time that it was held back at its CPU limit."),
    ("pids_refused", "processes_refused", "Times that it got no process at its limit."),
    ("io_read_bytes", "io_read_bytes", "Read from disks."),
    ("io_written_bytes", "io_written_bytes", "Written to disks."),
)
_LIMITS: Final = (
    ("memory_max", "memory_limit_bytes", "Past it the kernel ends the engine."),
    ("cpu_max", "cpu_limit", "CPUs' worth of time."),
    ("pids_max", "processes_limit", "Processes and threads it may have."),
    ("disk_max", "disk_limit_bytes", "Stored in each folder that it writes to."),
)
_GPU: Final = (
    ("memory_bytes", "memory_bytes", "All of its memory."),
    ("free_bytes", "memory_free_bytes", "Memory that is free."),
    ("temperature_c", "temperature_celsius", "Its temperature."),
    ("power_w", "power_watts", "What it draws."),
    ("utilization", "utilization_percent", "Time with a kernel running."),
    ("ecc_uncorrected", "ecc_uncorrected", "Uncorrectable memory errors since it was reset."),
)


def isolation_metrics(
    reports: Iterable[IsolationReport], gpus: Sequence[Gpu] = (), domains: Iterable[DomainReport] = ()
) -> Iterator[Metric]:
    """All of them; a figure that is not to be had is left out."""
    reports, domains = tuple(reports), tuple(domains)
    for field, name, help_ in _GAUGES:
        rows = ((one.instance, getattr(one.usage, field)) for one in reports)
        yield from _family(GaugeMetricFamily, f"bridge_engine_{name}", help_, rows)
    for field, name, help_ in _COUNTERS:
        rows = ((one.instance, getattr(one.usage, field)) for one in reports)
        yield from _family(CounterMetricFamily, f"bridge_engine_{name}", help_, rows)
    for field, name, help_ in _LIMITS:
        rows = ((one.instance, getattr(one.limits, field)) for one in reports)
        yield from _family(GaugeMetricFamily, f"bridge_engine_{name}", help_, rows)
    yield from _family(
        CounterMetricFamily,
        "bridge_engine_oom_kills",
        "Processes killed at its memory limit.",
        ((one.instance, one.oom_kills) for one in reports),
    )
    walls = GaugeMetricFamily(
        "bridge_engine_wall",
        "1 where the wall stands, 0 where it was asked for.",
        labels=["instance", "wall"],
    )
    for one in reports:
        for wall in (*one.walls, *one.missing):
            walls.add_metric([one.instance, wall], float(wall in one.walls))
    yield walls
    yield from _gpus(gpus)
    for field, name, help_ in (
        ("faults", "faults", "Times that all engines of the domain fell."),
        ("daemon_restarts", "daemon_restarts", "Times that the MPS daemon had to be started again."),
    ):
        rows = ((domain.name, getattr(domain, field)) for domain in domains)
        yield from _family(CounterMetricFamily, f"bridge_mps_{name}", help_, rows, label="domain")


def _gpus(gpus: Sequence[Gpu]) -> Iterator[Metric]:
    for field, name, help_ in _GPU:
        rows = ((gpu.uuid, getattr(gpu, field)) for gpu in gpus)
        yield from _family(GaugeMetricFamily, f"bridge_gpu_{name}", help_, rows, label="gpu")
    rows = ((gpu.uuid, float(bool(gpu.fault))) for gpu in gpus)
    yield from _family(
        GaugeMetricFamily, "bridge_gpu_fault", "1 where it may not be used.", rows, label="gpu"
    )


def _family(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    help_: str,
    rows: Iterable[tuple[str, float | None]],
    *,
    label: str = "instance",
) -> Iterator[Metric]:
    found = [(subject, value) for subject, value in rows if value is not None]
    if found:
        family = kind(name, help_, labels=[label])
        for subject, value in found:
            family.add_metric([subject], value)
        yield family
