"""One agent a state folder: a lock that the kernel releases however the agent ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bridge_core.errors import Fatal


class AgentLock:
    """Held from construction until `release` or the end of the process.

    Raises:
        Fatal: another agent holds it, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise Fatal(f"cannot write {path}: {fault.strerror}") from fault
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._handle)
            raise Fatal(
                f"another agent (process {holder}) runs with {path.parent}",
                hint="stop it, or name another folder with --state-dir",
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets another agent start here."""
        os.close(self._handle)


def holder_of(path: Path) -> int | None:
    """The process id of the agent that holds the lock; None when none does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 20, 0).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(handle)
    return None
