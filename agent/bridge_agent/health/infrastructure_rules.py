"""What a machine's figures mean for the engines on it. Pure.

The marks are where the kernel's or the vendor's own remedies begin to hurt: what is below them is nobody's
business. A figure that cannot be had says nothing, except of a GPU: there a device that does not answer
counts against itself (`Gpu.fault`), as nobody knows what it computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from bridge_agent.health.verdict_rules import Finding
from bridge_agent.limits.gpu import Gpu
from bridge_core.quantities import say_size
from bridge_core.verdicts import Level

DISK_LOW: Final = (0.05, 2 << 30)  # share and bytes that are free: the next layer of a model may not fit
DISK_OUT: Final = (0.01, 256 << 20)  # nor the audit log and the snapshot
MEMORY_LOW: Final = 0.04
MEMORY_OUT: Final = 0.015  # the kernel is about to kill
STALLED: Final = 20.0  # percent of 10 s in which everything waited for memory, or for disks
STALLED_BADLY: Final = 60.0
PACKETS_LOST: Final = 0.02
_FEWEST_PACKETS: Final = 200
HOT_C: Final = 90  # where a device does not tell that it is slowed down, its temperature does


class Disk(msgspec.Struct, frozen=True):
    """A file system that the agent or its engines write to."""

    what: str
    total: int
    free: int


class Machine(msgspec.Struct, frozen=True):
    """What a machine's figures are now. None: not to be had.

    Attributes:
        cpu_waiting: Percent of the last 60 s in which some task waited for a CPU (PSI some). Told, and never
            held against anybody: engines that compute on CPUs are there to use them.
        memory_stalled: Percent of the last 10 s in which all tasks waited for memory (PSI full).
        io_stalled: The same for disks.
        memory_total: Bytes.
        memory_available: Bytes that programs can still have.
        disks: Of what is written.
        packets: Sent and received since the last look.
        packets_bad: Of those, with errors or dropped.
    """

    cpu_waiting: float | None = None
    memory_stalled: float | None = None
    io_stalled: float | None = None
    memory_total: int = 0
    memory_available: int = 0
    disks: tuple[Disk, ...] = ()
    packets: int = 0
    packets_bad: int = 0


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """What concerns every engine of the machine."""
    for disk in machine.disks:
        yield from _disk(disk)
    if machine.memory_total:
        left = machine.memory_available / machine.memory_total
        said = f"{say_size(machine.memory_available)} of {say_size(machine.memory_total)} of memory are left"
        yield from _at("memory", _low(left, MEMORY_LOW, MEMORY_OUT), said)
    yield from _stalled("memory-pressure", machine.memory_stalled, "everything waits for memory")
    yield from _stalled("disk-pressure", machine.io_stalled, "everything waits for disks")
    if machine.packets >= _FEWEST_PACKETS and machine.packets_bad >= PACKETS_LOST * machine.packets:
        share = 100 * machine.packets_bad / machine.packets
        yield _found("network", "degraded", f"{share:.0f} % of the packets are lost or damaged")


def gpu_findings(gpus: Iterable[Gpu], device: str) -> Iterator[Finding]:
    """What concerns an engine that is pinned to `device`; to none: every GPU is its own."""
    for gpu in gpus:
        if device and not gpu.holds(device):
            continue
        name = f"GPU {gpu.index}"
        if gpu.fault:
            yield Finding("infrastructure", "gpu", "failing", f"{name}: {gpu.fault}", sudden=True)
        if gpu.throttled:
            yield _found("gpu-throttled", "degraded", f"{name} is slowed down: {gpu.throttled}")
        elif gpu.temperature_c is not None and gpu.temperature_c >= HOT_C:
            yield _found("gpu-hot", "degraded", f"{name} has {gpu.temperature_c} °C")


def _disk(disk: Disk) -> Iterator[Finding]:
    if not disk.total:
        return
    share = disk.free / disk.total
    # Either alone is no sign: a large disk has bytes left at 4 %, a small one is never far from its end.
    if share <= DISK_OUT[0] or disk.free <= DISK_OUT[1]:
        level: Level = "failing"
    elif (share <= DISK_LOW[0] and disk.free <= 16 * DISK_LOW[1]) or disk.free <= DISK_LOW[1]:
        level = "degraded"
    else:
        return
    said = f"{say_size(disk.free)} of {say_size(disk.total)} are left for {disk.what}"
    # One that is full does not swing around its mark, and the next write fails.
    yield Finding("infrastructure", "disk", level, said, sudden=level == "failing")


def _stalled(code: str, percent: float | None, what: str) -> Iterator[Finding]:
    if percent is not None and percent >= STALLED:
        level: Level = "failing" if percent >= STALLED_BADLY else "degraded"
        yield _found(code, level, f"{what} {percent:.0f} % of the time")


def _low(share: float, low: float, out: float) -> Level:
    return "failing" if share <= out else "degraded" if share <= low else "ok"


def _at(code: str, level: Level, text: str) -> Iterator[Finding]:
    if level != "ok":
        yield _found(code, level, text)


def _found(code: str, level: Level, text: str) -> Finding:
    return Finding("infrastructure", code, level, text)
