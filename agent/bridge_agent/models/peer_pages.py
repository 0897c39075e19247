"""What this node answers other nodes about models; `wire` lists the pages.

Rules:
1. A node gets no more than `SERVED` pieces at a time altogether; who asks for more is told to come again.
2. Pieces go no faster than the pace of the node allows, which is slower while requests run here.
3. What is served is a blob of this store by its digest, or a manifest by a name: no path is ever given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import msgspec

from bridge_agent.models import wire
from bridge_agent.models.blob_files import BlobFault, hash_all
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.fetcher import BlobFetcher
from bridge_agent.models.finding import Finding
from bridge_agent.models.pace_rules import Pace
from bridge_agent.models.piece_rules import piece_count, write_have
from bridge_agent.models.store_reads import manifest_bytes, read_whole
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.http1 import App, Exchange, coroutine_app
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import InvalidName, ModelName

SERVED: Final = 16
_PART: Final = 256 << 10
_JSON: Final = ((b"content-type", b"application/json"),)
_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)


class PeerPages:
    """The pages.

    Args:
        blobs: Those of the models folder.
        store: Gives the store in it; asked on the loop.
        fetcher: What is on its way here is served as far as it has come.
        finding: Answers claims.
        pace: How fast pieces may go.
        busy: Whether requests run at this node.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        blobs: Blobs,
        store: Callable[[], ModelStore],
        fetcher: BlobFetcher,
        finding: Finding,
        *,
        pace: Pace,
        busy: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs = blobs
        self._store = store
        self._fetcher = fetcher
        self._finding = finding
        self._pace = pace
        self._busy = busy
        self._now = now
        self._serving = 0
        self._hashing = asyncio.Semaphore(1)
        self.sent = 0

    def apps(self, group: asyncio.TaskGroup) -> dict[str, App]:
        """The pages by path."""
        pages = {
            wire.HAVE: self._have,
            wire.PIECE: self._piece,
            wire.HASHES: self._hashes,
            wire.MANIFEST: self._manifest,
            wire.CLAIM: self._claim,
        }
        return {path: coroutine_app(page, group) for path, page in pages.items()}

    async def _have(self, exchange: Exchange) -> None:
        asked = _Asked(exchange)
        hex_ = asked.hex()
        wait_s, more = asked.number("wait", int(wire.LONGEST_WAIT_S)), asked.number("more", 1 << 14, -1)
        if hex_ is None or wait_s is None or more is None:
            exchange.respond(400, _TEXT, b"digest, more or wait is not one")
            return
        until = self._now() + wait_s
        while (live := self._fetcher.under_way.get(hex_)) is not None:
            left = until - self._now()
            if live.have > more or left <= 0:
                _json(exchange, wire.HaveAnswer(live.size, write_have(live.rules.have, live.count)))
                return
            await live.change(left)
        found = await asyncio.to_thread(self._blobs.size, hex_)
        if found is None:
            exchange.respond(404, _TEXT, b"this node does not have it")
            return
        count = piece_count(found)
        _json(exchange, wire.HaveAnswer(found, write_have((1 << count) - 1, count)))

    async def _piece(self, exchange: Exchange) -> None:
        asked = _Asked(exchange)
        hex_, piece = asked.hex(), asked.number("piece", 1 << 14)
        if hex_ is None or piece is None:
            exchange.respond(400, _TEXT, b"digest or piece is not one")
            return
        if self._serving >= SERVED:
            exchange.respond(503, [*_TEXT, (b"retry-after", b"1")], b"it serves as many pieces as it will")
            return
        self._serving += 1
        try:
            found = await self._read(hex_, piece)
            if found is None:
                exchange.respond(404, _TEXT, b"this node does not have that piece")
                return
            await self._send(exchange, *found)
        except BlobFault as fault:
            exchange.respond(500, _TEXT, fault.message.encode())
        finally:
            self._serving -= 1

    async def _read(self, hex_: str, piece: int) -> tuple[bytes, str] | None:
        """A piece and its hash; None: it is not here."""
        live = self._fetcher.under_way.get(hex_)
        if live is not None:
            partial = live.partial
            if partial is None or piece not in partial.hashes:
                return None
            hash_ = partial.hashes[piece]
            return await live.on_disk(partial.read, piece), hash_
        return await asyncio.to_thread(read_whole, self._blobs, hex_, piece)

    async def _send(self, exchange: Exchange, data: bytes, hash_: str) -> None:
        kind = (b"content-type", b"application/octet-stream")
        exchange.start(200, [kind, (wire.PIECE_HASH, hash_.encode())], len(data))
        view = memoryview(data)
        while view:
            pause = self._pace.pause(min(_PART, len(view)), self._now(), busy=self._busy())
            if pause:
                await asyncio.sleep(pause)
            exchange.write(bytes(view[:_PART]))
            self.sent += min(_PART, len(view))
            view = view[_PART:]
            await exchange.drain()
        exchange.finish()

    async def _hashes(self, exchange: Exchange) -> None:
        hex_ = _Asked(exchange).hex()
        if hex_ is None:
            exchange.respond(400, _TEXT, b"digest is none")
            return
        async with self._hashing:  # it reads the whole blob: one at a time
            try:
                answer = await asyncio.to_thread(self._hash, hex_, lambda: exchange.disconnected)
            except BlobFault as fault:
                exchange.respond(500, _TEXT, fault.message.encode())
                return
        if answer is None:
            exchange.respond(404, _TEXT, b"this node does not have it")
        else:
            _json(exchange, answer)

    def _hash(self, hex_: str, stopped: Callable[[], bool]) -> wire.HashesAnswer | None:
        found = self._blobs.open(hex_)
        if found is None:
            return None
        with found:
            whole, pieces = hash_all(found.read, found.size, stopped)
        return wire.HashesAnswer(whole, tuple(pieces))

    async def _manifest(self, exchange: Exchange) -> None:
        try:
            name = ModelName.parse(_Asked(exchange).text("name"))
        except InvalidName:
            exchange.respond(400, _TEXT, b"name is no model's")
            return
        data = await asyncio.to_thread(manifest_bytes, self._store(), name)
        if data is None:
            exchange.respond(404, _TEXT, b"this node does not have it")
        else:
            exchange.respond(200, _JSON, data)

    async def _claim(self, exchange: Exchange) -> None:
        request = exchange.request
        try:
            asked = decode_json(request.body, wire.ClaimRequest, most=4096)
        except Undecodable as fault:
            exchange.respond(400, _TEXT, fault.message.encode())
            return
        node = SpiffeId.parse(request.identity or "").name  # the listener has checked whose it is
        _json(exchange, self._finding.asked(node, asked))


class _Asked:
    """The query of a request."""

    def __init__(self, exchange: Exchange) -> None:
        try:
            self._query = parse_qs(exchange.request.query, max_num_fields=8)
        except ValueError:
            self._query = {}

    def text(self, key: str) -> str:
        return "".join(self._query.get(key, [])[:1])

    def hex(self) -> str | None:
        text = self.text("digest")
        return text if wire.is_hex(text) else None

    def number(self, key: str, most: int, least: int = 0) -> int | None:
        text = self.text(key) or "0"
        if len(text) > 6 or not text.lstrip("-").isdigit():
            return None
        return min(most, found) if (found := int(text)) >= least else None


def _json(exchange: Exchange, value: msgspec.Struct) -> None:
    exchange.respond(200, _JSON, msgspec.json.encode(value))
