"""Loads models, shares them, and unloads them.

Rules:
1. A model is loaded once however many ask for it at the same time, and one load runs at a time.
2. Requests with other runner options than those loaded wait until the model is idle, then reload
   it; requests that came after them wait too, so that none waits for ever.
3. A load goes on when whoever asked for it goes away.
4. A runner that stops answering while it works for somebody is killed, so that its requests fail
   instead of hanging; the next request starts another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final, Self

import msgspec
import structlog

from bridge_core.dialects.errors import ApiError
from bridge_core.model_store.layout import Stored
from bridge_core.model_store.open_blob import Unseal
from bridge_engine.options import RunnerOptions
from bridge_engine.runner.plaintext import opened
from bridge_engine.runner.planning import plan, serves
from bridge_engine.runner.process import Runner, free_port
from bridge_engine.runner.schedule import Resident, expired, next_expiry, victim
from bridge_engine.runner.spec import RunnerSpec
from bridge_engine.store.model import OpenedModel

log = structlog.get_logger()

_PROBE_EVERY_S: Final = 1.0
_MOST_LOADS: Final = 3  # of one request: a runner that ends as soon as it is ready must not loop


class SchedulerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine loads models.

    Attributes:
        parallel: Requests that one model answers at a time.
        keep_alive_s: How long an idle model stays loaded where the request does not say.
        context_length: Context where neither request nor model say.
        max_loaded: Models loaded at a time.
        max_queue: Requests that may wait for a load.
        load_stall_s: How long a loading runner may be silent.
        hang_s: How long a busy runner may leave a health probe without an answer.
        kv_cache_type: Precision of the KV cache.
        threads: CPU threads where the request does not say; 0: llama.cpp's own choice.
        batch: Prompt tokens read at a time where the request does not say; 0: the plan's own choice.
        llama_server: A `llama-server` binary to run; empty for the wheel's server.
    """

    parallel: int = 1
    keep_alive_s: float = 300.0
    context_length: int = 4096
    max_loaded: int = 3
    max_queue: int = 512
    load_stall_s: float = 300.0
    hang_s: float = 10.0
    kv_cache_type: str = "f16"
    threads: int = 0
    batch: int = 0
    llama_server: str = ""


class Loaded:
    """A model in memory, or on its way there.

    Attributes:
        model: What was asked for by the last request.
        options: What its runner was started with.
        runner: The process; set once it is loaded.
        users: Requests that use it now.
    """

    def __init__(self, key: str, model: OpenedModel, options: RunnerOptions) -> None:
        self.key = key
        self.model = model
        self.options = options
        self.runner: Runner | None = None
        self.users = 0
        self.last_used = time.monotonic()
        self.keep_alive_s = 0.0
        self.expires_at = float("inf")
        self.load: asyncio.Task[None] | None = None
        self.failure: ApiError | None = None

    def resident(self) -> Resident:
        """As the rules see it."""
        return Resident(self.key, self.users, self.last_used, self.expires_at)

    def touch(self, now: float) -> None:
        """Counts its keep-alive from now."""
        self.last_used = now
        self.expires_at = now + self.keep_alive_s


