"""One engine instance: the task that owns its state and does what the lifecycle rules ask for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from bridge_agent.engines.client import EngineClient
from bridge_agent.engines.config import DEFAULT_MAX_LOADED, EngineConfig, attach_address
from bridge_agent.engines.kinds import Place, command
from bridge_agent.engines.lifecycle_rules import (
    Adopted,
    Event,
    Launch,
    LaunchFailed,
    Lifecycle,
    Phase,
    Policy,
    Start,
    Stop,
    Terminate,
    Tick,
    step,
)
from bridge_agent.engines.logfile import LogFile
from bridge_agent.engines.network import private_network
from bridge_agent.engines.process import (
    EngineProcess,
    Launcher,
    LaunchFault,
    LaunchSpec,
    ProcessRecord,
    sweep_marked,
)
from bridge_agent.engines.runtime import EngineListing, EngineRuntime, EngineTiming
from bridge_agent.engines.view import InstanceState, LocalInstance
from bridge_agent.health.probe_rules import ProbePolicy
from bridge_core.addresses import join_address
from bridge_core.errors import BridgeError

log = structlog.get_logger()

_HOST = "127.0.0.1"

_STATES: dict[Phase, InstanceState] = {
    Phase.ABSENT: "starting",
    Phase.STARTING: "starting",
    Phase.READY: "ready",
    Phase.BACKOFF: "starting",
    Phase.REPLACING: "starting",
    Phase.DRAINING: "draining",
    Phase.STOPPING: "stopped",
    Phase.STOPPED: "stopped",
}


class InstanceStatus(msgspec.Struct, frozen=True):
    """An instance as an operator sees it.

    Attributes:
        id: "<node>/<n>".
        engine: Its kind.
        attached: Somebody else runs it.
        phase: Its place in the lifecycle: "ready", "backoff", …
        phase_s: Seconds in that phase.
        reason: Why it last failed; empty if it never did.
        failures: Starts in a row that did not last.
        launches: Processes that this agent has started for it.
        adopted: Its process was started by an earlier agent.
        pid: Its process; None while there is none of ours.
        address: "host:port"; empty while there is none.
        log: The file that its output goes to.
        log_tail: The last lines of it.
    """

    id: str
    engine: str
    attached: bool
    phase: str
    phase_s: float
    reason: str
    failures: int
    launches: int
    adopted: bool
    pid: int | None
    address: str
    log: str
    log_tail: list[str]


class EngineInstance:
    """Runs one engine instance for as long as it is wanted.

    Args:
        id: "<node>/<n>".
        config: How it is to be run.
        folder: Its own folder; made where missing.
        models: The model store to use where the configuration names none.
        launcher: Starts processes.
        changed: Called whenever `view` has changed.
        clock: Monotonic time in seconds.
        rng: Random numbers in [0, 1), for the back-off.
        policy: How patient to be with its process.
        timing: How often to look at it.
        probing: When to make its models generate.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 (an instance's id is called that everywhere)
        config: EngineConfig,
        folder: Path,
        models: Path,
        *,
        launcher: Launcher,
        changed: Callable[[], None],
        clock: Callable[[], float],
        rng: Callable[[], float],
        policy: Policy,
        timing: EngineTiming,
        probing: ProbePolicy,
    ) -> None:
        self.id = id
        self._config = config
        self._folder = folder
        self._models = Path(config.models_dir).absolute() if config.models_dir else models
        self._launcher = launcher
        self._changed = changed
        self._clock = clock
        self._rng = rng
        self._policy = policy
        self._timing = timing
        self._probing = probing
        self._record = folder / "process.json"
        self._log = LogFile(folder / "engine.log")
        self._state = Lifecycle(owned=config.attach is None)
        self._since = clock()
        # What happened, and to which runtime: news of an engine already replaced is dropped.
        self._mailbox: asyncio.Queue[tuple[EngineRuntime | None, Event | EngineListing]] = asyncio.Queue()
        self._runtime: EngineRuntime | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._listing = EngineListing((), ())
        self._launches = 0
        self._adopted = False
        self._looked = False
        self._final = False
        self.view = self._see()

    @property
    def untried(self) -> bool:
        """Whether this agent has started a process for it that took no request yet."""
        return self._state.phase is Phase.STARTING and self._state.owned and not self._adopted

    @property
    def reason(self) -> str:
        """Why it last failed; empty if it never did."""
        return self._state.reason

    @property
    def failing(self) -> bool:
        """Whether its last start did not last."""
        return self._state.failures > 0

    def status(self) -> InstanceStatus:
        """It as an operator sees it; reads the end of its log."""
        runtime, state = self._runtime, self._state
        process = runtime.process if runtime else None
        return InstanceStatus(
            id=self.id,
            engine=self._config.kind,
            attached=not state.owned,
            phase=state.phase.value,
            phase_s=self._clock() - self._since,
            reason=state.reason,
            failures=state.failures,
            launches=self._launches,
            adopted=self._adopted,
            pid=process.pid if process else None,
            address=join_address(runtime.host, runtime.port) if runtime else "",
            log=str(self._log.path) if state.owned else "",
            log_tail=self._log.tail() if state.owned else [],
        )

    @property
    def process(self) -> tuple[int, int] | None:
        """Pid and start time of its process; None while there is none of ours."""
        process = self._runtime.process if self._runtime is not None else None
        return None if process is None else (process.pid, process.start_time)

    @property
    def taken_up(self) -> bool:
        """Whether it is known which engine runs already, if one does, and that one is in use or given up."""
        found = self._adopted or self._config.attach is not None
        return self._looked and not (found and self._state.phase in {Phase.ABSENT, Phase.STARTING})

    def request(self, event: Event, *, final: bool = False) -> None:
        """Asks for a start, a drain or a stop; with `final`, `run` returns once it is stopped."""
        self._final = self._final or final
        self._mailbox.put_nowait((None, event))

    def refresh(self) -> None:
        """Looks at its models at once."""
        if self._runtime is not None:
            self._runtime.refresh()

    def heard(self, now: float, model: str | None) -> None:
        """A byte came from a model, named canonically; see `Prober.heard`."""
        if self._runtime is not None:
            self._runtime.prober.heard(now, model)

    def sent(self, now: float, model: str | None) -> None:
        """A request went to a model, named canonically; see `Prober.heard`."""
        if self._runtime is not None:
            self._runtime.prober.sent(now, model)

    def succeed(self, former: EngineInstance) -> None:
        """Stands in for one whose own task failed: until it has looked, its engine is as it was."""
        self.view = former.view
        if former._final:
            self.request(Stop(), final=True)

    async def run(self) -> None:
        """Keeps it running until a final stop; cancelled, it leaves the engine running."""
        async with asyncio.TaskGroup() as group:
            tidying = group.create_task(self._tidy())
            await self._begin(group)
            while not (self._final and self._state.phase is Phase.STOPPED):
                origin, event = await self._next()
                if origin is not None and origin is not self._runtime:
                    continue
                await self._take(event, group)
            tidying.cancel()
            if not self._state.owned and self._watcher is not None:
                self._watcher.cancel()

    async def _next(self) -> tuple[EngineRuntime | None, Event | EngineListing]:
        wake_at = self._state.wake_at
        try:
            async with asyncio.timeout(None if wake_at is None else max(0.0, wake_at - self._clock())):
                return await self._mailbox.get()
        except TimeoutError:
            return None, Tick()

    async def _take(self, event: Event | EngineListing, group: asyncio.TaskGroup) -> None:
        if isinstance(event, EngineListing):
            self._listing = event
        else:
            await self._feed(event, group)
        self._publish()

    async def _feed(self, event: Event, group: asyncio.TaskGroup) -> None:
        before = self._state
        self._state, effects = step(before, event, self._clock(), jitter=self._rng(), policy=self._policy)
        if self._state.phase is not before.phase:
            await self._entered(before)
        for effect in effects:
            if isinstance(effect, Launch):
                await self._launch(group)
            elif isinstance(effect, Terminate):
                self._terminate(group)

    async def _entered(self, before: Lifecycle) -> None:
        state = self._state
        self._since = self._clock()
        details = {"reason": state.reason, "failures": state.failures} if state.failures else {}
        log.info("engine_phase", instance=self.id, phase=state.phase.value, was=before.phase.value, **details)
        if state.owned and not state.has_process:
            self._runtime = None  # it has ended, and with it the task that watched it
            with contextlib.suppress(OSError):
                self._record.unlink()
            await self._launcher.ended(self.id)

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        if self._config.attach is not None:
            self._looked = True
            host, port = attach_address(self._config.attach)
            self._watch(host, port, None, group)
            await self._take(Start(), group)
            return
        found = await self._find_earlier()
        self._looked = True
        self._changed()
        if found is None:
            await self._take(Start(), group)
            return
        record, process = found
        self._adopted = True
        log.info("engine_adopted", instance=self.id, pid=process.pid, port=record.port)
        self._launcher.adopted(self.id, self._folder, process)
        self._watch(record.host, record.port, process, group)
        await self._take(Adopted(), group)

    async def _find_earlier(self) -> tuple[ProcessRecord, EngineProcess] | None:
        """An engine that an earlier agent left, if it is alive, well and run as configured now."""
        record = ProcessRecord.load(self._record)
        process = record.find(self._folder) if record is not None else None
        if record is not None and process is not None:
            why = await self._unfit(record)
            if not why:
                return record, process
            log.warning("engine_not_adopted", instance=self.id, pid=process.pid, reason=why)
            try:
                await process.end(self._timing.replace_grace_s)
            finally:
                process.close()
        # Runners of an engine that died, or an engine whose record was lost, would hold the memory.
        if killed := await sweep_marked(self._folder):
            log.warning("engine_leftovers_killed", instance=self.id, processes=killed)
        return None

    async def _unfit(self, record: ProcessRecord) -> str:
        """Why an earlier agent's engine cannot go on; empty if it can."""
        if record.fingerprint != self._config.fingerprint:
            return "its configuration has changed"
        return "" if await self._answers(record) else "it does not answer"

    async def _answers(self, record: ProcessRecord) -> bool:
        client = EngineClient(record.host, record.port, record.pid if private_network(record.pid) else 0)
        try:
            async with asyncio.timeout(self._timing.answer_s):
                await client.version()
        except (TimeoutError, BridgeError):
            return False
        else:
            return True
        finally:
            await client.close()

    async def _launch(self, group: asyncio.TaskGroup) -> None:
        try:
            process, port = await self._start_process()
        except BridgeError as fault:
            log.warning("engine_not_started", instance=self.id, reason=str(fault))
            await self._feed(LaunchFailed(str(fault)), group)
            return
        self._launches += 1
        self._adopted = False
        log.info("engine_launched", instance=self.id, pid=process.pid, port=port)
        try:
            record = ProcessRecord.of(process, _HOST, port, self._config.fingerprint)
            await asyncio.to_thread(record.save, self._record)
        except OSError as fault:
            # It serves all the same; only a later agent will not find it.
            log.warning("engine_not_recorded", instance=self.id, reason=str(fault))
        self._watch(_HOST, port, process, group)

    async def _start_process(self) -> tuple[EngineProcess, int]:
        try:
            place = Place(self._folder, self._models, _HOST, _free_port())
            for folder in (self._folder, place.home, self._models):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as fault:
            where = f" {fault.filename}" if fault.filename else ""
            raise LaunchFault(f"cannot prepare the engine's folder{where}: {fault.strerror}") from fault
        argv, env = command(self._config, place, os.environ)
        spec = LaunchSpec(
            argv,
            env,
            self._folder,
            self._log,
            self.id,
            writable=(self._models,),
            readable=self._config.binaries,
            gpus=self._config.gpus,
            models=self._config.max_loaded or DEFAULT_MAX_LOADED,
        )
        return await self._launcher.launch(spec), place.port

    def _watch(self, host: str, port: int, process: EngineProcess | None, group: asyncio.TaskGroup) -> None:
        def post(event: Event | EngineListing) -> None:
            self._mailbox.put_nowait((runtime, event))

        runtime = EngineRuntime(
            self._config,
            host,
            port,
            process,
            post=post,
            clock=self._clock,
            timing=self._timing,
            probing=self._probing,
        )
        self._runtime = runtime
        self._watcher = group.create_task(runtime.run())

    def _terminate(self, group: asyncio.TaskGroup) -> None:
        if self._runtime is not None and self._runtime.process is not None:
            stopping = self._state.phase is Phase.STOPPING
            grace_s = self._timing.stop_grace_s if stopping else self._timing.replace_grace_s
            group.create_task(self._runtime.process.end(grace_s))

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(30.0)
            try:
                await asyncio.to_thread(self._log.rotate)
            except OSError as fault:
                log.warning("engine_log_not_rotated", instance=self.id, reason=str(fault))

    def _publish(self) -> None:
        view = self._see()
        if view != self.view:
            self.view = view
            self._changed()

    def _see(self) -> LocalInstance:
        runtime = self._runtime
        phase = self._state.phase
        return LocalInstance(
            id=self.id,
            host=runtime.host if runtime else _HOST,
            port=runtime.port if runtime else 0,
            state=_STATES[phase],
            models=self._listing.models,
            loaded=self._listing.loaded if phase in {Phase.READY, Phase.DRAINING} else (),
            slots=self._config.num_parallel,
            engine=self._config.kind,
            network_pid=runtime.network_pid if runtime else 0,
        )


def _free_port() -> int:
    """A port nobody listens on. Somebody may before the engine does: then it fails and is retried."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
