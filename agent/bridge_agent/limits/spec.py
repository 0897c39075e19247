"""What an instance may use, as numbers. Units are bytes, CPUs and counts."""

from __future__ import annotations

import msgspec

from bridge_core.node_class import IoLimit, ResourceLimits

__all__ = ["IoLimit", "Machine", "ResourceLimits", "by_groups", "faults", "parse_cpuset"]


class Machine(msgspec.Struct, frozen=True):
    """What limits are checked against."""

    memory_bytes: int
    cpus: frozenset[int]


def by_groups(limits: ResourceLimits) -> ResourceLimits:
    """The part of the limits that control groups hold."""
    return msgspec.structs.replace(limits, disk_max=None)


def faults(limits: ResourceLimits, machine: Machine) -> tuple[str, ...]:
    """Every reason why `limits` cannot hold on `machine`, a sentence each; empty when they can."""
    found: list[str] = []
    for name, value in (("memory_max", limits.memory_max), ("memory_high", limits.memory_high)):
        if value is None:
            continue
        if value <= 0:
            found.append(f"{name} is {value}: it must be more than 0 bytes")
        elif value > machine.memory_bytes:
            found.append(f"{name} is {value} bytes, the machine has {machine.memory_bytes}")
    if limits.memory_max and limits.memory_high and limits.memory_high > limits.memory_max:
        found.append(f"memory_high ({limits.memory_high}) is above memory_max ({limits.memory_max})")
    if limits.swap_max is not None and limits.swap_max < 0:
        found.append(f"swap_max is {limits.swap_max}: it must be 0 bytes or more")
    if limits.cpu_weight is not None and not 1 <= limits.cpu_weight <= 10_000:
        found.append(f"cpu_weight is {limits.cpu_weight}: it must be 1 to 10000")
    if limits.cpu_max is not None:
        if limits.cpu_max < 0.01:
            found.append(f"cpu_max is {limits.cpu_max}: it must be at least 0.01 CPUs")
        elif limits.cpu_max > len(machine.cpus):
            found.append(f"cpu_max is {limits.cpu_max} CPUs, the machine has {len(machine.cpus)}")
    if limits.pids_max is not None and limits.pids_max < 1:
        found.append(f"pids_max is {limits.pids_max}: it must be 1 or more")
    if limits.disk_max is not None and limits.disk_max < 1:
        found.append(f"disk_max is {limits.disk_max}: it must be more than 0 bytes")
    if limits.cpuset is not None:
        found.extend(_cpuset_faults(limits.cpuset, machine.cpus))
    for io in limits.io:
        rates = (io.read_bytes_per_s, io.write_bytes_per_s, io.read_iops, io.write_iops)
        if any(rate is not None and rate <= 0 for rate in rates):
            found.append(f"io of {io.path}: a rate must be more than 0")
    return tuple(found)


def parse_cpuset(text: str) -> frozenset[int]:
    """The CPUs of a kernel list ("0-3,8"). Raises ValueError on anything else."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part!r} is no CPU and no range of CPUs")
        low, high = int(first), int(last) if dash else int(first)
        if high < low:
            raise ValueError(f"{part!r} runs backwards")
        cpus.update(range(low, high + 1))
    return frozenset(cpus)


def _cpuset_faults(text: str, cpus: frozenset[int]) -> list[str]:
    try:
        wanted = parse_cpuset(text)
    except ValueError as fault:
        return [f"cpuset {text!r}: {fault}"]
    absent = sorted(wanted - cpus)
    return [f"cpuset {text!r}: the machine has no CPU {', '.join(map(str, absent))}"] if absent else []