class Scheduler:
    """Owns every runner. Use as a context manager: leaving ends them all.

    Args:
        settings: How models are loaded.
        unseal: Gives the keys of what lies sealed; None: that is not loaded.
    """

    def __init__(self, settings: SchedulerOptions, unseal: Unseal | None = None) -> None:
        self.settings = settings
        self._unseal = unseal
        self._loaded: dict[str, Loaded] = {}
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._expiry_changed = asyncio.Event()
        self._waiting = 0
        self._blocked: set[str] = set()
        self._tasks: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._keeper = self._tasks.create_task(self._keep(), name="engine-expiry")
        self._prober = self._tasks.create_task(self._probe(), name="engine-probe")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        self._prober.cancel()
        for loaded in list(self._loaded.values()):
            await self._unload(loaded)
        if self._tasks is not None:
            await self._tasks.__aexit__(None, None, None)

    def loaded(self) -> list[Loaded]:
        """What is loaded, the one that stays longest first."""
        ready = [one for one in self._loaded.values() if one.runner is not None]
        now = time.monotonic()
        ends = {one.key: one.expires_at if one.users == 0 else now + one.keep_alive_s for one in ready}
        return sorted(ready, key=lambda one: -ends[one.key])

    @contextlib.asynccontextmanager
    async def use(
        self, model: OpenedModel, options: RunnerOptions, keep_alive_s: float | None
    ) -> AsyncIterator[Runner]:
        """Gives the model's runner, loading it first where need be; it stays loaded inside.

        Raises:
            ApiError: 503 where too many wait, 500 where the model cannot be loaded.
        """
        loaded = await self._acquire(model, options)
        loaded.keep_alive_s = self.settings.keep_alive_s if keep_alive_s is None else keep_alive_s
        loaded.touch(time.monotonic())
        loaded.model = model
        try:
            if loaded.runner is None:
                raise RuntimeError("acquired a model without a runner")
            yield loaded.runner
        finally:
            loaded.users -= 1
            loaded.touch(time.monotonic())
            self._notify()

    def expire(self, model: OpenedModel) -> None:
        """Unloads a model as soon as nobody uses it."""
        loaded = self._loaded.get(_key(model))
        if loaded is not None:
            loaded.keep_alive_s = 0.0
            loaded.expires_at = 0.0
            self._notify()

    def expire_name(self, stored: Stored) -> None:
        """Unloads a model that is about to be deleted as soon as nobody uses it."""
        for loaded in list(self._loaded.values()):
            if loaded.model.stored.digest == stored.digest and loaded.model.name == stored.name:
                self.expire(loaded.model)

    async def _acquire(self, model: OpenedModel, options: RunnerOptions) -> Loaded:
        key = _key(model)
        found = self._ready(key, model, options)
        if found is not None and key not in self._blocked:
            found.users += 1
            return found
        if self._waiting >= self.settings.max_queue:
            raise ApiError(503, "server busy, please try again.  maximum pending requests exceeded")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._acquire_in_turn(key, model, options)
        finally:
            self._waiting -= 1

    async def _acquire_in_turn(self, key: str, model: OpenedModel, options: RunnerOptions) -> Loaded:
        self._blocked.add(key)
        loads = 0
        try:
            while True:
                found = self._ready(key, model, options)
                if found is not None:
                    found.users += 1
                    return found
                self._changed.clear()
                present = self._loaded.get(key)
                if present is not None and present.load is not None and not present.load.done():
                    await asyncio.wait([present.load])
                elif present is not None and present.users == 0:
                    await self._unload(present)
                elif loads == _MOST_LOADS:
                    raise ApiError(500, f"{model.name.short()} was loaded {loads} times and ended each time")
                elif present is None and await self._make_room():
                    loads += 1
                    await self._load(key, model, options)
                else:
                    await self._changed.wait()
        finally:
            self._blocked.discard(key)

    def _ready(self, key: str, model: OpenedModel, options: RunnerOptions) -> Loaded | None:
        found = self._loaded.get(key)
        if found is None or found.runner is None or not found.runner.alive:
            return None
        if found.options == options or serves(found.runner.spec, self._plan(model, options, port=0)):
            return found
        return None

    def _plan(self, model: OpenedModel, options: RunnerOptions, *, port: int) -> RunnerSpec:
        settings = self.settings
        return plan(
            model,
            options,
            parallel=settings.parallel,
            context_length=settings.context_length,
            kv_cache_type=settings.kv_cache_type,
            threads=settings.threads,
            batch=settings.batch,
            llama_server=settings.llama_server,
            port=port,
        )

    async def _make_room(self) -> bool:
        if len(self._loaded) < self.settings.max_loaded:
            return True
        key = victim(one.resident() for one in self._loaded.values() if one.runner is not None)
        if key is None:
            return False
        await self._unload(self._loaded[key])
        return len(self._loaded) < self.settings.max_loaded

    async def _load(self, key: str, model: OpenedModel, options: RunnerOptions) -> None:
        if self._tasks is None:
            raise RuntimeError("the scheduler was not entered")
        loaded = self._loaded[key] = Loaded(key, model, options)
        # Whoever waits for it has not been counted yet: without this it could expire on arrival.
        loaded.keep_alive_s = max(1.0, self.settings.keep_alive_s)
        loaded.load = self._tasks.create_task(self._start(loaded), name=f"load-{model.name.short()}")
        await asyncio.wait([loaded.load])
        if loaded.failure is not None:
            raise loaded.failure

    async def _start(self, loaded: Loaded) -> None:
        """Starts a runner; a failure is kept in `loaded`, for it must not end the other tasks."""
        settings = self.settings
        begun = time.monotonic()
        try:
            port = free_port() if settings.llama_server else 0
            spec = self._plan(loaded.model, loaded.options, port=port)
            async with opened(spec, self._unseal) as given:
                runner = await Runner.start(spec, stall_s=settings.load_stall_s, given=given)
        except (ApiError, OSError) as fault:
            self._forget(loaded)
            failure = (
                fault if isinstance(fault, ApiError) else ApiError(500, f"cannot start a runner: {fault}")
            )
            loaded.failure = failure
            log.warning("load_failed", model=loaded.model.name.short(), fault=failure.message)
            return
        except asyncio.CancelledError:
            self._forget(loaded)
            raise
        loaded.runner = runner
        loaded.touch(time.monotonic())
        runner.gone.add_done_callback(lambda _: self._forget(loaded))
        log.info(
            "loaded",
            model=loaded.model.name.short(),
            pid=runner.pid,
            took_s=round(time.monotonic() - begun, 3),
        )
        self._notify()

    def _forget(self, loaded: Loaded) -> None:
        if self._loaded.get(loaded.key) is loaded:
            del self._loaded[loaded.key]
        self._notify()

    async def _unload(self, loaded: Loaded) -> None:
        if self._loaded.get(loaded.key) is loaded:
            del self._loaded[loaded.key]
        if loaded.load is not None and not loaded.load.done():
            loaded.load.cancel()
            await asyncio.wait([loaded.load])
        if loaded.runner is not None:
            await loaded.runner.stop()
            log.info("unloaded", model=loaded.model.name.short())
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._expiry_changed.set()

    async def _keep(self) -> None:
        """Unloads what has expired."""
        while True:
            self._expiry_changed.clear()
            ready = [one for one in self._loaded.values() if one.runner is not None]
            now = time.monotonic()
            for key in expired((one.resident() for one in ready), now):
                found = self._loaded.get(key)
                if found is not None and found.users == 0:
                    await self._unload(found)
            ends = next_expiry(one.resident() for one in self._loaded.values() if one.runner is not None)
            timeout = None if ends in (None, float("inf")) else max(0.0, (ends or 0.0) - now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._expiry_changed.wait()

    async def _probe(self) -> None:
        """Kills runners that work for somebody and answer nothing at all."""
        while True:
            await asyncio.sleep(_PROBE_EVERY_S)
            busy = [one.runner for one in self._loaded.values() if one.users and one.runner is not None]
            if not busy:
                continue
            answers = await asyncio.gather(*(runner.healthy(self.settings.hang_s) for runner in busy))
            for runner, answered in zip(busy, answers, strict=True):
                if not answered and runner.alive:
                    runner.fail(f"the runner did not answer for {self.settings.hang_s:g} s")


def _key(model: OpenedModel) -> str:
    return "+".join(map(str, (model.weights, *model.projectors, *model.adapters)))
