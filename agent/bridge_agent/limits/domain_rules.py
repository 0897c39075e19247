"""Which engine sits on which GPU, and who is to blame when those of one GPU fall together. Pure.

Rules:
1. An engine whose configuration names a device sits there, or on all of several ("0,1"): its model is split
   over them. The others fill the usable devices in
   order, `per_gpu` on each, and begin again where engines are left.
2. The engines of one GPU under one MPS server are one fault domain.
3. A fault's client is known by its pid as the host sees it; by the pid that it has inside its own
   namespace only where no other engine has one of that number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bridge_agent.limits.gpu import Gpu, MigSlice, select
from bridge_core.node_class import GpuSharing


class Seats(msgspec.Struct, frozen=True):
    """Instance to the UUID of its device (or of several, with commas), and instance to why it has none."""

    devices: Mapping[str, str]
    faults: Mapping[str, str]

    def on(self, device: str) -> tuple[str, ...]:
        """The instances on a device, in order."""
        return tuple(instance for instance, uuid in self.devices.items() if device in uuid.split(","))


def seat(instances: Sequence[tuple[str, str | None]], gpus: Sequence[Gpu], sharing: GpuSharing) -> Seats:
    """Gives every engine its device.

    Args:
        instances: Each with the device that its configuration names, if any, in order.
        gpus: What the machine has.
        sharing: From the NodeClass.
    """
    devices: dict[str, str] = {}
    faults: dict[str, str] = {}
    try:
        usable: list[Gpu | MigSlice] = [select(gpus, wanted) for wanted in sharing.devices]
    except LookupError as fault:
        return Seats({}, {instance: str(fault) for instance, _ in instances})
    if not usable:
        usable = [part for gpu in gpus for part in (gpu.slices if gpu.mig and gpu.slices else (gpu,))]
    position = 0
    for instance, named in instances:
        if named is not None:
            try:
                devices[instance] = ",".join(select(gpus, one.strip()).uuid for one in named.split(","))
            except LookupError as fault:
                faults[instance] = str(fault)
        elif not usable:
            faults[instance] = "a GPU is asked for and this machine has none"
        else:
            devices[instance] = usable[position // max(1, sharing.per_gpu) % len(usable)].uuid
            position += 1
    return Seats(devices, faults)


class Family(msgspec.Struct, frozen=True):
    """The processes of an engine: as the host numbers them, and as they number themselves."""

    host: frozenset[int] = frozenset()
    inside: frozenset[int] = frozenset()


def culprit(pid: int, families: Mapping[str, Family]) -> str:
    """The engine that the client `pid` belonged to; empty where that is not certain."""
    if not pid:
        return ""
    for instance, family in families.items():
        if pid in family.host:
            return instance
    inside = [instance for instance, family in families.items() if pid in family.inside]
    return inside[0] if len(inside) == 1 else ""
