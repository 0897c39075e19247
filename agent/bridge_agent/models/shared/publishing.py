"""Publishes models of this node into the shared storage: under the registry's lease, blobs first."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from bridge_agent.models.blob_files import read_piece
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.manifest_rules import BadManifest, blobs_of, read_manifest
from bridge_agent.models.shared.hold import Hold, PublishRegistry, held
from bridge_agent.models.shared.storage import PublishFault
from bridge_agent.models.shared.tier import SharedTier, TierFault
from bridge_agent.models.store_reads import manifest_bytes
from bridge_core.decoding import Undecodable
from bridge_core.model_store.layout import Layer, Manifest, ModelStore, hex_digest
from bridge_core.names import ModelName

log = structlog.get_logger()

T = TypeVar("T")

_AT_ONCE: Final = 2
_LOOK_S: Final = 0.5


class Publishing:
    """Publishes.

    Args:
        tier: Where to.
        blobs: Those of the models folder.
        store: Gives the store in it; asked on the loop.
        registries: Give leases.
        node: This node's name.
    """

    def __init__(
        self,
        tier: SharedTier,
        blobs: Blobs,
        store: Callable[[], ModelStore],
        registries: Sequence[PublishRegistry],
        node: Callable[[], str],
    ) -> None:
        self._tier = tier
        self._blobs = blobs
        self._store = store
        self._registries = registries  # they change
        self._node = node
        self._writer = tier.writer()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "publish")
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def records(self, name: ModelName) -> AsyncGenerator[dict[str, Any], None]:
        """Publishes a model; records in the shape of a pull's, the last one is `success`.

        It ends when nobody reads on; the blobs that were written whole stay.

        Raises:
            BridgeError: it is not published: the storage refuses, another writer has the lease (the message
                names its node), or what this node has is not whole.
        """
        self._tier.may_write()
        yield {"status": "reading manifest"}
        found, data, manifest = await asyncio.to_thread(self._read, self._store(), name)
        async with self._turn:
            tier = await self._run(self._writer.identity)
            async with held(self._registries, tier, str(found).lower()) as hold:
                mark = f"{hold.token} {self._node()} {secrets.token_hex(8)}"
                await self._run(self._writer.tidy)
                await self._run(self._writer.claim, found, mark, hold.valid)
                for layer in blobs_of(manifest):
                    async with contextlib.aclosing(self._blob(layer, hold)) as progress:
                        async for record in progress:
                            yield record
                yield {"status": "writing manifest"}
                await self._run(self._writer.list_model, found, data, mark, hold.valid)
        self._tier.answers()
        await self._run(self._check, found, manifest)
        await self._run(self._tier.look)
        log.info("model_published", model=found.short(), path=self._tier.where, token=hold.token)
        yield {"status": "success"}

    def _check(self, name: ModelName, manifest: Manifest) -> None:
        """Raises PublishFault: a blob was removed by who did not know that it was in use again."""
        for layer in blobs_of(manifest):
            try:
                self._tier.open(hex_digest(layer.digest), layer.size).close()
            except TierFault as fault:
                raise PublishFault(
                    f"{name.short()} is listed, and lacks a blob: {fault.message}", hint="publish it again"
                ) from fault

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _read(self, store: ModelStore, name: ModelName) -> tuple[ModelName, bytes, Manifest]:
        stored = store.find(name)
        data = None if stored is None else manifest_bytes(store, stored.name)
        if stored is None or data is None:
            raise PublishFault(f"this node has no model {name.short()}", hint="pull it here first")
        try:
            manifest = read_manifest(data)
        except (Undecodable, BadManifest) as fault:
            raise PublishFault(f"{name.short()} is not published: {fault.message}") from fault
        for layer in blobs_of(manifest):
            hex_ = hex_digest(layer.digest)
            if self._blobs.size(hex_) != layer.size:
                raise PublishFault(
                    f"blob {hex_[:12]} of {name.short()} is not whole here", hint="pull it here again"
                )
            if self._blobs.sealed(hex_):
                raise PublishFault(
                    f"{name.short()} lies sealed here, and would lie in the shared storage in the clear",
                    hint="publish it from a node that seals nothing, if it may lie there in the clear",
                )
        return stored.name, data, manifest

    async def _blob(self, layer: Layer, hold: Hold) -> AsyncGenerator[dict[str, Any], None]:
        hex_ = hex_digest(layer.digest)
        about = {"status": f"writing {hex_[:12]}", "digest": layer.digest, "total": layer.size}
        left, through = threading.Event(), [0]

        def goes_on(completed: int) -> None:
            through[0] = completed
            if left.is_set():
                raise PublishFault("nobody waits for it any more")
            if not hold.valid():
                raise PublishFault(
                    f"the lease was lost: {hold.lost or 'the registry did not answer in time'}",
                    hint="publish it again: the blobs that were written whole are there",
                )

        yield about
        writing = asyncio.ensure_future(self._run(partial(self._copy, hex_, layer.size, goes_on)))
        try:
            said = 0
            while not writing.done():
                await asyncio.wait([writing], timeout=_LOOK_S)
                if through[0] != said:
                    said = through[0]
                    yield {**about, "completed": said}
            await writing
            yield {**about, "completed": layer.size}
        finally:
            left.set()
            await asyncio.gather(writing, return_exceptions=True)

    def _copy(self, hex_: str, size: int, goes_on: Callable[[int], None]) -> None:
        found = self._blobs.open(hex_)
        if found is None:
            raise PublishFault(f"blob {hex_[:12]} was removed meanwhile", hint="pull the model here again")
        with found:
            self._writer.blob(hex_, size, partial(read_piece, found.read, size), goes_on=goes_on)
        self._tier.mended(hex_)
