"""One runner process: started, watched, asked over HTTP, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import msgspec
import structlog

from bridge_core.dialects.errors import ApiError, RunnerFailed
from bridge_core.errors import BridgeError
from bridge_core.http1 import Pool, PoolBusy, PoolLimits, ResponseTooLarge
from bridge_engine.runner.spec import READY_MARK, RunnerSpec, descriptors

log = structlog.get_logger()

_TAIL_LINES: Final = 50
# Weights are read in silence, and may take long; then llama-server tries their own template, which may
# have been written to never end. No other model loads meanwhile.
_WEIGHTS_READ: Final = "n_slots"
_TEMPLATE_STALL_S: Final = 8.0
_MAX_ANSWER: Final = 256 << 20
_MAX_SLOTS: Final = 16 << 20
_BUFFER: Final = re.compile(r"(\S+)\s+(model|KV|compute|output|RS) buffer size\s*=\s*([\d.]+)\s*MiB")
_TROUBLE: Final = re.compile(r"\b(error|failed|unable|exception)\b", re.IGNORECASE)
_HOST_BUFFER: Final = re.compile(r"CPU|BLAS|.*_Host$")
# llama-server drops connections that it has just offered to keep (one answer in ten under load), and
# a generation cannot be repeated safely: each request gets a connection of its own on the loopback.
_ON_SLOTS: Final = frozenset({"/completion", "/v1/embeddings"})  # what is not answered between batches
_JSON_HEADERS: Final = ((b"content-type", b"application/json"), (b"connection", b"close"))


# llama.cpp's threads wait for one another many times a token, by default spinning; where several runners
# share cores each then spins away the time that the others need. libgomp's own value for more threads
# than cores, which it cannot see across processes.
_OPENMP: Final = {"GOMP_SPINCOUNT": "1000"}


class _Slot(msgspec.Struct):
    """One of llama-server's slots, as it lists them."""

    is_processing: bool = False


