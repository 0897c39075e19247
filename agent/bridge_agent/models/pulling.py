"""Pulls of models: one for each name, however many ask, in the records that Ollama's own pull has.

Rules:
1. The manifest is the origin's where the origin answers: a pull brings what is newest there. Where it does
   not, or does not know the model, it is the one that the mesh means by the name (`model_digests`), and it
   counts only with the digest by which nodes list it. Where neither has it, it is the one in the shared
   storage, unless nodes list another digest by the name: that one counts, wherever it may be had.
2. Blobs come as `fetcher` gets them: from nodes first, then from the shared storage, then from the origin.
3. The manifest is written last, as the bytes that came, when every blob of it is there.
4. Where its name has to be signed (`signing.gate`), signatures come first, and nothing else of a model
   without a good one. If it is the origin's that has none, the one here, or the mesh's, may have: then it is
   that, and the records say so.
5. Who asks for a name that is being pulled follows that pull. When nobody follows any more, it ends, and
   what came stays for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from bridge_agent.models.blob_files import PARTIAL
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.fetcher import BlobFetcher
from bridge_agent.models.manifest_finding import Holders, holders, manifest_from
from bridge_agent.models.manifest_rules import BadManifest, blobs_of, read_manifest
from bridge_agent.models.origin import OriginFault, OriginPort
from bridge_agent.models.peer_client import PeerClient
from bridge_agent.models.shared.tier import SharedTier
from bridge_agent.models.shared.tiered_origin import TieredOrigin
from bridge_agent.models.store_reads import manifest_bytes
from bridge_agent.models.store_writes import list_model
from bridge_agent.routing.view import MeshView
from bridge_agent.signing.judging_rules import NotSigned
from bridge_core.decoding import Undecodable
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.model_signing.content import MOST_BUNDLE, MOST_SIGNATURES, signatures_of
from bridge_core.model_store.layout import Layer, Manifest, ModelStore, hex_digest
from bridge_core.names import ModelName

log = structlog.get_logger()

Record: TypeAlias = dict[str, Any]
MakeOrigin: TypeAlias = Callable[[ModelName, bool], OriginPort]
MakeRoom: TypeAlias = Callable[[int, ModelName], Awaitable[None]]
CheckSigned: TypeAlias = Callable[[ModelName, bytes], Awaitable[None]]

_ROUNDS: Final = 3  # of fetching again what somebody removed meanwhile
_TAKEN: Final = "its blobs are removed as fast as they come: is a model deleted here that shares them?"
_ORIGIN_S: Final = 10.0  # that an origin may take for a manifest which a node has, too
_ALONE_S: Final = 40.0
_FOLLOW_S: Final = 1.0
_MOST_LIKELY: Final = 64
_ASKING: Final = 32  # registries asked at once for a manifest


class WantsLogin(BridgeError):
    """The origin wants to know who asks, and no node has the model: an engine with an account may get it."""


class _Found(msgspec.Struct, frozen=True):
    """A manifest: its bytes, what they say, where its blobs are besides nodes, and if it is its origin's."""

    data: bytes
    manifest: Manifest
    source: OriginPort | None
    outside: bool


