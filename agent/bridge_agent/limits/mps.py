"""NVIDIA's Multi-Process Service: one control daemon a GPU, watched by one task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import structlog

from bridge_agent.engines.proc import MARK, place_of
from bridge_agent.engines.process import EngineProcess, ProcessRecord, sweep_marked
from bridge_agent.limits import mps_rules as rules
from bridge_core.backoff import Backoff
from bridge_core.child import converse
from bridge_core.errors import Fatal, Unavailable
from bridge_core.proc import read_stat

log = structlog.get_logger()

CONTROL = "nvidia-cuda-mps-control"
START_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 5.0
LOG_POLL_S = 0.1
MAX_PIPE = 90  # a socket's path has 107 bytes, and the driver gives its sockets names of their own
# In the foreground the daemon and its servers write what would be control.log and server.log to
# their standard output.
_OUTPUT = "output.log"
_LOGS = (_OUTPUT, "control.log", "server.log")
_MAX_OUTPUT = 4 << 20
_RECORD = "daemon.json"


class MpsMissing(Fatal):
    """MPS was asked for and cannot be had on this machine."""


class MpsDaemon:
    """The control daemon of one GPU with pipe and log directories of its own.

    `on_fault` hears of every fault in its logs, and of its own death as "server_exit".

    Attributes:
        leave: Whether it stays when its task ends.
    """

    def __init__(
        self,
        device: str,
        folder: Path,
        *,
        on_fault: Callable[[rules.MpsFault], None],
        binary: str | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        found = binary or shutil.which(CONTROL)
        if found is None:
            raise MpsMissing(
                f"MPS is asked for on {device} and {CONTROL} is not on PATH",
                hint="install the NVIDIA driver's MPS tools or take `mps` out of the NodeClass",
            )
        self.device = device
        folder = folder.absolute()
        self.pipe, self.log = folder / "pipe", folder / "log"
        if len(os.fsencode(self.pipe)) > MAX_PIPE:
            raise MpsMissing(
                f"MPS on {device} cannot have its sockets in {self.pipe}: the path is too long",
                hint=f"choose a state folder that makes it {MAX_PIPE} bytes or shorter (--state-dir)",
            )
        self._folder = folder
        self._binary = found
        self._on_fault = on_fault
        self._start_timeout_s = start_timeout_s
        self._ready = asyncio.Event()
        self._restarts = 0
        self._record = folder / _RECORD
        self.leave = False

    @property
    def restarts(self) -> int:
        """How often the daemon had to be started again."""
        return self._restarts

    async def ready(self) -> None:
        """Waits until clients can connect."""
        await self._ready.wait()

    async def run(self, backoff: Backoff) -> None:
        """Keeps the daemon running until cancelled; then ends it, its servers and its clients.

        With `leave` set it stays, and the next agent takes it over as this one would. Anything else
        found on our pipe is ended first: two daemons would refuse each other's clients.
        """
        for folder in (self.pipe, self.log):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        process = await self._find_earlier()
        while True:
            try:
                if process is None:
                    # Servers outlive a control daemon that was killed, and hold their clients' memory.
                    if swept := await sweep_marked(self._folder):
                        log.warning("mps_orphans_ended", device=self.device, processes=swept)
                    process = await asyncio.to_thread(self._start)
                how = await self._tend(process)
            except MpsMissing as fault:
                how = f"could not be started: {fault}"
            process = None
            self._restarts += 1
            delay = backoff.next_s()
            log.warning("mps_daemon_died", device=self.device, how=how, restart_in_s=round(delay, 2))
            self._on_fault(rules.MpsFault("server_exit", 0, f"the control daemon {how}"))
            await asyncio.sleep(delay)

    async def _tend(self, process: EngineProcess) -> str:
        """Watches one daemon until it has ended; returns how."""
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(self._watch_logs())
                answered = group.create_task(self._announce(process))
                how = await process.wait()
                watcher.cancel()
                answered.cancel()
            return how
        except BaseException:
            if not self.leave:
                await self._stop(process)
            raise
        finally:
            self._ready.clear()
            process.close()

    async def command(self, line: str) -> str:
        """What the control daemon answers to one command ("get_server_list").

        Raises:
            Unavailable: it did not answer.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                self._binary,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(),
            )
        except OSError as fault:  # removed by an update of the driver, or no process to be had
            raise Unavailable(f"MPS on {self.device}: cannot run {self._binary}: {fault.strerror}") from fault
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                output, _ = await converse(process, line.encode() + b"\n")
        except TimeoutError:
            process.kill()
            await process.wait()
            raise Unavailable(f"MPS on {self.device} did not answer {line!r}") from None
        text = output.decode(errors="replace").strip()
        if process.returncode != 0:
            raise Unavailable(f"MPS on {self.device} refused {line!r}: {text}")
        return text

    async def set_default_percentage(self, percentage: int) -> None:
        """Changes the share of clients still to connect; those connected keep theirs."""
        await self.command(f"set_default_active_thread_percentage {percentage}")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "CUDA_VISIBLE_DEVICES": self.device,
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(self.log),
            MARK: place_of(self._folder),
            **{name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        }

    def _start(self) -> EngineProcess:
        # Not the loop's own kind of child: that would be ended with the loop, and engines with it.
        output = self.log / _OUTPUT
        try:
            if _size(output) > _MAX_OUTPUT:
                output.replace(output.with_suffix(".log.1"))
            with output.open("ab") as log_file:
                child = subprocess.Popen(
                    (self._binary, "-f"),
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=log_file,
                    env=self._environment(),
                    start_new_session=True,
                )
        except OSError as fault:
            raise MpsMissing(f"cannot start {self._binary}: {fault.strerror}") from fault
        child.returncode = 0  # reaped by its number, as one taken over would be
        stat = read_stat(child.pid)
        if stat is None:
            raise MpsMissing(f"{self._binary} ended as soon as it was started")
        process = EngineProcess(child.pid, stat.start_time)
        record = ProcessRecord.of(process, "", 0, self.device)
        with contextlib.suppress(OSError):  # only a later agent would have liked to know
            record.save(self._record)
        return process

    async def _find_earlier(self) -> EngineProcess | None:
        """The daemon that an earlier agent left, if it answers; ends it otherwise."""
        record = ProcessRecord.load(self._record)
        process = (
            record.find(self._folder) if record is not None and record.fingerprint == self.device else None
        )
        if process is not None:
            with contextlib.suppress(Unavailable):
                await self.command("get_default_active_thread_percentage")
                log.info("mps_daemon_adopted", device=self.device, pid=process.pid)
                return process
            await process.end(COMMAND_TIMEOUT_S)
            process.close()
        await self._end_orphan()
        return None

    async def _announce(self, process: EngineProcess) -> None:
        """Says that clients may come once it answers; ends one that does not, to be started again."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                while True:
                    with contextlib.suppress(Unavailable):
                        await self.command("get_default_active_thread_percentage")
                        break
                    await asyncio.sleep(LOG_POLL_S)
        except TimeoutError:
            log.error("mps_daemon_silent", device=self.device, after_s=self._start_timeout_s)
            await process.end(0.0)
            return
        self._ready.set()

    async def _stop(self, process: EngineProcess) -> None:
        with contextlib.suppress(Unavailable):
            await self.command("quit -t 1")
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            await process.end(0.0)
            await process.wait()
        with contextlib.suppress(OSError):
            self._record.unlink()

    async def _end_orphan(self) -> None:
        if not (self.pipe / "control").exists():
            return
        with contextlib.suppress(Unavailable):
            await self.command("quit -t 1")
            log.warning("mps_orphan_ended", device=self.device)

    async def _watch_logs(self) -> None:
        """Follows the logs from their present ends; nothing rotates them while a daemon runs."""
        offsets = {name: _size(self.log / name) for name in _LOGS}
        while True:
            await asyncio.sleep(LOG_POLL_S)
            for name, offset in offsets.items():
                text, offsets[name] = _read_from(self.log / name, offset)
                for line in text.splitlines():
                    fault = rules.read_log_line(line)
                    if fault is not None:
                        log.error(
                            "mps_fault", device=self.device, kind=fault.kind, pid=fault.pid, text=fault.text
                        )
                        self._on_fault(fault)


def left_behind(folder: Path) -> list[str]:
    """The devices whose daemons earlier agents recorded below `folder`."""
    records = (ProcessRecord.load(path) for path in sorted(folder.glob(f"*/{_RECORD}")))
    return [record.fingerprint for record in records if record is not None]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read_from(path: Path, offset: int) -> tuple[str, int]:
    """Whole lines after `offset`, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(1 << 20)
    except OSError:
        return "", offset
    end = data.rfind(b"\n") + 1
    return data[:end].decode(errors="replace"), offset + end
