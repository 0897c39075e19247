"""Clients that do not read: what has a slot meanwhile, and what of that is still read from the engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge_core.http1 import Exchange
from tests.contract.gateway_bed import BedNode, mesh
from tests.fakes.recorded_engine import RecordedEngine
from tests.support import eventually

_TURNS = 200  # of the loop
_PIECE = b'{"status":"' + b"x" * 65_000 + b'"}\n'


@dataclass
class FloodingEngine(RecordedEngine):
    """What streams here does not end before nobody takes more of it; what does not waits for `release`."""

    full: asyncio.Event = field(default_factory=asyncio.Event)

    async def _flood(self, exchange: Exchange) -> None:
        exchange.start(200, [(b"content-type", b"application/x-ndjson")])
        turns = 0  # for how many nothing was taken: until then buffers on the way may still fill
        while turns < _TURNS:
            if exchange.write_paused:
                turns += 1
            else:
                turns = 0
                exchange.write(_PIECE)
            await asyncio.sleep(0)
        self.full.set()
        await self.release.wait()

    async def _progress(self, exchange: Exchange, stream: bool) -> None:
        await self._flood(exchange)

    async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
        if json.loads(body).get("stream", True):
            await self._flood(exchange)
        else:
            await self.release.wait()
            exchange.respond(200, [(b"content-type", b"application/json")], b'{"done":true}')


@contextlib.asynccontextmanager
async def unread(node: BedNode, path: str, **fields: Any) -> AsyncIterator[None]:
    """A client that asks and reads nothing, from when nothing more can be sent to it."""
    engine = node.engine
    assert isinstance(engine, FloodingEngine)
    body = json.dumps({"model": "smollm2:135m", **fields}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", node.local.port, limit=1)
    try:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await eventually(engine.full.is_set)
        yield
    finally:
        writer.close()


async def test_a_reader_that_stops_counts_against_its_own_slot_and_no_other(tmp_path: Path) -> None:
    async with mesh(tmp_path, {"a": FloodingEngine()}) as bed:
        node, engine = bed["a"], bed["a"].engine
        engine.release.clear()
        waits = asyncio.create_task(node.infer(stream=False))
        await eventually(lambda: node.gateway.served("a/0") == 1)
        async with unread(node, "/api/create", **{"from": "smollm2:135m"}):  # takes no slot
            assert node.gateway.served("a/0") == 1
        engine.full.clear()
        async with unread(node, "/api/chat", messages=[{"role": "user", "content": "hi"}]):
            await eventually(lambda: node.gateway.counters.held_up == {"a/0": 1})
            assert node.gateway.served("a/0") == 1
        await eventually(lambda: node.gateway.counters.held_up == {})
        engine.release.set()
        assert (await waits).status == 200
