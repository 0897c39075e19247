"""What of this node engines may run on: its GPUs, or its memory and cores; or what somebody supposes."""

from __future__ import annotations

import os
import shutil
from typing import Final

import msgspec

from bridge_agent.limits.gpu import Gpu
from bridge_agent.limits.mps import CONTROL
from bridge_agent.limits.placement_rules import Device
from bridge_agent.limits.surroundings import open_gpus
from bridge_core.errors import Fatal
from bridge_core.memory_room import available
from bridge_core.quantities import parse_size, say_size

CPU: Final = "cpu"


class NodeFacts(msgspec.Struct, frozen=True):
    """What the planner plans for.

    Attributes:
        devices: GPUs and slices; the machine itself where there are none.
        cores: CPUs that engines may use.
        about: What this is, a sentence for people.
    """

    devices: tuple[Device, ...]
    cores: int
    about: str


def this_node() -> NodeFacts:
    """This machine as it is now."""
    inventory, without = open_gpus()
    try:
        gpus = inventory.read()
    finally:
        inventory.close()
    cores = len(os.sched_getaffinity(0))
    devices = tuple(device for gpu in gpus for device in _devices(gpu))
    if devices:
        names = ", ".join(
            f"{gpu.index}: {gpu.name}" + (f" ({gpu.fault})" if gpu.fault else "") for gpu in gpus
        )
        return NodeFacts(devices, cores, f"{names}; {cores} cores")
    room = available()
    reason = f" ({without})" if without else ""
    about = f"no usable GPU{reason}: {say_size(room)} of memory are free, {cores} cores"
    return NodeFacts((Device(CPU, room, mps=False, cpu=True),), cores, about)


def supposed(vram: str, *, gpus: int = 1, cores: int | None = None, mps: bool = True) -> NodeFacts:
    """A node with so many equal GPUs.

    Args:
        vram: Free memory of each, with a unit ("24GiB").
        gpus: How many.
        cores: CPUs; None: this machine's.
        mps: Whether MPS is to be had there.

    Raises:
        Fatal: `vram` is no size, or there are no GPUs.
    """
    try:
        size = parse_size(vram)
    except ValueError as fault:
        raise Fatal(f"--vram {vram!r} is {fault}", hint="for example 24GiB") from None
    if not size:
        raise Fatal(f"--vram {vram!r} is nothing to suppose", hint="for example 24GiB")
    if gpus < 1:
        raise Fatal(f"--gpus {gpus}: suppose one at least", hint="leave --vram out for a node without GPUs")
    devices = tuple(Device(f"gpu-{number}", size, mps=mps) for number in range(gpus))
    count = cores or len(os.sched_getaffinity(0))
    return NodeFacts(devices, count, f"supposed: {gpus} GPU of {say_size(size)} each, {count} cores")


def _devices(gpu: Gpu) -> list[Device]:
    if gpu.fault:
        return []
    if gpu.mig and gpu.slices:
        return [Device(part.uuid, part.free_bytes, mps=False) for part in gpu.slices]
    return [
        Device(gpu.uuid, gpu.free_bytes, mps=gpu.vendor == "nvidia" and shutil.which(CONTROL) is not None)
    ]
