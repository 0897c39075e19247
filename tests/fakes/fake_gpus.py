"""GPUs that are not there: an inventory that says what a test tells it to. See `GpuInventory`."""

from __future__ import annotations

import threading

import msgspec

from bridge_agent.limits.gpu import Gpu, GpuProcess, MigSlice, Xid

GIB = 1 << 30
RESERVED = 614 << 20


class FakeGpus:
    """Some GPUs of 80 GiB.

    Args:
        count: How many.
        vendor: Whose.
        cpus: Those nearest to each.
    """

    def __init__(self, count: int = 1, vendor: str = "nvidia", cpus: tuple[str, ...] = ()) -> None:
        self._lock = threading.Lock()
        self._gpus = {
            index: Gpu(
                index,
                f"GPU-{index:08x}-0000-0000-0000-000000000000",
                "Fake 80",
                80 * GIB,
                80 * GIB - RESERVED,
                temperature_c=40,
                power_w=75.0,
                utilization=0,
                ecc_uncorrected=0,
                compute_capability=(9, 0),
                reserved_bytes=RESERVED,
                vendor=vendor,
                cpus=cpus[index] if cpus else "",
            )
            for index in range(count)
        }
        self._xids: list[Xid] = []
        self._news = threading.Condition(self._lock)
        self.closed = False

    def read(self) -> tuple[Gpu, ...]:
        with self._lock:
            return tuple(self._gpus[index] for index in sorted(self._gpus))

    def wait_xid(self, timeout_s: float) -> Xid | None:
        with self._news:
            self._news.wait_for(lambda: self._xids or self.closed, timeout_s)
            return self._xids.pop(0) if self._xids else None

    def close(self) -> None:
        with self._news:
            self.closed = True
            self._news.notify_all()

    # -- what a test does to them

    def uuid(self, index: int = 0) -> str:
        return self._gpus[index].uuid

    def hold(self, index: int, pid: int, size: int) -> None:
        """A process takes memory."""
        gpu = self._gpus[index]
        taken = (*gpu.processes, GpuProcess(pid, size))
        self._change(index, processes=taken, free_bytes=gpu.free_bytes - size)

    def lose(self, index: int) -> None:
        """It falls off the bus."""
        self._change(index, free_bytes=0, fault="it answers no more: GPU is lost", processes=())

    def part(self, index: int, slices: int) -> None:
        """MIG is on."""
        each = self._gpus[index].free_bytes // slices
        parts = tuple(MigSlice(f"MIG-{index}{n}", each, each) for n in range(slices))
        self._change(index, mig=True, slices=parts)

    def xid(self, index: int, code: int) -> None:
        """The driver reports an error."""
        with self._news:
            self._xids.append(Xid(self.uuid(index), code))
            self._news.notify_all()

    def _change(self, index: int, **changes: object) -> None:
        with self._lock:
            self._gpus[index] = msgspec.structs.replace(self._gpus[index], **changes)
