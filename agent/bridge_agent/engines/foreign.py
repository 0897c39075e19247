"""The process of an engine that somebody else runs on this machine: who listens where it is attached."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from bridge_core.addresses import is_loopback
from bridge_core.proc import ProcStat, alive, family, read_stat

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # as /proc/net/tcp spells it
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})


class ForeignProcess:
    """Finds the process that listens at an address, and again when another one does.

    It is not found on another machine, in another network, and where this user may not look.
    """

    def __init__(self, host: str, port: int) -> None:
        self._port = port if is_loopback(host) or host in _EVERYWHERE else 0
        self._known: ProcStat | None = None

    def family(self) -> list[ProcStat]:
        """It and all that it started; empty: it was not found. Blocks: it reads much of /proc."""
        if not self._port:
            return []
        if self._known is None or not alive(self._known.pid, self._known.start_time):
            self._known = _listener(self._port)
        return [] if self._known is None else family(self._known.pid, self._known.start_time)


def _listener(port: int) -> ProcStat | None:
    sockets = {f"socket:[{inode}]" for inode in _listening_at(port)}
    if not sockets:
        return None
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and _holds(entry / "fd", sockets):
            return read_stat(int(entry.name))
    return None


def _listening_at(port: int) -> list[str]:
    found = []
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (_PROC / "self" / table).read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.append(fields[9])
    return found


def _holds(folder: Path, sockets: set[str]) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_target(entry.path) in sockets for entry in entries)
    except OSError:  # ended, or another user's
        return False


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - the link of a socket names no path
    except OSError:
        return ""
