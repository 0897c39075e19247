"""What an operator is told of engines' limits and walls: the figures, and the sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from bridge_agent.limits.cgroup_rules import Usage
from bridge_core.node_class import ResourceLimits
from bridge_core.quantities import say_size

FULL_AT: Final = 0.95  # of the limit of the disk: the next layer of a model will not fit


class IsolationReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine's limits and walls.

    Attributes:
        instance: "<node>/<n>".
        walls: Those that stand.
        missing: Those that were asked for and do not stand, and why.
        device: Its GPU or MIG slice; empty: not pinned.
        domain: Its fault domain beyond its node; empty: none.
        fault: Why it is kept out of the ring; empty: it is not.
        oom_kills: Processes that the kernel killed at its memory limit, since this agent began.
        usage: Of its groups, as last read.
        node_class: Under which it runs.
        limits: Those in force.
        pending: Why it does not yet run under the NodeClass that the node has now; empty: it does.
        stored: Bytes in each folder that the limit of the disk holds.
    """

    instance: str
    walls: tuple[str, ...] = ()
    missing: dict[str, str] = {}
    device: str = ""
    domain: str = ""
    fault: str = ""
    oom_kills: int = 0
    usage: Usage = Usage()
    node_class: str = ""
    limits: ResourceLimits = ResourceLimits()
    pending: str = ""
    stored: dict[str, int] = {}


class DomainReport(msgspec.Struct, frozen=True):
    """One fault domain as an operator sees it."""

    name: str
    instances: tuple[str, ...]
    daemon_restarts: int
    faults: int
    last: str


def lines(report: IsolationReport) -> list[str]:
    """What stands around an engine and what it uses, for people; nothing where nothing was asked for."""
    found = []
    if limits := _limits(report.limits):
        found.append(f"limits: {limits}")
    if report.walls:
        found.append(f"walls: {', '.join(report.walls)}")
    if usage := _usage(report.usage, report.limits):
        found.append(f"uses: {usage}")
    if report.stored:
        found.append(
            "stores: " + ", ".join(f"{say_size(count)} in {at}" for at, count in report.stored.items())
        )
    if report.device:
        found.append(f"GPU: {report.device}" + (f", falls with {report.domain}" if report.domain else ""))
    return found


def concerns(reports: Iterable[IsolationReport], domains: Iterable[DomainReport] = ()) -> list[str]:
    """What an operator should look at, a sentence each."""
    found = []
    for one in reports:
        if one.fault:
            found.append(f"{one.instance} takes no requests: {one.fault}")
        if one.oom_kills:
            limit = f" of {say_size(one.limits.memory_max)}" if one.limits.memory_max is not None else ""
            times = "once" if one.oom_kills == 1 else f"{one.oom_kills} times"
            found.append(f"{one.instance} was killed at its memory limit{limit} {times}")
        if one.pending:
            found.append(f"{one.instance} does not yet follow its NodeClass: {one.pending}, or once drained")
        most = one.limits.disk_max or 0
        full = {at: count for at, count in one.stored.items() if count >= FULL_AT * most}
        what_next = "remove models, or raise its diskMax"
        found += [
            f"{one.instance} has filled {at}: {say_size(count)} of {say_size(most)}; {what_next}"
            for at, count in full.items()
        ]
        found += [f"{one.instance} has no wall {wall}: {why}" for wall, why in one.missing.items()]
    found += [f"{one.name} fell {one.faults} times, last: {one.last}" for one in domains if one.faults]
    return found


def _limits(limits: ResourceLimits) -> str:
    parts = [
        f"{word} {say_size(value)}"
        for word, value in (
            ("memory", limits.memory_max),
            ("slowed above", limits.memory_high),
            ("swap", limits.swap_max),
            ("each folder", limits.disk_max),
        )
        if value is not None
    ]
    parts += [
        f"{word} {value:g}"
        for word, value in (
            ("CPUs", limits.cpu_max),
            ("CPU weight", limits.cpu_weight),
            ("processes", limits.pids_max),
        )
        if value is not None
    ]
    if limits.cpuset is not None:
        parts.append(f"on CPUs {limits.cpuset}")
    parts += [f"I/O of {io.path}" for io in limits.io]
    return ", ".join(parts)


def _usage(usage: Usage, limits: ResourceLimits) -> str:
    parts = []
    if usage.memory_bytes is not None:
        most = f" of {say_size(limits.memory_max)}" if limits.memory_max is not None else ""
        peak = f" (peak {say_size(usage.memory_peak_bytes)})" if usage.memory_peak_bytes is not None else ""
        parts.append(f"{say_size(usage.memory_bytes)}{most} of memory{peak}")
    if usage.pids is not None:
        parts.append(f"{usage.pids} processes and threads")
    if usage.cpu_seconds is not None:
        parts.append(f"{usage.cpu_seconds:.1f} s of CPU")
    if usage.throttled_seconds:
        parts.append(f"held back for {usage.throttled_seconds:.1f} s")
    if usage.memory_pressure:
        parts.append(f"waited for memory {usage.memory_pressure:g} % of the time")
    if usage.cpu_pressure:
        parts.append(f"for CPUs {usage.cpu_pressure:g} %")
    return ", ".join(parts)
