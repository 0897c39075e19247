"""Removes models from this node's disk: one that an admin names, or those unused for longest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from bridge_agent.models.blob_files import PARTIAL
from bridge_agent.models.claim_rules import in_order
from bridge_agent.models.peer_client import PeerClient, PeerFault
from bridge_agent.models.piece_rules import ALL
from bridge_agent.models.removal_rules import Held, evicted, excess, refusal
from bridge_agent.routing.view import MeshView
from bridge_core.errors import BridgeError, Reaction
from bridge_core.model_store.layout import ModelStore, Stored, hex_digest
from bridge_core.names import ModelName, canonical_or_same

log = structlog.get_logger()

_MOST_USED: Final = 4096
_ROUNDS: Final = 4  # of choosing again where another node no longer has its copy


class NoRoom(BridgeError):
    """The disk budget has no room for more, and nothing may be removed for it."""

    reaction = Reaction.REFUSE


class Removals:
    """See the module.

    Args:
        root: The models folder.
        store: Gives the store in it; asked on the loop.
        view: Says who has what.
        peers: Asks other nodes whether they do.
        budget: Bytes that the models may take; None: as many as there are.
        running: How many requests for a model, by its canonical name, run here.
        changed: Called when the store has another model.
        now: Unix seconds.
    """

    def __init__(
        self,
        root: Path,
        store: Callable[[], ModelStore],
        view: MeshView,
        peers: PeerClient,
        *,
        budget: int | None,
        running: Callable[[str], int],
        changed: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._store = store
        self._view = view
        self._peers = peers
        self._budget = budget
        self._running = running
        self._changed = changed
        self._now = now
        self._used: dict[str, float] = {}
        self._turn = asyncio.Lock()

    def asked(self, model: str) -> None:
        """A request for the model of this canonical name was served here."""
        self._used.pop(model, None)
        if len(self._used) >= _MOST_USED:
            del self._used[next(iter(self._used))]
        self._used[model] = self._now()

    async def find(self, name: ModelName) -> Held | None:
        """A model of this disk as the rules see it; None where there is none.

        Raises:
            ApiError: the store cannot be read.
        """
        store = self._store()
        found = await asyncio.to_thread(store.find, name)
        if found is None:
            return None
        freed = _freed(await asyncio.to_thread(store.all))
        return self._held(found, freed.get(found.name, 0))

    async def remove(self, name: ModelName, *, by: str) -> None:
        """Removes a model with what no other one needs, on whoever's word. Raises ApiError."""
        store = self._store()
        found = await asyncio.to_thread(store.find, name)
        if found is not None:
            await asyncio.to_thread(store.delete, found)
            self._changed()
            log.info("model_removed", model=found.name.short(), by=by)

    async def make_room(self, incoming: int, keep: ModelName | None = None) -> None:
        """Sees to it that the budget has room for so many bytes more; `keep` is not removed for them.

        Raises:
            NoRoom: it has none, and what may be removed is not enough.
            ApiError: the store cannot be read or written.
        """
        if self._budget is None:
            return
        async with self._turn:
            gone_elsewhere: set[str] = set()
            for _ in range(_ROUNDS):
                needed = excess(await asyncio.to_thread(_taken, self._root), incoming, self._budget)
                if not needed:
                    return
                chosen = evicted(await self._removable(keep, gone_elsewhere), needed)
                if not chosen:
                    break
                for one in chosen:
                    # To ask takes its time, in which somebody may have asked for it.
                    if await self._is_elsewhere(one.name) and await self._may_go(one.name):
                        await self.remove(ModelName.parse(one.name), by="the disk budget")
                    else:
                        gone_elsewhere.add(one.name)
        raise NoRoom(
            f"the models may take {self._budget} bytes here (disk_budget), and {incoming} more do not fit",
            hint="every other model is in memory, at work, or this node's to keep: `bridgectl models rm`",
        )

    async def _may_go(self, name: str) -> bool:
        held = await self.find(ModelName.parse(name))
        return held is not None and not refusal(held)

    async def _removable(self, keep: ModelName | None, not_these: set[str]) -> list[Held]:
        store = self._store()
        kept = "" if keep is None else str(keep).lower()
        found = []
        models = await asyncio.to_thread(store.all)
        freed = _freed(models)
        for one in models:
            name = str(one.name).lower()
            if name != kept and name not in not_these and not self._is_ours_to_keep(one):
                found.append(self._held(one, freed[one.name]))
        return found

    def _is_ours_to_keep(self, model: Stored) -> bool:
        """Whether this node is the one that removes its copy last (rule 4)."""
        index = self._view.index
        return in_order(model.digest, {index.node, *self._others(model)})[0] == index.node

    def _others(self, model: Stored) -> set[str]:
        """Other nodes that have these weights by this name, and stay."""
        return {
            copy.node
            for copy in self._view.index.copies(str(model.name).lower()).values()
            if not copy.own and not copy.leaving and copy.model.digest.removeprefix("sha256:") == model.digest
        }

    def _held(self, model: Stored, size: int) -> Held:
        name, index = str(model.name).lower(), self._view.index
        loaded = any(
            name in map(canonical_or_same, target.loaded) or target.load_of(name) is not None
            for target in index.local
        )
        used = self._used.get(name, model.modified_ns / 1e9)
        return Held(name, size, len(self._others(model)), loaded, self._running(name), used)

    async def _is_elsewhere(self, name: str) -> bool:
        """Whether a node that keeps its copy for longer says at this moment that it has all of a model.

        Lists may be old, and differ: two nodes that took each other's word would both remove theirs.
        """
        found = await asyncio.to_thread(self._store().find, ModelName.parse(name))
        if found is None:
            return False
        own = self._view.index.node
        order = in_order(found.digest, {own, *self._others(found)})
        for node in order[: order.index(own)]:
            try:
                for layer in (*found.manifest.layers, found.manifest.config):
                    said = await self._peers.have(node, hex_digest(layer.digest))
                    if said.have != ALL or said.size != layer.size:
                        break
                else:
                    return True
            except PeerFault:
                continue
        return False


def _taken(root: Path) -> int:
    """Bytes that blobs take, and that those on their way will; blocks."""
    total = 0
    for folder in ("blobs", PARTIAL):
        with contextlib.suppress(OSError), os.scandir(root / folder) as entries:
            for one in entries:
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile: the others are there
                    total += one.stat(follow_symlinks=False).st_size
    return total


def _freed(models: Sequence[Stored]) -> dict[ModelName, int]:
    """Bytes of the blobs that each of all models alone has."""
    blobs = {
        one.name: {
            hex_digest(layer.digest): layer.size for layer in (one.manifest.config, *one.manifest.layers)
        }
        for one in models
    }
    users = Counter(hex_ for own in blobs.values() for hex_ in own)
    return {name: sum(own[hex_] for hex_ in own if users[hex_] == 1) for name, own in blobs.items()}
