"""`bridge-agent run` as a process, its engine and registry in this one, its etcd nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.config import AgentConfig, Listeners, StateDir
from bridge_agent.engines.config import EngineConfig
from bridge_agent.membership.join import join
from bridge_core.errors import BridgeError
from bridge_core.http1 import Exchange, Pool, coroutine_app, serve
from tests.ports import free_port
from tests.scenarios.enrolment_bed import EnrolmentBed, open_enrolment_bed
from tests.support import eventually

COMMAND = str(Path(sys.executable).with_name("bridge-agent"))


_FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def shifted(clock_s: float) -> dict[str, str]:
    """The environment of a process whose wall clock is so many seconds ahead; its other clocks go on.

    Skips where libfaketime is not installed (Debian: faketime): nothing less moves the clock that TLS
    libraries look at, too.
    """
    if not clock_s:
        return {}
    if not _FAKETIME:
        pytest.skip("libfaketime is not installed (Debian: faketime)")
    return {
        "LD_PRELOAD": str(_FAKETIME[0]),
        "FAKETIME": f"{clock_s:+.0f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


class HeldEngine:
    """An engine whose answers wait for `release`, with these models."""

    def __init__(self, *models: str) -> None:
        self.models = [f"{model}:latest" for model in models or ("held",)]
        self.release = asyncio.Event()
        self.running = 0

    async def handle(self, exchange: Exchange) -> None:
        models = [{"name": name, "model": name, "digest": "0" * 64} for name in self.models]
        answers: dict[str, Any] = {
            "/api/version": {"version": "0.0.0"},
            "/api/tags": {"models": models},
            "/api/ps": {"models": models},
        }
        path = exchange.request.path
        if path in answers:
            exchange.respond(
                200, [(b"content-type", b"application/json")], json.dumps(answers[path]).encode()
            )
            return
        self.running += 1
        try:
            exchange.start(200, [(b"content-type", b"application/x-ndjson")])
            exchange.write(b'{"model":"held","response":"a","done":false}\n')
            await self.release.wait()
            exchange.finish(b'{"model":"held","response":"","done":true,"done_reason":"stop"}\n')
        finally:
            self.running -= 1


class AgentProcess:
    """One run of the command."""

    def __init__(
        self,
        state: StateDir,
        settings: AgentConfig,
        *flags: str,
        launcher: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
        clock_s: float = 0.0,
    ) -> None:
        self.state = state
        self.settings = settings
        self.log = state.root / "run.log"
        with self.log.open("ab") as log:
            argv = [*launcher, COMMAND, "run", "--state-dir", str(state.root), *flags]
            self.process = subprocess.Popen(
                argv, stdout=log, stderr=log, pass_fds=pass_fds, env=os.environ | shifted(clock_s)
            )

    async def get(self, path: str, *, listener: str = "admin") -> tuple[int, bytes]:
        host, _, port = getattr(self.settings.listeners, listener).rpartition(":")
        pool = Pool((host, int(port)))
        try:
            async with pool.request("GET", path.encode(), (), b"") as response:
                return response.status, await response.read(1 << 20)
        finally:
            await pool.close()

    def records(self) -> list[dict[str, Any]]:
        """What it has logged, nothing but JSON; not the line that it is writing."""
        whole, _, _ = self.log.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    async def ready(self) -> None:
        async def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return (await self.get("/readyz"))[0] == 200
            except (OSError, BridgeError) as fault:
                raise AssertionError(str(fault)) from fault

        await eventually(answers, 60)

    async def ended(self, deadline_s: float = 60) -> int:
        await eventually(lambda: self.process.poll() is not None, deadline_s)
        return self.process.returncode

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class AgentBed:
    """A joined node that may be started and stopped."""

    def __init__(
        self, enrolment: EnrolmentBed, engine: HeldEngine, state: StateDir, settings: AgentConfig
    ) -> None:
        self.enrolment = enrolment
        self.engine = engine
        self.state = state
        self.settings = settings
        self._started: list[AgentProcess] = []

    def start(
        self,
        *flags: str,
        launcher: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
        clock_s: float = 0.0,
    ) -> AgentProcess:
        process = AgentProcess(
            self.state, self.settings, *flags, launcher=launcher, pass_fds=pass_fds, clock_s=clock_s
        )
        self._started.append(process)
        return process

    async def command(
        self, *arguments: str, state: StateDir | None = None, clock_s: float = 0.0
    ) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *arguments,
            "--state-dir",
            str((state or self.state).root),
            env=os.environ | shifted(clock_s),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, output.decode()

    def stop_all(self) -> None:
        for process in self._started:
            process.kill()


def free_listeners() -> Listeners:
    return Listeners(*(f"127.0.0.1:{free_port()}" for _ in range(5)))


@contextlib.asynccontextmanager
async def held_engine(*models: str) -> AsyncIterator[tuple[HeldEngine, EngineConfig]]:
    """An engine that serves, and how an agent attaches to it."""
    async with asyncio.TaskGroup() as group:
        engine = HeldEngine(*models)
        server = await serve(coroutine_app(engine.handle, group), name="engine")
        try:
            yield engine, EngineConfig(index=0, kind="ollama", attach=f"http://127.0.0.1:{server.port}")
        finally:
            engine.release.set()
            await server.close(0.0)


@contextlib.asynccontextmanager
async def open_agent_bed(folder: Path) -> AsyncIterator[AgentBed]:
    async with open_enrolment_bed(folder) as enrolment, held_engine() as (engine, config):
        state = enrolment.state("node1")
        plan = enrolment.plan(await enrolment.token(), listeners=free_listeners(), engines=(config,))
        bed = AgentBed(enrolment, engine, state, await join(plan, state))
        try:
            yield bed
        finally:
            bed.stop_all()


def report_of(body: bytes) -> dict[str, Any]:
    return msgspec.json.decode(body)
