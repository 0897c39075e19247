"""Engine supervisors for tests: quick timing, a fake engine, and every change that was published."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from pathlib import Path

from bridge_agent.engines.client import EngineClient
from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.lifecycle_rules import Policy
from bridge_agent.engines.process import ProcessRecord
from bridge_agent.engines.runtime import EngineTiming
from bridge_agent.engines.supervisor import EngineSupervisor
from bridge_agent.engines.view import LocalInstance
from bridge_agent.health.probe_rules import ProbePolicy
from bridge_core.proc import family, read_stat
from tests.support import eventually

FAKE = Path(__file__).parent / "fakes" / "fake_ollama.py"

POLICY = Policy(start_timeout_s=60.0, backoff_first_s=0.05, backoff_most_s=0.4)
TIMING = EngineTiming(poll_s=0.1, start_poll_s=0.02, answer_s=2.0, stop_grace_s=3.0, replace_grace_s=0.5)
NO_PROBES = ProbePolicy(quiet_s=3600.0)
PROBES = ProbePolicy(quiet_s=0.2, timeout_s=0.8, unseen_timeout_s=1.2, busy_timeout_s=30.0)


def fake_config(folder: Path, kind: str = "ollama", **env: str) -> EngineConfig:
    """The fake engine; FAKE_CRASH and FAKE_NEVER_LISTEN are the files `crash` and `never` of `folder`."""
    switches = {"FAKE_CRASH": str(folder / "crash"), "FAKE_NEVER_LISTEN": str(folder / "never")}
    return EngineConfig(index=0, kind=kind, binary=str(FAKE), env=switches | env)


def embedded_installed() -> bool:
    """Whether the embedded engine and llama.cpp are."""
    beside = Path(sys.executable).with_name("bridge-engine")
    return beside.exists() and importlib.util.find_spec("xllamacpp") is not None


class Supervised:
    """A supervisor of one engine that runs in a task, and what it published."""

    def __init__(self, config: EngineConfig, state: Path, **options) -> None:
        self.published: list[tuple[LocalInstance, ...]] = []
        options = {"policy": POLICY, "timing": TIMING, "probing": NO_PROBES, **options}
        self.supervisor = EngineSupervisor([config], state, self.published.append, node="n1", **options)
        self.record = state / "engines" / "0" / "process.json"
        self._looked_at = 0  # of what was published

    @property
    def view(self) -> LocalInstance:
        return self.published[-1][0]

    @property
    def status(self):
        return self.supervisor.status()[0]

    async def state(self, wanted: str, deadline_s: float = 60.0) -> LocalInstance:
        """Waits for a state. One that is left again soon is found where it was since the last wait, too."""

        def found() -> LocalInstance | None:
            since = [] if wanted == "ready" else [one for (one,) in self.published[self._looked_at :]]
            return next((one for one in (self.view, *since) if one.state == wanted), None)

        view = await eventually(found, deadline_s)
        assert view is not None
        self._looked_at = len(self.published)
        return view

    @contextlib.asynccontextmanager
    async def client(self):
        client = EngineClient(self.view.host, self.view.port, self.view.network_pid)
        try:
            yield client
        finally:
            await client.close()


@contextlib.asynccontextmanager
async def supervised(config: EngineConfig, state: Path, *, leave: bool = False, **options):
    """Runs a supervisor; at the end stops its engine, or with `leave` goes away as a dying agent does."""
    it = Supervised(config, state, **options)
    task = asyncio.create_task(it.supervisor.run())
    await eventually(lambda: it.published)
    try:
        yield it
    finally:
        if leave:
            task.cancel()
            await asyncio.wait({task})
        else:
            async with asyncio.timeout(60):
                await it.supervisor.stop()
                await task


def everything_of(record: ProcessRecord) -> list[int]:
    """The processes that belong to a recorded engine."""
    return [stat.pid for stat in family(record.pid, record.start_time)]


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    stat = read_stat(pid)
    return stat is None or stat.zombie