class _Pull:
    """One pull under way.

    Attributes:
        ready: Its manifest is there, or will not come.
        fault: Why it failed.
        done: It is over.
        followers: How many follow it.
    """

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.fault: BridgeError | None = None
        self.done = False
        self.followers = 0
        self.task: asyncio.Task[Any] | None = None
        self._records: dict[str, tuple[int, Record]] = {}
        self._sequence = 0
        self._news = asyncio.Event()

    def say(self, key: str, **record: Any) -> None:
        """A record; one with a key that was said before takes its place."""
        self._sequence += 1
        self._records[key] = (self._sequence, record)
        self.pulse()

    def pulse(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def follow(self) -> AsyncIterator[Record]:
        """Its records, as far as they are known, then each that is new."""
        seen = 0
        while True:
            news = self._news
            fresh = sorted(one for one in self._records.values() if one[0] > seen)
            seen = self._sequence
            for _, record in fresh:
                yield record
            if self.done and seen == self._sequence:
                return
            await news.wait()


class ModelPulls:
    """Pulls models into one store.

    Args:
        blobs: Those of the models folder.
        store: Gives the store in it; asked on the loop.
        view: The mesh.
        peers: Asks other nodes.
        fetcher: Gets blobs.
        origin: Makes the origin of a name; the flag says that it may be asked without TLS.
        group: Where pulls run.
        changed: Called when the store has another model.
        room: Makes room for so many bytes more, of this model, or raises BridgeError.
        check: Returns when a manifest may be listed by a name, or raises NotSigned.
        shared: The shared storage; None: there is none.
    """

    def __init__(
        self,
        blobs: Blobs,
        store: Callable[[], ModelStore],
        view: MeshView,
        *,
        peers: PeerClient,
        fetcher: BlobFetcher,
        origin: MakeOrigin,
        group: asyncio.TaskGroup,
        changed: Callable[[], None],
        room: MakeRoom,
        check: CheckSigned,
        shared: SharedTier | None = None,
    ) -> None:
        self._check = check
        self._blobs = blobs
        self._store = store
        self._view = view
        self._room = room
        self._peers = peers
        self._fetcher = fetcher
        self._origin = origin
        self._group = group
        self._changed = changed
        self._shared = shared
        self._pulls: dict[str, _Pull] = {}
        # Not the agent's own threads: registries that say nothing would take them all.
        self._asking = ThreadPoolExecutor(_ASKING, "manifests")

    @property
    def under_way(self) -> int:
        """How many pulls run."""
        return len(self._pulls)

    async def records(self, name: ModelName, *, insecure: bool = False) -> AsyncGenerator[Record, None]:
        """Pulls a model; the last record is `success`.

        Raises:
            WantsLogin: before the first record; nothing was done.
            BridgeError: it cannot come. What arrived of a blob stays for the next try.
        """
        key = str(name).lower()
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = _Pull()
            pull.task = self._group.create_task(self._run(pull, key, name, insecure), name=f"pull-{key}")
        pull.followers += 1
        try:
            await pull.ready.wait()
            if isinstance(pull.fault, WantsLogin):
                raise pull.fault
            async for record in pull.follow():
                yield record
            if pull.fault is not None:
                raise pull.fault
        finally:
            pull.followers -= 1
            if not pull.followers and not pull.done and pull.task is not None:
                self._pulls.pop(key, None)  # who comes now begins anew
                pull.task.cancel()

    async def _run(self, pull: _Pull, key: str, name: ModelName, insecure: bool) -> None:
        try:
            await self._pull(pull, name, insecure)
        except BridgeError as fault:
            pull.fault = fault
            log.warning("pull_failed", model=name.short(), reason=str(fault))
        except BaseException:
            pull.fault = BridgeError(f"the pull of {name.short()} was ended")
            raise
        finally:
            pull.done = True
            if self._pulls.get(key) is pull:
                del self._pulls[key]
            pull.ready.set()
            pull.pulse()

    async def _pull(self, pull: _Pull, name: ModelName, insecure: bool) -> None:
        pull.say("manifest", status="pulling manifest")
        origin = self._origin(name, insecure)
        found = await self._manifest(name, origin)
        pull.ready.set()
        likely = self._likely(name)
        found = await self._acceptable(pull, name, found, likely)
        data, manifest = found.data, found.manifest
        await self._room(await asyncio.to_thread(self._incoming, manifest), name)
        for _ in range(_ROUNDS):
            for layer in blobs_of(manifest):
                await self._blob(pull, layer, found.source, likely)
            pull.say("verifying", status="verifying sha256 digest")
            pull.say("writing", status="writing manifest")
            if await asyncio.to_thread(list_model, self._blobs, self._store(), name, data, manifest):
                break
        else:
            raise ApiError(500, f"{name.short()} is not whole: {_TAKEN}", late=True)
        self._changed()
        log.info("pulled", model=name.short(), digest=hashlib.sha256(data).hexdigest()[:12])
        pull.say("success", status="success")

    async def _acceptable(
        self, pull: _Pull, name: ModelName, found: _Found, likely: tuple[str, ...]
    ) -> _Found:
        """What may be listed by this name: as it was found, else as the mesh has it (rule 4).

        Raises:
            NotSigned: neither may be.
        """
        try:
            await self._judge(pull, name, found, likely)
        except NotSigned as fault:
            if not found.outside:
                raise
            own = await self._signed_here(pull, name, likely)
            if own is None:
                raise
            log.info("pulled_as_it_is_here", model=name.short(), reason=fault.message)
            pull.say("signed", status="not signed at its registry: taken as the mesh has it")
            return own
        return found

    async def _signed_here(self, pull: _Pull, name: ModelName, likely: tuple[str, ...]) -> _Found | None:
        """The model as it is here, or as the mesh has it, where that is signed as it has to be."""
        known = holders(self._view, name)
        ways: tuple[Callable[[], Awaitable[bytes | None]], ...] = (
            lambda: asyncio.to_thread(manifest_bytes, self._store(), name),
            lambda: manifest_from(self._peers, name, known),
            lambda: self._in_shared(name, known),
        )
        for way in ways:  # none is asked for what one before it has
            if (data := await way()) is not None:
                found = self._found(name, data)
                with contextlib.suppress(NotSigned):
                    await self._judge(pull, name, found, likely)
                    return found
        return None

    def _found(self, name: ModelName, data: bytes, origin: OriginPort | None = None) -> _Found:
        """A manifest of the origin's, where one is given, or of the mesh's."""
        source = origin if self._shared is None else TieredOrigin(self._shared, origin)
        return _Found(data, self._read(name, data), source, origin is not None)

    async def _judge(self, pull: _Pull, name: ModelName, found: _Found, likely: tuple[str, ...]) -> None:
        for layer in signatures_of(found.manifest)[:MOST_SIGNATURES]:
            if layer.size <= MOST_BUNDLE:
                await self._blob(pull, layer, found.source, likely)
        await self._check(name, found.data)

    async def _blob(
        self, pull: _Pull, layer: Layer, origin: OriginPort | None, likely: tuple[str, ...]
    ) -> None:
        hex_ = hex_digest(layer.digest)
        about = {"status": f"pulling {hex_[:12]}", "digest": layer.digest, "total": layer.size}

        def report(completed: int) -> None:
            if completed != reported[0]:
                reported[0] = completed
                pull.say(layer.digest, **about, completed=completed)

        reported = [0]
        pull.say(layer.digest, **about)
        if await asyncio.to_thread(self._blobs.size, hex_) != layer.size:
            await self._fetcher.fetch(layer, origin, likely, report)
        report(layer.size)

    async def _manifest(self, name: ModelName, origin: OriginPort) -> _Found:
        known = holders(self._view, name)
        # Asked beside the origin: a shared storage that hangs delays no pull that does not need it.
        shared = asyncio.create_task(self._in_shared(name, known))
        try:
            return await self._of_origin_or(name, origin, known, shared)
        finally:
            shared.cancel()
            await asyncio.wait([shared])
            if not shared.cancelled():
                shared.exception()  # seen: where it mattered it was raised

    async def _of_origin_or(
        self, name: ModelName, origin: OriginPort, known: Holders, shared: asyncio.Task[bytes | None]
    ) -> _Found:
        """The origin's manifest; where it gives none, a node's, else the shared storage's."""
        try:
            data = await self._answered(origin, shared, ask_long=not known.nodes)
            return self._found(name, data, origin)
        except OriginFault as fault:
            given = await manifest_from(self._peers, name, known)
            if given is None:
                given = await shared
            if given is not None:
                return self._found(name, given)
            if fault.login:
                raise WantsLogin(f"pull model manifest: {fault.message}") from fault
            away = "" if self._shared is None else self._shared.said().fault
            beside = f"; the shared storage is away: {away}" if away else ""
            raise ApiError(500, f"pull model manifest: {_plain(fault)}{beside}", late=True) from fault

    async def _answered(
        self, origin: OriginPort, shared: asyncio.Task[bytes | None], *, ask_long: bool
    ) -> bytes:
        """What the origin says; it may take long where nobody else has the manifest. Raises OriginFault."""
        asking = asyncio.create_task(self._outside(origin, _ALONE_S if ask_long else _ORIGIN_S))
        asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, whoever waits
        try:
            await asyncio.wait([asking], timeout=_ORIGIN_S)
            if not asking.done() and not shared.done():
                await asyncio.wait([asking, shared], return_when=asyncio.FIRST_COMPLETED)
            held = shared.done() and not shared.exception() and shared.result() is not None
            if not asking.done() and held:
                raise OriginFault(f"the registry did not answer within {_ORIGIN_S:g} s")
            return await asking
        finally:
            asking.cancel()

    async def _in_shared(self, name: ModelName, known: Holders) -> bytes | None:
        """The manifest in the shared storage, where it is the one that is meant (rule 1)."""
        if self._shared is None:
            return None
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._asking, self._shared.manifest, name)
        if data is None or not known.digest or hashlib.sha256(data).hexdigest() == known.digest:
            return data
        log.warning("shared_manifest_not_meant", model=name.short(), digest=known.digest[:12])
        return None

    async def _outside(self, origin: OriginPort, within_s: float) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within_s):
                return await loop.run_in_executor(self._asking, origin.manifest)
        except TimeoutError:
            raise OriginFault(f"the registry did not answer within {within_s:g} s") from None

    @staticmethod
    def _read(name: ModelName, data: bytes) -> Manifest:
        try:
            return read_manifest(data)
        except (Undecodable, BadManifest) as fault:
            raise ApiError(
                500, f"pull model manifest: {name.short()} is refused: {fault.message}", late=True
            ) from fault

    def _likely(self, name: ModelName) -> tuple[str, ...]:
        """Nodes that have a model of this name, whatever its digest: layers outlive versions."""
        copies = self._view.index.copies(str(name).lower()).values()
        return tuple(dict.fromkeys(copy.node for copy in copies))[:_MOST_LIKELY]

    def _incoming(self, manifest: Manifest) -> int:
        """Bytes of the blobs that are neither here nor on their way."""
        wanted = {hex_digest(one.digest): one.size for one in blobs_of(manifest)}
        there = (hex_ for hex_, size in wanted.items() if self._blobs.size(hex_) == size)
        begun = (hex_ for hex_ in wanted if (self._blobs.root / PARTIAL / hex_).exists())
        return sum(size for hex_, size in wanted.items() if hex_ not in {*there, *begun})


def _plain(fault: OriginFault) -> str:
    """What went wrong, in the words that Ollama has for a model that is not there."""
    return "file does not exist" if fault.message.endswith("file does not exist") else fault.message
