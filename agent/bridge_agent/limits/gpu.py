"""GPUs as the agent sees them, whoever made them. `nvml` reads NVIDIA's; another vendor's library
(AMD's amdsmi) needs one more `GpuInventory`, held to the same contract suite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec


class GpuProcess(msgspec.Struct, frozen=True):
    """Memory that one process holds on a GPU; None where the driver does not tell."""

    pid: int
    memory_bytes: int | None


class MigSlice(msgspec.Struct, frozen=True):
    """A hardware partition of a GPU, a device of its own to CUDA."""

    uuid: str
    memory_bytes: int
    free_bytes: int


class Gpu(msgspec.Struct, frozen=True, omit_defaults=True):
    """One GPU at one moment. What a device does not report is None.

    Attributes:
        memory_bytes: All of its memory.
        free_bytes: What can still be taken.
        reserved_bytes: What the driver keeps for itself: neither free nor in use.
        fault: Why it may not be used: fell off the bus, uncorrectable errors; empty: usable.
        vendor: A key of `VISIBLE_DEVICES`.
        throttled: Why it is slowed down, beyond what its load asks for; empty: it is not.
        cpus: Those of the machine's CPUs that are nearest to it, the kernel's list format; empty: all are
            equally near.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    free_bytes: int
    temperature_c: int | None = None
    power_w: float | None = None
    utilization: int | None = None  # percent of time with a kernel running
    ecc_uncorrected: int | None = None
    mig: bool = False
    slices: tuple[MigSlice, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    compute_capability: tuple[int, int] = (0, 0)
    fault: str = ""
    reserved_bytes: int = 0
    vendor: str = "nvidia"
    cpus: str = ""
    throttled: str = ""

    @property
    def used_bytes(self) -> int:
        """Memory that processes hold, as the vendor's own tool counts it."""
        return self.memory_bytes - self.free_bytes - self.reserved_bytes

    def holds(self, uuid: str) -> bool:
        """Whether a UUID is its own or that of one of its slices."""
        return uuid == self.uuid or any(part.uuid == uuid for part in self.slices)


class Xid(msgspec.Struct, frozen=True):
    """A critical error that the driver reported; NVIDIA's documentation lists the codes."""

    uuid: str
    code: int


class GpuInventory(Protocol):
    """Reads the machine's GPUs. Blocking: call it from a thread."""

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU now; one that answers no more is still listed, with its `fault`."""

    def wait_xid(self, timeout_s: float) -> Xid | None:
        """The next critical error, or None after `timeout_s`."""

    def close(self) -> None:
        """Lets go of the driver."""


class NoGpus:
    """The inventory of a machine without GPUs."""

    def read(self) -> tuple[Gpu, ...]:
        """No GPU."""
        return ()

    def wait_xid(self, timeout_s: float) -> Xid | None:
        """Never one."""
        return None

    def close(self) -> None:
        """Nothing to let go of."""


# XIDs after which the device itself, and not only one program, is to be mistrusted: NVIDIA's
# documentation calls for a reset or a repair (48 double-bit ECC, 64 a row that could not be remapped,
# 74 NVLink, 79 fell off the bus, 95 uncontained ECC, 119/120 GSP).
DEVICE_XIDS = frozenset({48, 64, 74, 79, 95, 119, 120})
# Others (13, 31, 43, 45, 94) tell of one program's own fault, and not of which: under MPS its server's
# log is heard, beside which a stranger's crash on the same GPU would look the same.


def select(gpus: Iterable[Gpu], wanted: str) -> Gpu | MigSlice:
    """The GPU or MIG slice named by index ("0") or UUID (a unique prefix suffices, as for CUDA).

    Raises:
        LookupError: it is not there, or the prefix fits several; the sentence lists what is.
    """
    devices: list[Gpu | MigSlice] = []
    for gpu in gpus:
        if wanted == str(gpu.index):
            return gpu
        devices.extend([gpu, *gpu.slices])
    found = [device for device in devices if wanted and device.uuid.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(device.uuid for device in devices) or "none"
    problem = "fits several" if found else "is not there"
    raise LookupError(f"GPU {wanted!r} {problem}; this machine has: {there}")
