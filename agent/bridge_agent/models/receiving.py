"""What is pushed to this node: uploads of blobs (`upload_rules`), and manifests that make models of them."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog

from bridge_agent.models.blobs import Blobs
from bridge_agent.models.manifest_rules import BadManifest, blobs_of, read_manifest
from bridge_agent.models.piece_rules import MOST_BYTES
from bridge_agent.models.store_writes import list_model
from bridge_agent.models.upload_files import UploadFile, forget
from bridge_agent.models.upload_rules import Span, Upload, UploadRefused, Uploads
from bridge_agent.signing.judging_rules import NotSigned
from bridge_core.decoding import Undecodable
from bridge_core.errors import BridgeError
from bridge_core.model_store.layout import Layer, ModelStore, hex_digest
from bridge_core.names import ModelName

log = structlog.get_logger()

_WRITE: Final = 1 << 20


class Receiver:
    """See the module. Its methods belong to the event loop.

    Args:
        blobs: Those of the models folder.
        store: Gives the store in it; asked on the loop.
        reserve: Bytes of the disk that stay free.
        room: Makes room for so many bytes more, or raises BridgeError.
        changed: Called when the store has another model.
        check: Returns when a manifest may be listed by a name, or raises NotSigned.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        blobs: Blobs,
        store: Callable[[], ModelStore],
        *,
        reserve: int,
        room: Callable[[int], Awaitable[None]],
        changed: Callable[[], None],
        check: Callable[[ModelName, bytes], Awaitable[None]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs = blobs
        self._store = store
        self._reserve = reserve
        self._room = room
        self._changed = changed
        self._check = check
        self._now = now
        self._uploads = Uploads()

    async def begin(self, repository: str, caller: str) -> Upload:
        """A new upload. Raises UploadRefused."""
        await self.tidy()
        return self._uploads.begin(secrets.token_hex(16), repository, caller, self._now())

    def find(self, id_: str, repository: str, caller: str) -> Upload:
        """The upload of this name. Raises UploadRefused."""
        return self._uploads.find(id_, repository, caller, self._now())

    def _file(self, upload: Upload) -> UploadFile:
        return UploadFile(self._blobs.root, upload.id, self._blobs.sealing)

    async def take(self, upload: Upload, span: Span, parts: AsyncIterator[bytes]) -> None:
        """Adds the bytes that come; what came stays where they break off.

        Raises:
            UploadRefused: they are more, or fewer, than was said, or than are taken.
            BridgeError: the disk has no room for them, or refuses; they break off.
        """
        upload.busy = True
        file = self._file(upload)
        # One thread, so that the file is closed after the last write, whoever left meanwhile.
        thread = ThreadPoolExecutor(1, f"upload-{upload.id[:8]}")
        run = partial(asyncio.get_running_loop().run_in_executor, thread)
        try:
            await self._room(span.length or 0)
            await run(file.open)
            await run(file.begin_at, span.begin)
            upload.size = span.begin
            await self._write(lambda data: run(file.write, data, self._reserve), upload, span, parts)
        finally:
            await asyncio.shield(run(file.close))
            thread.shutdown(wait=False)
            upload.busy = False
            upload.touched = self._now()

    async def _write(
        self,
        put: Callable[[bytes], Awaitable[None]],
        upload: Upload,
        span: Span,
        parts: AsyncIterator[bytes],
    ) -> None:
        end = MOST_BYTES if span.length is None else span.begin + span.length
        held = bytearray()

        async def write() -> None:
            data = bytes(held)
            held.clear()
            if span.length is None:
                await self._room(len(data))
            await put(data)
            upload.size += len(data)

        try:
            async for part in parts:
                if upload.size + len(held) + len(part) > end:
                    message = f"it has more bytes than the {end} that it may have"
                    raise UploadRefused(413, "SIZE_INVALID", message)
                held += part
                if len(held) >= _WRITE:
                    await write()
        finally:
            if held:
                await write()
        if span.length is not None and upload.size != end:
            raise UploadRefused(400, "SIZE_INVALID", f"{end - upload.size} bytes of the part are missing")

    async def finish(self, upload: Upload, hex_: str) -> None:
        """Makes it the blob of this digest; it is over in any case.

        Raises:
            UploadRefused: its bytes have another digest.
            BlobFault: the disk refuses.
        """
        upload.busy = True
        left = threading.Event()

        def commit() -> bool:
            file = self._file(upload)
            try:
                file.open()
                return file.commit(hex_, left.is_set)
            finally:
                file.close()

        try:
            good = await asyncio.to_thread(commit)
        finally:
            left.set()
            self._uploads.ended(upload)
            await asyncio.shield(asyncio.to_thread(forget, self._blobs.root, upload.id))
        if not good:
            message = f"the {upload.size} bytes that came do not have the digest sha256:{hex_}"
            raise UploadRefused(400, "DIGEST_INVALID", message)
        self._uploads.proved(upload.caller, hex_, self._now())
        log.info("blob_pushed", blob=hex_[:12], bytes=upload.size, by=upload.caller)

    async def cancel(self, upload: Upload) -> None:
        """It will not be finished. Raises BlobFault."""
        self._uploads.ended(upload)
        await asyncio.to_thread(forget, self._blobs.root, upload.id)

    async def proven(self, caller: str, hex_: str) -> int | None:
        """The size of a blob that is here and that this caller has shown to have; None: it is not so."""
        if not self._uploads.has_proved(caller, hex_, self._now()):
            return None
        return await asyncio.to_thread(self._blobs.size, hex_)

    async def prove(self, caller: str, hex_: str) -> bool:
        """The caller may have this blob, whoever put it here; False: it is not here."""
        if await asyncio.to_thread(self._blobs.size, hex_) is None:
            return False
        self._uploads.proved(caller, hex_, self._now())
        return True

    async def put(
        self, name: ModelName, data: bytes, caller: str, may: Callable[[Layer], Awaitable[bool]]
    ) -> str:
        """Makes a model of a manifest whose blobs are here; returns its digest.

        Args:
            name: The model's.
            data: The manifest, kept as it is.
            caller: Who brings it.
            may: Whether the caller may have a blob that they did not bring.

        Raises:
            UploadRefused: it is no manifest that is taken, names blobs that are not here for this caller, or
                lacks the signature that its name needs.
            BridgeError: the disk refuses.
        """
        try:
            manifest = read_manifest(data)
        except (Undecodable, BadManifest) as fault:
            raise UploadRefused(400, "MANIFEST_INVALID", fault.message) from fault
        for layer in blobs_of(manifest):
            size = await asyncio.to_thread(self._blobs.size, hex_digest(layer.digest))
            there = size is not None and (
                self._uploads.has_proved(caller, hex_digest(layer.digest), self._now()) or await may(layer)
            )
            if not there:
                raise UploadRefused(400, "MANIFEST_BLOB_UNKNOWN", f"{layer.digest} was not pushed")
            if size != layer.size:
                message = f"{layer.digest} has {size} bytes and not {layer.size}"
                raise UploadRefused(400, "MANIFEST_INVALID", message)
        try:
            await self._check(name, data)
        except NotSigned as fault:
            raise UploadRefused(403, "DENIED", str(fault)) from fault
        if not await asyncio.to_thread(list_model, self._blobs, self._store(), name, data, manifest):
            raise UploadRefused(400, "MANIFEST_BLOB_UNKNOWN", "a blob was removed meanwhile: push it again")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._changed()
        log.info("model_pushed", model=name.short(), digest=digest[7:19], by=caller)
        return digest

    async def tidy(self) -> None:
        """Removes what came of uploads that nobody goes on with, and blobs that no manifest came for."""
        old, unclaimed = self._uploads.expire(self._now())
        try:
            for upload in old:
                await asyncio.to_thread(forget, self._blobs.root, upload.id)
            if unclaimed:
                digests = [f"sha256:{hex_}" for hex_ in unclaimed]
                await asyncio.to_thread(self._store().remove_unused, digests)
        except BridgeError as fault:
            log.warning("uploads_not_tidied", reason=str(fault))