class Runner:
    """A process with a loaded model. Make it with `start`; end it with `stop`.

    Attributes:
        spec: What it was started with.
        pid: Its process id.
        marker: What stands for an image in its prompts.
        running: Requests that it is to answer now, each in a slot or waiting for one.
        gone: Done when the process has ended.
    """

    def __init__(self, spec: RunnerSpec, process: asyncio.subprocess.Process, marker: str) -> None:
        self.spec = spec
        self.marker = marker
        self.pid = process.pid
        self.running = 0
        self._process = process
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._buffers: dict[tuple[str, str], float] = {}
        self._last_output = time.monotonic()
        self._weights_read = False
        self._loaded = False
        self._address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pool: Pool | None = None
        self._probes: Pool | None = None  # apart, so that no number of requests can delay a probe
        self._failure = ""
        self.gone = asyncio.create_task(self._watch(), name=f"runner-{process.pid}")

    @classmethod
    async def start(cls, spec: RunnerSpec, *, stall_s: float, given: RunnerSpec | None = None) -> Runner:
        """Starts a process and waits until it has loaded the model.

        Args:
            spec: The model and how to load it.
            stall_s: How long it may be silent while loading.
            given: What the process is told in its place, where files of it are descriptors of ours.

        Raises:
            ApiError: 500; it ended or stalled first. 400; its own chat template does not end.
        """
        told = spec if given is None else given
        marker = f"<__media_{secrets.token_hex(8)}__>"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_ARG_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __package__,
            msgspec.json.encode(told).decode(),
            str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=descriptors(told),
            env={**_OPENMP, **environment, "LLAMA_MEDIA_MARKER": marker},
        )
        runner = cls(spec, process, marker)
        try:
            await runner._become_ready(stall_s)
        except BaseException:
            await runner.stop()
            raise
        return runner

    async def _become_ready(self, stall_s: float) -> None:
        if self.spec.llama_server:
            self._address.set_result(f"http://127.0.0.1:{self.spec.port}")
        while not self._address.done():
            either: list[asyncio.Future[Any]] = [self._address, self.gone]
            await asyncio.wait(either, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            self._check_loading(stall_s)
        host, _, port = self._address.result().removeprefix("http://").rpartition(":")
        self._pool = Pool((host, int(port)))
        self._probes = Pool((host, int(port)), limits=PoolLimits(connections=2))
        while not await self.healthy(1.0):
            self._check_loading(stall_s)
            await asyncio.sleep(0.02)
        # A binary's address was known before: its pipe may have more to say of its loading.
        self._loaded = not self.spec.llama_server

    def _check_loading(self, stall_s: float) -> None:
        if self.gone.done():
            raise ApiError(500, f"llama runner process has terminated: {self.last_words()}", late=True)
        silence = time.monotonic() - self._last_output
        if self._weights_read and self.spec.jinja and silence > _TEMPLATE_STALL_S:
            # A 400: it would not end elsewhere either.
            raise ApiError(400, "the chat template of the weights does not end", late=True)
        if silence > stall_s:
            raise ApiError(500, "timed out waiting for llama runner to start", late=True)

    async def _watch(self) -> None:
        """Reads what the process says until it ends."""
        stream = self._process.stdout
        if stream is None:
            raise RuntimeError("runner without a pipe")
        pending = b""
        while data := await stream.read(65536):
            self._last_output = time.monotonic()
            *lines, pending = (pending + data).split(b"\n")
            pending = pending[-65536:]
            for line in lines:
                self._note(line.decode("utf-8", "replace").rstrip())
        code = await self._process.wait()
        for pool in (self._pool, self._probes):
            if pool is not None:
                await pool.close()
        log.info("runner_ended", pid=self.pid, code=code)

    def _note(self, line: str) -> None:
        if line.startswith(READY_MARK) and not self._address.done():
            self._address.set_result(line.split()[1])
            return
        if not self._loaded:  # afterwards it tells of each text and of each slot
            if found := _BUFFER.search(line):
                self._buffers[found[1], found[2]] = float(found[3])
            self._weights_read = self._weights_read or _WEIGHTS_READ in line
        if line:
            self._tail.append(line)

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of all buffers that it reported, and of those on a GPU."""
        total = sum(self._buffers.values())
        gpu = sum(size for (where, _), size in self._buffers.items() if not _HOST_BUFFER.match(where))
        return int(total * (1 << 20)), int(gpu * (1 << 20))

    @property
    def alive(self) -> bool:
        """Whether the process runs and was not given up."""
        return not self.gone.done() and not self._failure and not self._exited()

    def _exited(self) -> bool:
        """Whether the process has ended, also when the loop has not been told yet."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def tail(self) -> list[str]:
        """The last lines it wrote."""
        return list(self._tail)

    def last_words(self) -> str:
        """Why it ended, as far as it said."""
        errors = [line for line in self._tail if _TROUBLE.search(line)]
        signal_note = ""
        code = self._process.returncode
        if code is not None and code < 0:
            signal_note = f" ({signal.Signals(-code).name})"
        return (errors[-1] if errors else f"exit status {code}") + signal_note

    def fail(self, reason: str) -> None:
        """Gives the process up: it is killed, and whatever it still does for us ends with `reason`."""
        if not self.gone.done() and not self._failure:
            log.error("runner_given_up", pid=self.pid, reason=reason, tail=self.tail()[-5:])
            self._failure = reason
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self) -> None:
        """Ends the process and waits for its end."""
        self._kill()
        await asyncio.wait([self.gone])

    async def healthy(self, timeout_s: float) -> bool:
        """Whether it answers at all: a stopped or dead process does not, a busy one does."""
        if self._probes is None:
            return False
        try:
            async with asyncio.timeout(timeout_s), self._probes.request("GET", "/health") as response:
                await response.read(4096)
                return response.status == 200
        except (TimeoutError, BridgeError):
            return False

    async def busy(self, timeout_s: float) -> int:
        """Slots that it works in, also for a request that was given up; all while it does not say."""
        if self._probes is None:
            return 0
        try:
            async with asyncio.timeout(timeout_s), self._probes.request("GET", "/slots") as response:
                slots = msgspec.json.decode(await response.read(_MAX_SLOTS), type=list[_Slot])
        except (TimeoutError, BridgeError, msgspec.DecodeError):
            return self.spec.parallel
        return sum(slot.is_processing for slot in slots)

    async def call(self, path: str, body: dict[str, Any]) -> Any:
        """Asks for one JSON answer.

        Raises:
            ApiError: what llama-server answered, with its status, or `RunnerFailed`.
        """
        async with self._request(path, body) as response:
            data = await self._read(response)
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as fault:
            raise RunnerFailed(f"unreadable answer: {fault}") from fault

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Asks for server-sent events; yields each as a dictionary. Closing it frees the slot.

        Raises:
            ApiError: as `call`.
        """
        async with self._request(path, body) as response:
            pending = b""
            try:
                async for data in response:
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        event = _event(line)
                        if event is not None:
                            yield event
            except BridgeError as fault:
                if isinstance(fault, ApiError):
                    raise
                raise self._broken(fault) from fault

    @contextlib.asynccontextmanager
    async def _request(self, path: str, body: dict[str, Any]) -> AsyncIterator[Any]:
        if self._pool is None or not self.alive:
            raise RunnerFailed(self._failure or "the runner has ended")
        counts = path in _ON_SLOTS
        self.running += counts
        try:
            request = self._pool.request("POST", path, _JSON_HEADERS, msgspec.json.encode(body))
            async with request as response:
                if response.status >= 400:
                    data = await self._read(response)
                    raise ApiError(response.status, data.decode("utf-8", "replace").strip(), late=True)
                yield response
        except BridgeError as fault:
            if isinstance(fault, ApiError):
                raise
            raise self._broken(fault) from fault
        finally:
            self.running -= counts

    async def _read(self, response: Any) -> bytes:
        data: bytes = await response.read(_MAX_ANSWER)
        return data

    def _broken(self, fault: BridgeError) -> ApiError:
        if isinstance(fault, PoolBusy):
            return ApiError(503, "server busy, please try again.  maximum pending requests exceeded")
        if isinstance(fault, ResponseTooLarge):
            return RunnerFailed(fault.message)
        # The connection broke: whatever the process still is, nobody should be sent to it.
        self.fail("unexpected EOF")
        return RunnerFailed(self._failure or "unexpected EOF")


def _event(line: bytes) -> dict[str, Any] | None:
    line = line.rstrip(b"\r")
    if line.startswith(b"data: "):
        data = line[6:]
    elif line.startswith(b"error: "):
        data = line[7:]
    else:
        return None
    if data == b"[DONE]":
        return None
    try:
        event = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as fault:
        raise RunnerFailed(f"unreadable event: {fault}") from fault
    if line.startswith(b"error: ") or "error" in event:
        about = event.get("error", event)
        message = about.get("message", str(about)) if isinstance(about, dict) else str(about)
        raise RunnerFailed(message)
    return event


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
