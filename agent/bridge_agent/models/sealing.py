"""Sees to it that a node's blobs lie sealed: also those that an engine wrote, and those that were there.

One blob at a time, by one thread that lets everybody else have the disk first, and not while an engine loads.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
import structlog

from bridge_agent.engines.view import LocalInstance
from bridge_agent.models import page_cache
from bridge_agent.models.blob_files import opened
from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.blob_sealing import How, Stopped, bring_up, stored
from bridge_agent.models.blobs import Blobs
from bridge_core.errors import BridgeError
from bridge_core.model_store.layout import ModelStore, hex_digest
from bridge_core.names import canonical_or_same

log = structlog.get_logger()

_LOOK_S: Final = 10.0
_YIELD_S: Final = 0.2
_AGAIN_S: Final = 300.0  # after a blob could not be sealed
_Seen = tuple[int, int, int]


class Sealing:
    """See the module. Its methods belong to the event loop.

    Args:
        blobs: Those of the models folder.
        store: Gives the store in it; asked on the loop.
        keys: What they are sealed with.
        reserve: Bytes of the disk that stay free.
        loading: Whether an engine here loads a model; asked in a thread.
        changed: Told when other models lie sealed than before.
        now: Monotonic seconds.

    Attributes:
        models: Those of which every blob lies sealed, by canonical names.
        faults: Why blobs could not be sealed, by their digests' digits.
    """

    def __init__(
        self,
        blobs: Blobs,
        store: Callable[[], ModelStore],
        keys: BlobKeys,
        *,
        reserve: int,
        loading: Callable[[], bool],
        changed: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs = blobs
        self._store = store
        self._keys = keys
        self._reserve = reserve
        self._loading = loading
        self._changed = changed
        self._now = now
        self._seen: dict[str, _Seen] = {}  # what was found sealed, and which file that was
        self._again: dict[str, float] = {}
        self._ending = threading.Event()
        self._thread = ThreadPoolExecutor(1, "sealing", initializer=page_cache.yield_the_disk)
        self.models: frozenset[str] = frozenset()
        self.faults: dict[str, str] = {}

    def concerns(self) -> list[str]:
        """What an admin should know."""
        withheld = [f"sealed models do not open: {self._keys.fault}"] if self._keys.fault else []
        return [*withheld, *sorted(set(self.faults.values()))[:4]]

    def shown(self, instances: Sequence[LocalInstance], own: frozenset[str]) -> tuple[LocalInstance, ...]:
        """These, with what lies sealed of the models of our `own`."""
        return tuple(self._with_sealed(one) if one.id in own else one for one in instances)

    def _with_sealed(self, instance: LocalInstance) -> LocalInstance:
        names = (model.name for model in instance.models)
        sealed = tuple(name for name in names if canonical_or_same(name) in self.models)
        return msgspec.structs.replace(instance, sealed=sealed)

    async def run(self) -> None:
        """Seals until cancelled; run it as a task."""
        self._ending.clear()
        try:
            while True:
                await self.look()
                await asyncio.sleep(_LOOK_S)
        finally:
            self._ending.set()

    async def look(self) -> None:
        """Looks once through the store, and seals what is not sealed."""
        store = self._store()
        try:
            models = await asyncio.get_running_loop().run_in_executor(self._thread, self._look, store)
        except BridgeError as fault:
            log.warning("blobs_not_sealed", reason=str(fault))
            return
        if models != self.models:
            self.models = models
            self._changed()

    # -- in the thread

    def _look(self, store: ModelStore) -> frozenset[str]:
        """The models that lie sealed, once all blobs do that can."""
        there = stored(self._blobs.root)
        known = frozenset(there)
        self._seen = {hex_: which for hex_, which in self._seen.items() if hex_ in known}
        self._again = {hex_: at for hex_, at in self._again.items() if hex_ in known}
        self.faults = {hex_: why for hex_, why in self.faults.items() if hex_ in known}
        how = How(self._blobs.root, self._keys, store.changing, self._reserve, self._stopped)
        for hex_ in there:
            if self._stopped():
                break
            try:
                self._bring_up(hex_, how)
            except Stopped:
                break
            except BridgeError as fault:  # of this one: the others are sealed
                self._again[hex_] = self._now() + _AGAIN_S
                if self.faults.get(hex_) != str(fault):
                    self.faults[hex_] = str(fault)
                    log.warning("blob_not_sealed", blob=hex_[:12], reason=str(fault))
        return _sealed_models(store, frozenset(self._seen))

    def _bring_up(self, hex_: str, how: How) -> None:
        """Has a blob lie sealed, but one found so before, or that just failed to be. Raises as `bring_up`."""
        which = self._which(hex_)
        if which is not None and self._seen.get(hex_) == which:
            return
        self._seen.pop(hex_, None)  # another file has its place
        if which is None or self._again.get(hex_, 0.0) > self._now():
            return
        written = bring_up(hex_, how)
        self._again.pop(hex_, None)
        self.faults.pop(hex_, None)
        if written:
            log.info("blob_sealed", blob=hex_[:12], bytes=written)
        if self._blobs.sealed(hex_) and (which := self._which(hex_)) is not None:
            self._seen[hex_] = which

    def _which(self, hex_: str) -> _Seen | None:
        """Which file a blob is: another one, or one written to, is looked at again."""
        with opened(self._blobs.root, hex_) as handle:
            if handle is None:
                return None
            status = os.fstat(handle)
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _stopped(self) -> bool:
        while self._loading() and not self._ending.wait(_YIELD_S):
            pass  # somebody waits for that load, and the disk is the same
        return self._ending.is_set()


def _sealed_models(store: ModelStore, sealed: frozenset[str]) -> frozenset[str]:
    """The models of which every blob is among these."""
    return frozenset(
        canonical_or_same(str(one.name))
        for one in store.all()
        if all(hex_digest(layer.digest) in sealed for layer in (one.manifest.config, *one.manifest.layers))
    )
