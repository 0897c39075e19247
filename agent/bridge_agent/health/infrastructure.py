"""Reads a machine's figures: psutil, the kernel's pressure files, file systems.

Blocking: call it from a thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil
import structlog

from bridge_agent.health.infrastructure_rules import Disk, Machine

log = structlog.get_logger()

_PRESSURE: Final = Path("/proc/pressure")


class MachineReader:
    """See the module.

    Args:
        folders: What is written, by what it is called; one that is not there yet is left out.
        pressure: Where the kernel's pressure files are.
    """

    def __init__(self, folders: Mapping[str, Path], *, pressure: Path = _PRESSURE) -> None:
        self._folders = dict(folders)
        self._pressure = pressure
        self._packets: tuple[int, int] | None = None

    def read(self) -> Machine:
        """The figures of now; without GPUs, which somebody else watches."""
        memory = psutil.virtual_memory()
        packets, bad = self._network()
        return Machine(
            cpu_waiting=self._psi("cpu", "some", "avg60"),
            memory_stalled=self._psi("memory", "full", "avg10"),
            io_stalled=self._psi("io", "full", "avg10"),
            memory_total=int(memory.total),
            memory_available=int(memory.available),
            disks=self._disks(),
            packets=packets,
            packets_bad=bad,
        )

    def _disks(self) -> tuple[Disk, ...]:
        found: dict[int, Disk] = {}  # by device: folders on one file system are one
        for what, folder in self._folders.items():
            try:
                device, room = os.stat(folder).st_dev, os.statvfs(folder)  # noqa: PTH116 - with statvfs
            except OSError:
                continue
            found.setdefault(device, Disk(what, room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize))
        return tuple(found.values())

    def _network(self) -> tuple[int, int]:
        """Packets since the last look, and those of them that were lost."""
        try:
            cards = psutil.net_io_counters(pernic=True)
        except OSError:  # a machine that hides /proc/net
            return 0, 0
        received, lost = 0, 0
        for one in cards.values():
            received += one.packets_recv + one.packets_sent
            lost += one.errin + one.errout + one.dropin + one.dropout
        now = received, lost
        before, self._packets = self._packets or now, now
        return max(0, now[0] - before[0]), max(0, now[1] - before[1])

    def _psi(self, what: str, kind: str, window: str) -> float | None:
        """A figure of a pressure file; None where the kernel has none."""
        try:
            text = (self._pressure / what).read_text()
        except OSError:
            return None
        return pressure_of(text, kind, window)


def pressure_of(text: str, kind: str, window: str) -> float | None:
    """A figure out of a pressure file's text (https://docs.kernel.org/accounting/psi.html)."""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == kind:
            for word in words[1:]:
                name, _, value = word.partition("=")
                if name == window:
                    try:
                        return float(value)
                    except ValueError:
                        return None
    return None
