"""Removes a model from the shared storage: under the registry's lease, while nobody else writes there.

Rules:
1. The lease is one for the whole tier: a publisher that finds a blob there, and does not write it again, has
   to be done before it goes, or to begin afterwards.
2. The manifests go first, then the blobs that no other manifest names (`unpublish_rules`), each while the
   lease is good.
3. A publisher that lost its lease in between looks for its blobs after it listed its model, and says so where
   one is gone (`publishing`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import structlog

from bridge_agent.models.shared.hold import PublishRegistry, held
from bridge_agent.models.shared.storage import PublishFault, still_held
from bridge_agent.models.shared.tier import SharedTier
from bridge_agent.models.shared.unpublish_rules import Going, found, going
from bridge_core.names import ModelName

log = structlog.get_logger()

T = TypeVar("T")

_AT_ONCE: Final = 1


class Unpublishing:
    """Removes.

    Args:
        tier: From where.
        registries: Give leases.
        node: This node's name.
    """

    def __init__(
        self, tier: SharedTier, registries: Sequence[PublishRegistry], node: Callable[[], str]
    ) -> None:
        self._tier = tier
        self._registries = registries  # they change
        self._node = node
        self._writer = tier.writer()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "unpublish")

    async def records(self, name: ModelName, *, dry_run: bool) -> AsyncGenerator[dict[str, Any], None]:
        """Removes a model; a record for each thing that goes or stays, the last one is `success`.

        Args:
            name: The model's.
            dry_run: Only says what would go.

        Raises:
            BridgeError: it stays, or goes in part: another writer is at work there (the message names its
                node), the storage refuses, or the model is not there.
        """
        self._tier.may_write()
        if dry_run:
            for record in _said(await self._run(self._look, name), "would remove"):
                yield record
            yield {"status": "success"}
            return
        tier = await self._run(self._writer.identity)
        async with held(self._registries, tier, str(name).lower(), alone=True) as hold:
            mark = f"{hold.token} {self._node()} {secrets.token_hex(8)}"
            await self._run(self._writer.tidy)
            goes = await self._run(self._look, name)
            await self._run(self._writer.claim, name, mark, hold.valid)
            for place in goes.places:
                await self._run(self._writer.unlist, name, place, mark, hold.valid)
            for record in _said(goes, "removing"):
                yield record
            for hex_ in goes.blobs:
                still_held(name, hold.valid)
                await self._run(self._writer.remove_blob, hex_)
        await self._run(self._tier.look)
        log.info("model_unpublished", model=name.short(), path=self._tier.where, blobs=len(goes.blobs))
        yield {"status": "success"}

    def _look(self, name: ModelName) -> Going:
        goes = going(name, [found(one.place, one.name, data) for one, data in self._tier.manifests()])
        if not goes.places:
            raise PublishFault(
                f"the shared storage {self._tier.where} has no model {name.short()}",
                hint="`bridgectl models shared` lists what lies there",
            )
        return goes

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _said(goes: Going, doing: str) -> list[dict[str, Any]]:
    return [
        *({"status": f"{doing} manifest {place}"} for place in goes.places),
        *({"status": f"{doing} blob {hex_[:12]}", "bytes": size} for hex_, size in goes.blobs.items()),
        *({"status": f"keeping blob {hex_[:12]}: {why}"} for hex_, why in goes.kept.items()),
    ]
