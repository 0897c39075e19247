"""Keeps the models that are likely to be asked for next in the page cache (`warm_rules`), and says which are;
and the programs of the engines that load them (`programs`).

One model at a time is read, by one thread that lets everybody else have the disk first, and not at all while
an engine of this node loads something.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from bridge_agent.engines.view import LocalInstance
from bridge_agent.models import page_cache
from bridge_agent.models.blob_files import BlobFault, opened
from bridge_agent.models.habit_file import HabitsUnsaved, read_habits, write_habits
from bridge_agent.models.habit_rules import DayHistory
from bridge_agent.models.manifest_rules import weights_of
from bridge_agent.models.programs import Processes, ProgramFiles
from bridge_agent.models.warm_rules import (
    ORDER_S,
    Blob,
    Demand,
    Warmable,
    budget,
    fits,
    is_warm,
    likely,
    programs_part,
    wanted,
)
from bridge_agent.routing.view import MeshView
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.memory_room import available
from bridge_core.model_store.layout import ModelStore, hex_digest
from bridge_core.names import ModelName, canonical_or_same

log = structlog.get_logger()

_LOOK_S: Final = 15.0
_SAVE_S: Final = 600.0
_YIELD_S: Final = 0.2
_AGAIN_S: Final = 600.0  # what the kernel did not keep, or does not speak of, is not read all the time
_WHOLE: Final = 0.995  # of a file: the kernel keeps no page for ever
_MOST_MODELS: Final = 512
_MOST_ORDERS: Final = 64


class NotWarmed(BridgeError):
    """A model cannot be brought into memory."""


class Warming:
    """See the module. Its methods belong to the event loop.

    Args:
        root: The models folder.
        store: Gives the store in it; asked on the loop.
        view: The mesh.
        configured: Bytes of the page cache that predictions may fill; None: a share of what is free; 0: none.
        instances: Those of this node that read this store.
        loading: Whether an engine here loads a model; asked in a thread.
        changed: Told when other models are warm than before.
        room: Bytes that are free, or can be made so; asked in a thread.
        habits: The file of what was asked for at which time of day; None: that is not kept.
        programs: The files of the engines' programs; None: these are left to the kernel.
        processes: The engines of this node that have a model loaded, by pid and start time.
        now: Monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        root: Path,
        store: Callable[[], ModelStore],
        view: MeshView,
        *,
        configured: int | None,
        instances: Callable[[], Sequence[LocalInstance]],
        loading: Callable[[], bool],
        changed: Callable[[], None],
        room: Callable[[], int] = available,
        habits: Path | None = None,
        programs: ProgramFiles | None = None,
        processes: Processes = tuple,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._store = store
        self._view = view
        self._configured = configured
        self._instances = instances
        self._loading = loading
        self._changed = changed
        self._room = room
        self._programs = programs
        self._processes = processes
        self._now = now
        self._wall = wall
        self._demand = Demand()
        self._habits = habits
        self._history = DayHistory()
        self._save_at: float | None = None  # nothing is to be saved
        self._orders: dict[str, float] = {}
        self._warm: frozenset[str] = frozenset()
        self._again: dict[str, float] = {}  # when a model that was read through may be so again
        self._programs_again = -math.inf
        self._turn = asyncio.Lock()
        self._reading: threading.Event | None = None
        # Of its own: it has the lowest claim on the disk for ever.
        self._reader = ThreadPoolExecutor(1, "warming", initializer=page_cache.yield_the_disk)

    @property
    def warm(self) -> frozenset[str]:
        """Models that are in the page cache, by canonical names."""
        return self._warm

    def asked(self, model: str) -> None:
        """A request for the model of this canonical name was served here."""
        self._demand.asked(model, self._now())
        self._history.asked(model, self._wall())
        if self._save_at is None:
            self._save_at = self._now() + _SAVE_S

    def shown(self, instances: Sequence[LocalInstance]) -> tuple[LocalInstance, ...]:
        """These with what is warm of their models, where these are in this store."""
        own = {one.id for one in self._instances()}
        return tuple(self._with_warm(one) if one.id in own else one for one in instances)

    def _with_warm(self, instance: LocalInstance) -> LocalInstance:
        warm = tuple(one.name for one in instance.models if canonical_or_same(one.name) in self._warm)
        return msgspec.structs.replace(instance, warm=warm)

    async def run(self) -> None:
        """Keeps likely models warm until cancelled; run it as a task."""
        await self.remember()
        try:
            while True:
                try:
                    await self.look()
                    if self._save_at is not None and self._save_at <= self._now():
                        await self.save()
                except BridgeError as fault:
                    log.warning("models_not_warmed", reason=str(fault))
                await asyncio.sleep(_LOOK_S)
        finally:
            if self._save_at is not None:
                with contextlib.suppress(HabitsUnsaved):  # an agent that ends is held up by nothing
                    await self.save()

    async def remember(self) -> None:
        """Reads what earlier runs of the agent were asked for; what was asked meanwhile counts, too."""
        if self._habits is not None:
            kept = await asyncio.to_thread(read_habits, self._habits)
            kept.add(self._history)
            self._history = kept
        if self._programs is not None:
            await asyncio.to_thread(self._programs.remember)

    async def save(self) -> None:
        """Keeps what was asked for over a restart. Raises HabitsUnsaved."""
        self._save_at = None
        if self._habits is not None:
            await asyncio.to_thread(write_habits, self._habits, dict(self._history.habits))

    async def look(self) -> None:
        """Looks once what is warm, and brings in what is wanted and is not."""
        stored = await self._stored()
        await self._measure(stored)
        now, names = self._now(), {one.name for one in stored}
        self._again = {name: at for name, at in self._again.items() if name in names and at > now}
        if self._programs is not None:
            await asyncio.to_thread(self._programs.learn, tuple(self._processes()))
        spare = budget(await asyncio.to_thread(self._room), self._configured)
        taken, left_out = wanted(stored, self.scores(), spare - await self._programs_in(spare))
        read = False
        for one in taken:
            resting = one.loaded or one.name in self._again
            if not resting and await asyncio.to_thread(self._share, one) < _WHOLE:
                async with self._turn:
                    stopped = self._reading = threading.Event()
                    done = await self._bring_in(one, lambda _read: None, stopped)
                if done:
                    self._again[one.name] = self._now() + _AGAIN_S
                log.info("model_warmed", model=one.name, bytes=one.size, whole=done)
                read = True
        if read:
            await self._measure(stored)
        for one in left_out:
            log.debug("model_left_cold", model=one.name, bytes=one.size)

    async def _programs_in(self, spare: int) -> int:
        """Brings in the engines' programs, as far as their part of `spare` bytes goes; what they take."""
        programs = self._programs
        if programs is None:
            return 0
        part = programs_part(spare)
        cold = await asyncio.to_thread(programs.cold, part)
        if cold and self._now() >= self._programs_again:
            loop, stopped = asyncio.get_running_loop(), threading.Event()
            goes_on = self._going(sum(size for _, size in cold), stopped, lambda _read: None)
            try:
                done = await loop.run_in_executor(self._reader, programs.bring_in, cold, goes_on)
            except OSError as fault:
                log.warning("programs_not_warmed", reason=str(fault))
            else:
                log.info("programs_warmed", files=len(cold), whole=done)
            finally:
                stopped.set()
            self._programs_again = self._now() + _AGAIN_S
        return min(part, await asyncio.to_thread(programs.total))

    async def order(self, name: ModelName) -> AsyncGenerator[dict[str, Any], None]:
        """Brings a model in now, and keeps it wanted for `ORDER_S`; records of how far that is.

        Raises:
            NotWarmed: this node does not have it, or not the memory for it.
        """
        wanted_name = canonical_or_same(str(name))
        stored = await self._stored()
        found = next((one for one in stored if one.name == wanted_name), None)
        if found is None:
            raise NotWarmed(f"this node has no model {name.short()}")
        room = await asyncio.to_thread(self._room)
        if not fits(found.size, room):
            raise NotWarmed(
                f"{name.short()} has {found.size} bytes, and {room} are free for this agent",
                hint="unload other models, or raise the memory limit of the agent's service",
            )
        now = self._now()
        self._orders = {one: until for one, until in self._orders.items() if until > now}
        if len(self._orders) < _MOST_ORDERS:
            self._orders[wanted_name] = now + ORDER_S
        progress: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def told(read: int) -> None:
            loop.call_soon_threadsafe(progress.put_nowait, read)

        self._stop_reading()  # of what was only likely
        async with self._turn:
            task = loop.create_task(self._bring_in(found, told, threading.Event()))
            task.add_done_callback(lambda _: progress.put_nowait(-1))
            try:
                while (read := await progress.get()) >= 0:
                    yield {"status": f"warming {name.short()}", "total": found.size, "completed": read}
            finally:
                task.cancel()
                await asyncio.wait([task])
        await self._measure(stored)
        if wanted_name not in self._warm:
            raise NotWarmed(
                f"{name.short()} was read, and the kernel did not keep it",
                hint="the agent's memory limit, or the machine's memory, is too small for it; or its files "
                "are another user's, of which the kernel tells this agent nothing",
            )
        yield {"status": "success"}

    # -- what is wanted

    def scores(self) -> dict[str, float]:
        """How likely models are to be asked for here now, by canonical name."""
        now = self._now()
        instances = self._instances()
        names = {canonical_or_same(model.name) for one in instances for model in one.models}
        at = self._wall()
        demand = {name: self._demand.of(name, now) + self._history.expected(name, at) for name in names}
        orders = [name for name, until in self._orders.items() if until > now]
        own = frozenset(one.id for one in instances)
        return likely(self._view.current, own, demand, orders)

    async def _stored(self) -> list[Warmable]:
        """The models on the disk.

        Raises:
            NotWarmed: the store cannot be read.
        """
        loaded = {canonical_or_same(name) for one in self._instances() for name in one.loaded}
        try:
            models = (await asyncio.to_thread(self._store().all))[:_MOST_MODELS]
        except (ApiError, OSError) as fault:
            raise NotWarmed(f"the models folder cannot be read: {fault}") from fault
        found = []
        for one in models:
            name = canonical_or_same(str(one.name))
            blobs = tuple(Blob(hex_digest(layer.digest), layer.size) for layer in weights_of(one.manifest))
            found.append(Warmable(name, blobs, name in loaded))
        return found

    async def _measure(self, stored: Sequence[Warmable]) -> None:
        shares = await asyncio.to_thread(lambda: {one.name: self._share(one) for one in stored if one.blobs})
        warm = frozenset(name for name, share in shares.items() if is_warm(share, before=name in self._warm))
        if warm != self._warm:
            self._warm = warm
            self._changed()

    # -- in threads

    def _share(self, model: Warmable) -> float:
        """How much of a model is in the page cache, between 0 and 1; what cannot be told is not."""
        cached = 0.0
        for blob in model.blobs:
            try:
                with opened(self._root, blob.hex) as handle:
                    if handle is not None:
                        cached += (page_cache.resident(handle) or 0.0) * blob.size
            except (BlobFault, OSError):
                continue
        return cached / model.size if model.size else 0.0

    async def _bring_in(
        self, model: Warmable, told: Callable[[int], object], stopped: threading.Event
    ) -> bool:
        """Reads a model through; False: it was stopped, or is no longer whole."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reader, self._read_through, model, stopped, told)
        except (BlobFault, OSError) as fault:
            log.warning("model_not_warmed", model=model.name, reason=str(fault))
            return False
        finally:
            stopped.set()

    def _stop_reading(self) -> None:
        """Ends the reading of what is only likely; what was ordered is read to its end."""
        if self._reading is not None:
            self._reading.set()

    def _read_through(self, model: Warmable, stopped: threading.Event, told: Callable[[int], object]) -> bool:
        before = 0
        goes_on = self._going(model.size, stopped, told)
        for blob in model.blobs:
            with opened(self._root, blob.hex) as handle:
                if handle is None or not page_cache.bring_in(handle, blob.size, goes_on, before):
                    return False
            before += blob.size
        return True

    def _going(
        self, size: int, stopped: threading.Event, told: Callable[[int], object]
    ) -> Callable[[int], bool]:
        """What is asked before each piece of `size` bytes; it waits while an engine loads something."""

        def goes_on(read: int) -> bool:
            while self._loading() and not stopped.wait(_YIELD_S):
                pass  # somebody waits for that one, and the disk is the same
            told(read)
            return not stopped.is_set() and fits(min(size - read, page_cache.PIECE), self._room())

        return goes_on
