"""What admins ask of the models on this node's disk: `bridge_core.model_answers` lists the pages."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from bridge_agent.models.admin_replies import MOST_ASKED, Recorded, admits, answer, error
from bridge_agent.models.blob_files import BlobFault, hash_all
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.pulling import ModelPulls
from bridge_agent.models.removal_rules import refusal
from bridge_agent.models.removing import Removals
from bridge_agent.models.shared.publishing import Publishing
from bridge_agent.models.shared.tier import SharedTier
from bridge_agent.models.shared.unpublishing import Unpublishing
from bridge_agent.models.store_reads import manifest_bytes
from bridge_agent.routing.view import MeshView
from bridge_agent.signing.judging_rules import Judged
from bridge_core import model_answers
from bridge_core.bounds import MAX_REASON
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.http1 import App, Exchange, coroutine_app
from bridge_core.model_answers import BlobChecked, ModelAsked, Removed, SharedSaid
from bridge_core.model_store.layout import Layer, ModelStore, Stored, hex_digest
from bridge_core.names import InvalidName, ModelName

log = structlog.get_logger()

_NO_SHARED: Final = "this node has no shared storage (models.shared in agent.json)"
_LINES: Final = ((b"content-type", b"application/x-ndjson"),)

_Page: TypeAlias = Callable[[Exchange, ModelAsked], Awaitable[None]]
SignedBy: TypeAlias = Callable[[ModelName, bytes], Awaitable[Judged | None]]


class AdminPages:
    """The pages.

    Args:
        blobs: Those of the models folder.
        store: Gives the store in it; asked on the loop.
        view: Says who the admins are, and who has what.
        pulls: Pulls models here.
        warm: Brings a model into the page cache.
        removals: Removes models.
        recorded: Puts what an admin did to a model on record, and since when.
        signed: What policies say of a model's signatures; None: none is about it.
        shared: The shared storage; None: there is none.
        publishing: Writes models there.
        unpublishing: Removes models there.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        blobs: Blobs,
        store: Callable[[], ModelStore],
        view: MeshView,
        pulls: ModelPulls,
        *,
        warm: Callable[[ModelName], AsyncGenerator[dict[str, Any], None]],
        removals: Removals,
        recorded: Recorded,
        signed: SignedBy,
        shared: SharedTier | None = None,
        publishing: Publishing | None = None,
        unpublishing: Unpublishing | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs = blobs
        self._store = store
        self._view = view
        self._pulls = pulls
        self._warming = warm
        self._removals = removals
        self._recorded = recorded
        self._signed = signed
        self._shared = shared
        self._publishing = publishing
        self._unpublishing = unpublishing
        self._now = now
        self._hashing = asyncio.Semaphore(1)

    def apps(self, group: asyncio.TaskGroup) -> dict[str, App]:
        """The pages by path."""
        return {
            model_answers.PULL: coroutine_app(self._asked(self._pull, changes=True), group),
            model_answers.WARM: coroutine_app(self._asked(self._warm, changes=True), group),
            model_answers.RM: coroutine_app(self._asked(self._rm, changes=True), group),
            model_answers.PUBLISH: coroutine_app(self._asked(self._publish, changes=True), group),
            model_answers.UNPUBLISH: coroutine_app(self._asked(self._unpublish, changes=True), group),
            model_answers.SHARED: coroutine_app(self._asked(self._said, changes=False), group),
            model_answers.VERIFY: coroutine_app(self._asked(self._verify, changes=False), group),
        }

    def _asked(self, page: _Page, *, changes: bool) -> Callable[[Exchange], Awaitable[None]]:
        """A page that is told what is asked, by whom may ask it; else it was answered."""

        async def asks(exchange: Exchange) -> None:
            if not admits(exchange, self._view, changes=changes):
                return
            try:
                asked = decode_json(exchange.request.body, ModelAsked, most=MOST_ASKED)
            except Undecodable as fault:
                error(exchange, 400, fault.message)
                return
            began = self._now()
            try:
                await page(exchange, asked)
            finally:  # also when the admin left: what was done is done
                if changes:
                    self._recorded(exchange, asked.model, began)

        return asks

    async def _pull(self, exchange: Exchange, asked: ModelAsked) -> None:
        await self._tell(exchange, asked, lambda name: self._pulls.records(name, insecure=asked.insecure))

    async def _warm(self, exchange: Exchange, asked: ModelAsked) -> None:
        await self._tell(exchange, asked, self._warming)

    async def _publish(self, exchange: Exchange, asked: ModelAsked) -> None:
        if self._publishing is None:
            error(exchange, 400, _NO_SHARED)
            return
        await self._tell(exchange, asked, self._publishing.records)

    async def _unpublish(self, exchange: Exchange, asked: ModelAsked) -> None:
        if self._unpublishing is None:
            error(exchange, 400, _NO_SHARED)
            return
        remove = partial(self._unpublishing.records, dry_run=asked.dry_run)
        await self._tell(exchange, asked, remove)

    async def _said(self, exchange: Exchange, _: ModelAsked) -> None:
        said = SharedSaid() if self._shared is None else self._shared.said()
        answer(exchange, said)

    async def _tell(
        self,
        exchange: Exchange,
        asked: ModelAsked,
        work: Callable[[ModelName], AsyncGenerator[dict[str, Any], None]],
    ) -> None:
        """Has something done with a model, and answers with its records as they come."""
        try:
            async with contextlib.aclosing(work(ModelName.parse(asked.model))) as records:
                async for record in records:
                    if not exchange.started:
                        exchange.start(200, _LINES)
                    exchange.write(msgspec.json.encode(record) + b"\n")
                    await exchange.drain()
        except BridgeError as fault:  # an InvalidName is one
            if not exchange.started:
                error(exchange, 400, str(fault))
                return
            exchange.write(msgspec.json.encode({"error": str(fault)}) + b"\n")
        exchange.finish()

    async def _rm(self, exchange: Exchange, asked: ModelAsked) -> None:
        try:
            name = ModelName.parse(asked.model)
            held = await self._removals.find(name)
            if held is None:
                error(exchange, 404, f"this node has no model {asked.model!r}")
                return
            if why := refusal(held, last_copy=asked.last_copy):
                answer(exchange, Removed(refused=why))
                return
            await self._removals.remove(name, by=str(exchange.request.identity))
        except (ApiError, InvalidName) as fault:
            error(exchange, 500, fault.message)
            return
        answer(exchange, Removed(held.size))

    async def _verify(self, exchange: Exchange, asked: ModelAsked) -> None:
        """Reads every blob and says of each whether it is what its name says."""
        try:
            wanted = str(ModelName.parse(asked.model)).lower() if asked.model else ""
        except InvalidName as fault:
            error(exchange, 400, fault.message)
            return
        models = await asyncio.to_thread(self._store().all)
        exchange.start(200, _LINES)
        seen = dict[str, BlobChecked]()
        for model in models:
            if wanted and str(model.name).lower() != wanted:
                continue
            if (found := await self._signature(model)) is not None:
                exchange.write(msgspec.json.encode(found) + b"\n")
            for layer in (*model.manifest.layers, model.manifest.config):
                known = seen.get(layer.digest)
                if known is None:
                    async with self._hashing:  # each reads gigabytes
                        known = await asyncio.to_thread(
                            self._check, model.name.short(), layer, lambda: exchange.disconnected
                        )
                    seen[layer.digest] = known
                said = msgspec.structs.replace(known, model=model.name.short())
                exchange.write(msgspec.json.encode(said) + b"\n")
                await exchange.drain()
        exchange.finish()

    async def _signature(self, model: Stored) -> BlobChecked | None:
        """What is said of a model's manifest where it has to be signed; None: it has not."""
        data = await asyncio.to_thread(manifest_bytes, self._store(), model.name)
        if data is None:
            return None
        judged = await self._signed(model.name, data)
        if judged is None:
            return None
        fault = (judged.refused or judged.shadowed)[:MAX_REASON]
        by = ", ".join(judged.by)[:256]
        return BlobChecked(
            model.name.short(), f"sha256:{model.digest}", len(data), fault, of_manifest=True, signed=by
        )

    def _check(self, name: str, layer: Layer, stopped: Callable[[], bool]) -> BlobChecked:
        hex_, fault, sealed = hex_digest(layer.digest), "", False
        try:
            sealed = self._blobs.sealed(hex_)
            found = self._blobs.open(hex_)
            if found is None:
                fault = "it is not there"
            else:
                with found:
                    fault = found.header_fault()
                    if found.size != layer.size:
                        fault = f"it has {found.size} bytes and not {layer.size}"
                    elif hash_all(found.read, found.size, stopped)[0] != hex_:
                        fault = "its bytes have another digest"
        except BlobFault as unread:
            fault = unread.message[:200]
        return BlobChecked(name, layer.digest, layer.size, fault, sealed)
