"""One engine while it runs: its process, its client, and the tasks that watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from bridge_agent.engines.client import EngineClient, EngineFault, ResidentModel
from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.foreign import ForeignProcess
from bridge_agent.engines.lifecycle_rules import Answered, Event, Exited, Generated, Hung, ProbeFailed
from bridge_agent.engines.network import private_network
from bridge_agent.engines.proc import effort
from bridge_agent.engines.process import EngineProcess
from bridge_agent.health.probe_rules import ProbePolicy
from bridge_agent.health.prober import LoadedModel, Prober
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.names import InvalidName, canonical
from bridge_core.snapshot import MemberModel

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EngineTiming:
    """How often to look, and for how long to wait; in seconds.

    Attributes:
        poll_s: Between looks at a ready engine.
        start_poll_s: Between looks at one that has not answered yet.
        answer_s: For an answer to version, tags or ps.
        stop_grace_s: From SIGTERM to SIGKILL when it is to stop.
        replace_grace_s: The same when it is sick.
    """

    poll_s: float = 2.0
    start_poll_s: float = 0.1
    answer_s: float = 5.0
    stop_grace_s: float = 10.0
    replace_grace_s: float = 3.0


@dataclass(frozen=True, slots=True)
class EngineListing:
    """What an engine holds, on disk and in memory."""

    models: tuple[MemberModel, ...]
    loaded: tuple[str, ...]


class EngineRuntime:
    """An engine that runs, from its start or adoption to its end.

    Args:
        config: How it is run.
        host: Where it listens.
        port: Where it listens.
        process: Its process; None for one run by somebody else.
        post: Takes what happens, in order.
        clock: Monotonic time in seconds.
        timing: How often to look.
        probing: When to make models generate.
    """

    def __init__(
        self,
        config: EngineConfig,
        host: str,
        port: int,
        process: EngineProcess | None,
        *,
        post: Callable[[Event | EngineListing], None],
        clock: Callable[[], float],
        timing: EngineTiming,
        probing: ProbePolicy,
    ) -> None:
        self.host = host
        self.port = port
        self.process = process
        self._config = config
        self._post = post
        self._timing = timing
        self.network_pid = process.pid if process is not None and private_network(process.pid) else 0
        self._client = EngineClient(host, port, self.network_pid)
        self._poll_now = asyncio.Event()
        # Only our own are looked at often while they start: those we know to come.
        self._pause_s = timing.poll_s if process is None else timing.start_poll_s
        self._listing: EngineListing | None = None
        self._not_listed = ""
        self.prober = Prober(
            hung=lambda reason: post(Hung(reason)),
            recovered=lambda: post(Generated()),
            effort=self._effort,
            clock=clock,
            policy=probing,
            ours=process is not None,
        )
        self._foreign = ForeignProcess(host, port)

    async def run(self) -> None:
        """Watches until the process has ended, or until cancelled. The process is left alone."""
        try:
            async with asyncio.TaskGroup() as group:
                watchers = [group.create_task(self._poll()), group.create_task(self.prober.run())]
                if self.process is not None:
                    reason = await self.process.wait()
                    for watcher in watchers:
                        watcher.cancel()
                    # Before anything replaces it: orphaned runners would keep the GPU's memory.
                    await self.process.sweep()
                    self._post(Exited(reason))
        finally:
            if self.process is not None:
                self.process.close()
            await self._client.close()

    def refresh(self) -> None:
        """Looks at its models at once."""
        self._poll_now.set()

    async def _poll(self) -> None:
        while True:
            self._poll_now.clear()
            await self._look()
            try:
                async with asyncio.timeout(self._pause_s):
                    await self._poll_now.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        try:
            await self._in_time(self._client.version())
        except BridgeError as fault:
            self._post(ProbeFailed(f"does not answer /api/version: {fault}"))
            return
        await self._list()
        self._pause_s = self._timing.poll_s
        self._post(Answered())

    async def _list(self) -> None:
        """Posts what it holds, if that changed; what it cannot tell stays as it was."""
        try:
            models = await self._in_time(self._client.models())
            residents = await self._in_time(self._client.loaded())
        except BridgeError as fault:
            if str(fault) != self._not_listed:  # said once, not at every look
                self._not_listed = str(fault)
                log.warning("engine_not_listed", engine=self._config.index, reason=str(fault))
            return
        self._not_listed = ""
        embedding = {model.name for model in models if _embeds(model)}
        self.prober.update(self._probed(resident, resident.name in embedding) for resident in residents)
        listing = EngineListing(models, tuple(resident.name for resident in residents))
        if listing != self._listing:
            self._listing = listing
            self._post(listing)

    def _probed(self, resident: ResidentModel, embedding: bool) -> LoadedModel:
        async def probe() -> None:
            still = await self._in_time(self._client.loaded())
            if resident.name not in {model.name for model in still}:
                return  # asking for a token would load it again
            try:
                await self._client.generate_one(
                    resident.name, context_length=resident.context_length, embedding=embedding
                )
            except EngineFault as fault:
                # Refused, which a hung runner does not do.
                log.info("model_probe_refused", model=resident.name, reason=str(fault))

        expires_in_s = resident.expires_in_s(datetime.now(UTC))
        return LoadedModel(model_key(resident.name), expires_in_s, probe)

    async def _in_time(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timing.answer_s):
                return await answer
        except TimeoutError:
            raise Unavailable(f"no answer within {self._timing.answer_s:g} s") from None

    async def _effort(self) -> float | None:
        if self.process is not None:
            return effort(await asyncio.to_thread(self.process.family))
        found = await asyncio.to_thread(self._foreign.family)
        return effort(found) if found else None


def model_key(name: str) -> str:
    """What a model is known by here, whichever way its name is spelled."""
    try:
        return canonical(name)
    except InvalidName:
        return name.lower()  # an engine may list what we would not accept


def _embeds(model: MemberModel) -> bool:
    return "embedding" in model.capabilities and "completion" not in model.capabilities
