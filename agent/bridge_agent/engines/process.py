"""Engine processes: started in a session of their own, found again after an agent restart, ended whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from bridge_agent.engines.logfile import LogFile
from bridge_agent.engines.proc import MARK, is_elsewhere, marked, place_of
from bridge_core.errors import BridgeError, Reaction
from bridge_core.files import write_atomically
from bridge_core.proc import ProcStat, alive, boot_id, family, read_stat

KILL_WAIT_S = 5.0


class LaunchFault(BridgeError):
    """A process could not be started; trying again later may help."""

    reaction = Reaction.RETRY


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """A process to start.

    Attributes:
        argv: Its executable's path and arguments. Never a secret: every user can read them.
        env: Its whole environment; nothing is inherited.
        folder: Its working folder, which exists.
        log: Where its output goes.
        instance: "<node>/<n>".
        writable: Folders besides its own that it writes to: its model store.
        readable: What else it opens, wherever that lies: binaries.
        gpus: The devices that its configuration names; None: any.
        models: Models that it may hold at a time, each in a process of its own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: Path
    log: LogFile
    instance: str = ""
    writable: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    gpus: str | None = None
    models: int = 1


class EngineProcess:
    """A running process, whether this agent started it or an earlier one did."""

    def __init__(self, pid: int, start_time: int) -> None:
        """Takes hold of a process.

        Raises:
            ProcessLookupError: it has ended already.
        """
        self.pid = pid
        self.start_time = start_time
        # What else is known of its end, in words; asked for when it has ended.
        self.note: Callable[[], str] = lambda: ""
        # A pidfd names this process and no later one of the same number, and tells of its end
        # also where we are not its parent.
        self._pidfd = os.pidfd_open(pid)
        if not _same(pid, start_time):
            self.close()
            raise ProcessLookupError(pid)

    def close(self) -> None:
        """Lets go of the process, which runs on."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    async def wait(self) -> str:
        """Waits for its end and takes note of it; returns how it ended, in words."""
        await self._ended()
        how, note = _reap(self.pid), self.note()
        return f"{how}: {note}" if note else how

    async def _ended(self) -> None:
        if self._pidfd < 0:
            return  # let go of: by whoever saw its end
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        handle = os.dup(self._pidfd)  # a loop watches a descriptor for one waiter only
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process alone; nothing if it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def family(self) -> list[ProcStat]:
        """It and all that it started, as far as they run."""
        return family(self.pid, self.start_time)

    async def end(self, grace_s: float) -> None:
        """Asks it to end, and after `grace_s` makes it and all that it started end."""
        members = self.family()
        self.signal(signal.SIGTERM)
        # A stopped process would take the SIGTERM only when continued.
        self.signal(signal.SIGCONT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended(), grace_s)
        await self.sweep(members)

    async def sweep(self, members: Iterable[ProcStat] = ()) -> None:
        """Kills what is left of it and of all that it started (orphaned runners keep GPU memory).

        Args:
            members: Processes seen earlier to be its own: they may have been orphaned since.
        """
        earlier = list(members)
        await _kill(lambda: [*earlier, *self.family()])


class Launcher(Protocol):
    """Starts processes; cgroups, namespaces and MPS wrap it."""

    async def launch(self, spec: LaunchSpec) -> EngineProcess:
        """Starts a process that outlives this one, in a session of its own.

        Raises:
            BridgeError: it could not be started, or not as it is to be.
        """
        ...

    def adopted(self, instance: str, folder: Path, process: EngineProcess) -> None:
        """Hears of an instance whose process an earlier agent started."""
        ...

    async def ended(self, instance: str) -> None:
        """Hears that an instance's process and all that it started are gone."""
        ...


class PlainLauncher:
    """Starts processes as children, without walls around them."""

    async def launch(self, spec: LaunchSpec) -> EngineProcess:
        """See `Launcher`."""
        return await asyncio.to_thread(_spawn, spec)

    def adopted(self, instance: str, folder: Path, process: EngineProcess) -> None:
        """See `Launcher`."""

    async def ended(self, instance: str) -> None:
        """See `Launcher`."""


def _spawn(spec: LaunchSpec) -> EngineProcess:
    try:
        output = spec.log.open()
        try:
            child = subprocess.Popen(
                spec.argv,
                env={**spec.env, MARK: place_of(spec.folder)},
                cwd=spec.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                close_fds=True,
            )
        finally:
            os.close(output)
    except OSError as fault:
        raise LaunchFault(
            f"cannot start {spec.argv[0]}: {fault.strerror}",
            hint="check that the file is there, executable and built for this machine",
        ) from fault
    try:
        stat = read_stat(child.pid)
        if stat is None:
            raise ProcessLookupError(child.pid)  # not before it is reaped, which we do
        process = EngineProcess(child.pid, stat.start_time)
    except OSError as fault:
        child.kill()
        child.wait()
        raise LaunchFault(f"cannot watch {spec.argv[0]}: {fault.strerror or fault}") from fault
    # It is reaped by number, as an adopted one would be; Popen would warn of one left running.
    child.returncode = 0
    return process


class ProcessRecord(msgspec.Struct, frozen=True):
    """What a later agent needs to find an engine again."""

    pid: int
    start_time: int
    boot: str
    host: str
    port: int
    fingerprint: str

    @classmethod
    def of(cls, process: EngineProcess, host: str, port: int, fingerprint: str) -> ProcessRecord:
        """The record of a process just started."""
        return cls(process.pid, process.start_time, boot_id(), host, port, fingerprint)

    @classmethod
    def load(cls, path: Path) -> ProcessRecord | None:
        """The record in a file; None where there is none, it is damaged or of an earlier boot."""
        try:
            record = msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None
        return record if record.boot == boot_id() else None

    def save(self, path: Path) -> None:
        """Writes the record. Raises OSError."""
        write_atomically(path, msgspec.json.encode(self))

    def find(self, folder: Path) -> EngineProcess | None:
        """The process, if it still runs; `folder` is the one that it was started for.

        A copied folder's record names a process too, which is the original's.
        """
        if not alive(self.pid, self.start_time) or is_elsewhere(self.pid, folder):
            return None
        try:
            return EngineProcess(self.pid, self.start_time)
        except ProcessLookupError:
            return None


async def sweep_marked(folder: Path) -> int:
    """Kills what earlier agents' engines of a folder have left behind; returns how many those were."""
    return await _kill(lambda: marked(folder))


async def _kill(find: Callable[[], Iterable[ProcStat]]) -> int:
    """Kills whatever is found, until nothing is: what is being killed may still have children."""
    killed: set[tuple[int, int]] = set()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + KILL_WAIT_S
    while loop.time() < deadline:
        found = [stat for stat in await asyncio.to_thread(find) if alive(stat.pid, stat.start_time)]
        if not found:
            break
        for stat in found:
            killed.add((stat.pid, stat.start_time))
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(stat.pid, signal.SIGKILL)
        await asyncio.sleep(0.01)
    return len(killed)


def _same(pid: int, start_time: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.start_time == start_time


def _reap(pid: int) -> str:
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return "ended"  # an earlier agent's child: how, only init knows
    if reaped == 0:
        return "ended"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
