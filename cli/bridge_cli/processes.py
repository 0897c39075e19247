"""Processes that outlive the command that started them, found again by number and start time.

A number alone is given out again by the kernel; with the start time and the boot it names one process
for good, so nothing that we did not start is ever signalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from bridge_core import proc
from bridge_core.errors import Fatal
from bridge_core.files import write_atomically

_POLL_S = 0.02
_LOG_LIMIT_BYTES = 16 * 1024 * 1024


class DetachedProcess(msgspec.Struct, frozen=True):
    """One process for good. `start_time` is in clock ticks since the boot with the id `boot`."""

    pid: int
    start_time: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether this very process runs (a zombie does not)."""
        return self.boot == proc.boot_id() and proc.alive(self.pid, self.start_time)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal if it runs."""
        # The handle names the process that was checked, also when it ends in between.
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.alive:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def start_detached(argv: Sequence[str], log: Path, *, env: Mapping[str, str]) -> DetachedProcess:
    """Starts a process in a session of its own, which ends neither with us nor with the terminal.

    Raises:
        Fatal: it could not be started.
    """
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                env=dict(env),
                start_new_session=True,
            )
        finally:
            os.close(handle)
    except OSError as fault:
        raise Fatal(f"cannot start {argv[0]}: {fault.strerror} ({fault.filename})") from fault
    stat = proc.read_stat(child.pid)
    child.returncode = 0  # it is meant to outlive us: Popen would warn of a child left running
    return DetachedProcess(child.pid, stat.start_time if stat is not None else 0, proc.boot_id())


def rotate(log: Path) -> None:
    """Puts a long log aside before a process is started on it; one old log is kept."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))


class ProcessTable:
    """The records of a mesh's processes by part, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._records = msgspec.json.decode(path.read_bytes(), type=dict[str, DetachedProcess])
        except FileNotFoundError:
            self._records = {}
        except (OSError, msgspec.DecodeError) as fault:
            raise Fatal(f"cannot read {path}: {fault}", hint="remove the file to start anew") from fault

    def get(self, part: str) -> DetachedProcess | None:
        """The process of a part, if it runs."""
        record = self._records.get(part)
        return record if record is not None and record.alive else None

    def known(self, part: str) -> DetachedProcess | None:
        """The last process of a part, whether it runs or not."""
        return self._records.get(part)

    def put(self, part: str, record: DetachedProcess) -> None:
        """Notes a process just started."""
        self._records[part] = record
        write_atomically(self._path, msgspec.json.format(msgspec.json.encode(self._records)) + b"\n")

    def pids(self) -> dict[str, int]:
        """The ids of those that run."""
        return {part: record.pid for part, record in self._records.items() if record.alive}


def load_records(paths: Iterable[Path]) -> list[DetachedProcess]:
    """The processes in record files that others wrote; damaged or foreign files hold none."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=DetachedProcess))
    return found


def family(roots: Iterable[DetachedProcess]) -> list[DetachedProcess]:
    """Those that run of `roots`, of what they started, and of what is left in their sessions."""
    boot = proc.boot_id()
    found = [stat for root in roots if root.boot == boot for stat in proc.family(root.pid, root.start_time)]
    return [DetachedProcess(stat.pid, stat.start_time, boot) for stat in found if stat.pid != os.getpid()]


async def end(roots: Sequence[DetachedProcess], grace_s: float) -> list[DetachedProcess]:
    """Ends processes and all they started: SIGTERM to `roots`, after `grace_s` SIGKILL to what is left.

    Returns:
        Those that had to be killed.
    """
    everyone = family(roots)
    for root in roots:
        root.signal(signal.SIGTERM)
        root.signal(signal.SIGCONT)  # a stopped process takes its SIGTERM only when continued
    if not await gone(roots, grace_s):
        everyone = list({*everyone, *family(roots)})
    left = [record for record in everyone if record.alive]
    # What an ended parent has just told to end is given a moment to do so by itself.
    await gone(left, 1.0 if all(not root.alive for root in roots) else 0.0)
    killed = [record for record in left if record.alive]
    for record in killed:
        record.signal(signal.SIGKILL)
    await gone(killed, 5.0)
    return killed


async def gone(records: Iterable[DetachedProcess], deadline_s: float) -> bool:
    """Waits until none of them runs; False when one still does after `deadline_s`."""
    until = time.monotonic() + deadline_s
    waiting = list(records)
    while waiting := [record for record in waiting if record.alive]:
        if time.monotonic() >= until:
            return False
        await asyncio.sleep(_POLL_S)
    return True
