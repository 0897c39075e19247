"""Writing answers: JSON, streams of records, and errors before and inside of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any, Final

import msgspec

from bridge_core.dialects import Reply, Translation
from bridge_core.dialects.errors import ApiError
from bridge_core.http1 import Exchange, Pair
from bridge_engine.native import Json, merged
from bridge_engine.pools import Pool

JSON_UTF8: Final = b"application/json; charset=utf-8"
JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
TEXT: Final = b"text/plain"
_UNBUFFERED: Final = (b"x-accel-buffering", b"no")  # else nginx keeps a stream back until it is whole
_STREAM: Final = ((b"content-type", NDJSON), _UNBUFFERED)


class EngineAnswer:
    """The answer to one request, with the headers that all answers to it carry."""

    def __init__(self, exchange: Exchange, extra: Sequence[Pair]) -> None:
        self.exchange = exchange
        self._extra = extra

    def raw(self, status: int, content_type: bytes, body: bytes, headers: Sequence[Pair] = ()) -> None:
        """A whole answer of any kind."""
        kind = [(b"content-type", content_type)] if content_type else []
        self.exchange.respond(status, [*self._extra, *headers, *kind], body)

    def json(self, value: Any, *, status: int = 200, content_type: bytes = JSON_UTF8) -> None:
        """A whole JSON answer."""
        self.raw(status, content_type, encode(value))

    def reply(self, reply: Reply) -> None:
        """A whole answer in another protocol."""
        self.raw(reply.status, reply.content_type.encode(), reply.body)

    async def records(self, records: AsyncIterator[Json], *, stream: bool) -> None:
        """Native records: a line each, or merged into one where no stream was asked for.

        Raises:
            ApiError: before anything was written.
        """
        async with _closing(records) as source:
            if not stream:
                await self._whole(source)
                return
            try:
                first = await anext(source)
            except StopAsyncIteration:
                raise ApiError(500, "no answer") from None
            except ApiError as fault:
                if not fault.late:
                    raise
                self.json({"error": fault.message}, status=fault.status, content_type=JSON)
                return
            if _is_single(first):
                self.json(first)
                return
            self.exchange.start(200, [*self._extra, *_STREAM])
            await self._lines(first, source)

    async def _whole(self, source: AsyncIterator[Json]) -> None:
        self.json(await merged(source))

    async def _lines(self, first: Json, source: AsyncIterator[Json]) -> None:
        write = self.exchange.write
        write(encode(first) + b"\n")
        try:
            async for record in source:
                write(encode(record) + b"\n")
                await self.exchange.drain()
        except ApiError as fault:
            write(encode({"error": fault.message}) + b"\n")
        self.exchange.finish()

    async def translated(self, translated: Translation, records: AsyncIterator[Json]) -> None:
        """Native records in another protocol."""
        async with _closing(records) as source:
            try:
                first = await anext(source)
                if not translated.native.get("stream") or _is_debug(first):
                    self.reply(translated.whole(await merged(_chain(first, source))))
                    return
            except ApiError as fault:
                self.reply(translated.failure(fault.status, fault.message))
                return
            headers = [(name.lower(), value) for name, value in translated.stream_headers]
            self.exchange.start(200, [*self._extra, *headers, _UNBUFFERED])
            stream = translated.stream()
            write = self.exchange.write
            write(stream.feed(first))
            try:
                async for record in source:
                    write(stream.feed(record))
                    await self.exchange.drain()
            except ApiError as fault:
                write(stream.error(fault.status, fault.message))
            self.exchange.finish(stream.finish())

    async def progress(self, steps: Iterator[Json], pool: Pool, *, stream: bool) -> None:
        """Status records of work that blocks (create, pull), which runs in threads of `pool` meanwhile.

        Raises:
            ApiError: 503; too many wait for one.
        """
        async with contextlib.aclosing(pool.steps(steps)) as records:
            if not stream:
                await self._last(records)
                return
            first = await self._first(records)
            if first is None:
                return
            self.exchange.start(200, [*self._extra, *_STREAM])
            await self._lines(first, records)

    async def _last(self, records: AsyncIterator[Json]) -> None:
        last: Json = {}
        try:
            async for record in records:
                last = record
        except ApiError as fault:
            self.json({"error": fault.message}, status=fault.status, content_type=JSON)
            return
        self.json({"status": last.get("status", "success")}, content_type=JSON)

    async def _first(self, records: AsyncGenerator[Json]) -> Json | None:
        try:
            return await anext(records)
        except ApiError as fault:
            self.json({"error": fault.message}, status=fault.status, content_type=JSON)
            return None


def encode(value: Any) -> bytes:
    """JSON for a client."""
    return msgspec.json.encode(value)


def _is_single(record: Json) -> bool:
    """Whether a record is an answer by itself, never a line of a stream."""
    return _is_debug(record) or record.get("done_reason") in ("load", "unload")


def _is_debug(record: Json) -> bool:
    return "_debug_info" in record


@contextlib.asynccontextmanager
async def _closing(records: AsyncIterator[Json]) -> AsyncIterator[AsyncIterator[Json]]:
    """Ends the work behind the records however the block is left."""
    try:
        yield records
    finally:
        if isinstance(records, AsyncGenerator):
            await records.aclose()


async def _chain(first: Json, rest: AsyncIterator[Json]) -> AsyncIterator[Json]:
    yield first
    async for record in rest:
        yield record
