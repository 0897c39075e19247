"""What /proc says of engines: which processes are an instance's, and what they have done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bridge_core.proc import ProcStat, everyone

_PROC = Path("/proc")

# In the environment of an engine and so of its runners: which folder is their instance's. By it they
# are found where their record was lost.
MARK = "BRIDGE_ENGINE_PLACE"


def place_of(folder: Path) -> str:
    """Which folder this is, whatever it is called: containers that see each other's processes have
    folders of the same path, and of a copied folder the original may be in use.

    Raises:
        OSError: there is none.
    """
    found = folder.stat()
    return f"{found.st_dev:x}:{found.st_ino:x}"


def marked(folder: Path) -> list[ProcStat]:
    """The processes that were started for the instance of a folder, by whichever agent of that folder."""
    try:
        mark = f"{MARK}={place_of(folder)}".encode()
    except OSError:
        return []
    return [stat for stat in everyone() if not stat.zombie and mark in (_environment(stat.pid) or ())]


def is_elsewhere(pid: int, folder: Path) -> bool:
    """Whether a process was started for another folder than this; False also where that is not told."""
    environment = _environment(pid)
    return environment is not None and f"{MARK}={place_of(folder)}".encode() not in environment


def _environment(pid: int) -> list[bytes] | None:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # ended, or another user's
        return None


def effort(processes: Iterable[ProcStat]) -> float:
    """What the processes have done so far: processor seconds, and storage read, as if at 100 MB/s.

    It grows while they compute and while they load a model, however slow the disk.
    """
    return sum(process.cpu_s + _storage_read(process.pid) / 100e6 for process in processes)


def striving(pids: Iterable[int]) -> float | None:
    """Seconds that all threads of the processes have computed or waited for a processor, and storage read as
    in `effort`; None where the kernel does not count that (CONFIG_SCHED_INFO), or none of them is there.

    One that is stopped, or whose threads wait for one another, adds nothing to it, however busy the machine.
    """
    found = None
    for pid in pids:
        try:
            for task in (_PROC / str(pid) / "task").iterdir():
                ran, waited, _ = (task / "schedstat").read_text().split()
                found = (found or 0.0) + (int(ran) + int(waited)) / 1e9
        except (OSError, ValueError):  # ended meanwhile, or another user's
            continue
        if found is not None:
            found += _storage_read(pid) / 100e6
    return found


def _storage_read(pid: int) -> int:
    try:
        counters = (_PROC / str(pid) / "io").read_text()
    except OSError:  # ended, or another user's
        return 0
    return int(counters.partition("\nread_bytes: ")[2].partition("\n")[0] or 0)
