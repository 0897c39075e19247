"""What a node gives its engines and walls them off with: the NodeClass documents, as agents get them.

Rules:
1. A NodeClass applies to the nodes that have every label of its selector; an empty selector means
   every node.
2. Of several that apply, the one with the most labels in its selector wins, then the first by name.
3. What a NodeClass leaves out stays as the kernel and the driver have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec

from bridge_core.bounds import Count, Labels, Name, Names, Seconds, Small, Words


class IoLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bandwidth and rate of one block device, named by any path on it; None: unlimited."""

    path: Name
    read_bytes_per_s: Count | None = None
    write_bytes_per_s: Count | None = None
    read_iops: Count | None = None
    write_iops: Count | None = None


class ResourceLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of one instance; None leaves the kernel's default.

    Attributes:
        memory_max: Hard limit, bytes; past it the kernel kills inside the group.
        memory_high: Soft limit, bytes; past it the group is slowed and reclaimed (v2; v1 has
            memory.soft_limit_in_bytes, which only counts under pressure).
        swap_max: Bytes of swap on top of memory.
        cpu_weight: Share under contention, 1 to 10000; 100 is everybody's default.
        cpu_max: CPUs' worth of time per period, e.g. 1.5.
        cpuset: CPUs it may run on, the kernel's list format ("0-3,8").
        pids_max: Processes and threads.
        io: Per device.
        disk_max: Bytes that each folder may hold that it writes to; instances that share a models
            folder share its limit.
    """

    memory_max: Count | None = None
    memory_high: Count | None = None
    swap_max: Count | None = None
    cpu_weight: Small | None = None
    cpu_max: Seconds | None = None
    cpuset: Name | None = None
    pids_max: Count | None = None
    io: Annotated[tuple[IoLimit, ...], msgspec.Meta(max_length=64)] = ()
    disk_max: Count | None = None


class Isolation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The walls around an engine.

    Attributes:
        walls: Put up where the machine allows it; None: those that cost nothing and always work.
        require: Without one of these the engine does not start.
        uid: Unprivileged user the engine runs as; None: the agent's own.
        gid: Its group.
        tmp_bytes: Size of the private /tmp; what is in it counts as the engine's memory.
    """

    walls: Words | None = None
    require: Words = ()
    uid: Count | None = None
    gid: Count | None = None
    tmp_bytes: Count = 256 << 20


class GpuSharing(msgspec.Struct, frozen=True, omit_defaults=True):
    """How engines share GPUs.

    Attributes:
        devices: UUIDs or indices to use, in order; empty: every usable GPU.
        per_gpu: Engines pinned to one GPU before the next is taken.
        mps: Engines of one GPU share it under MPS.
        thread_percentage: Active threads of each engine; None: chosen by the number of neighbours.
        memory_bytes: Device memory of each engine under MPS; None: not limited.
    """

    devices: Names = ()
    per_gpu: Small = 1
    mps: bool = False
    thread_percentage: Small | None = None
    memory_bytes: Count | None = None


class NodeClass(msgspec.Struct, frozen=True, omit_defaults=True):
    """One class of nodes; see the module's rules. `gpu` None: GPUs are left to the engines."""

    name: Name = "local"
    selector: Labels = {}
    limits: ResourceLimits = ResourceLimits()
    isolation: Isolation = Isolation()
    gpu: GpuSharing | None = None


def choose(classes: Iterable[NodeClass], labels: Mapping[str, str]) -> NodeClass | None:
    """The class of a node with these labels; None when none applies."""
    fitting = [one for one in classes if one.selector.items() <= labels.items()]
    return min(fitting, key=lambda one: (-len(one.selector), one.name), default=None)
