"""A real engine behind a small proxy that makes chosen models fail or answer late.

What a mesh takes for its engine (`bridgectl up --engine ollama=URL,…`) is the proxy, so nothing of the
product has to know that a fault is injected.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import msgspec

from bridge_core import http1
from bridge_core.errors import BridgeError

_HOP = frozenset({b"connection", b"content-length", b"host", b"keep-alive", b"transfer-encoding"})


class _Asked(msgspec.Struct):
    model: str = ""


@dataclass(frozen=True)
class Fault:
    """What happens to a model's requests.

    Attributes:
        errors: The share that is answered 500 without reaching the engine.
        slower: Times the engine's own time to its first byte.
    """

    errors: float = 0.0
    slower: float = 1.0


NO_FAULT = Fault()


@dataclass
class Seen:
    """Inferences that arrived for one model; times are monotonic."""

    arrived: list[float] = field(default_factory=list)
    failed: int = 0


class FaultyEngines:
    """The proxies of one mesh. `faults` may be changed while they serve.

    Attributes:
        faults: By model, as it is named in requests.
        seen: The same.
        urls: Where the proxies listen.
    """

    def __init__(self, seed: int) -> None:
        self.faults: dict[str, Fault] = {}
        self.seen: dict[str, Seen] = {}
        self.urls: list[str] = []
        self._chance = random.Random(seed)

    def forget(self) -> None:
        """Counts from nothing and injects nothing."""
        self.faults.clear()
        self.seen.clear()

    async def answer(self, exchange: http1.Exchange, engine: http1.Pool) -> None:
        """One request of an agent."""
        request = exchange.request
        fault = NO_FAULT
        if request.path in {"/api/chat", "/api/generate"}:
            with contextlib.suppress(msgspec.DecodeError):
                model = msgspec.json.decode(request.body, type=_Asked).model
                fault = self.faults.get(model, fault)
                seen = self.seen.setdefault(model, Seen())
                seen.arrived.append(time.monotonic())
                if self._chance.random() < fault.errors:
                    seen.failed += 1
                    exchange.respond(500, [(b"content-type", b"application/json")], b'{"error":"injected"}')
                    return
        await _forward(exchange, engine, fault.slower)


async def _forward(exchange: http1.Exchange, engine: http1.Pool, slower: float) -> None:
    request, began = exchange.request, time.monotonic()
    target = request.target.decode("latin-1")
    try:
        async with engine.request(request.method, target, list(_kept(request.headers)), request.body) as got:
            parts = aiter(got)
            first = await anext(parts, b"")
            if slower > 1.0:
                await asyncio.sleep((slower - 1.0) * (time.monotonic() - began))
            exchange.start(got.status, list(_kept(got.headers)))
            exchange.write(first)
            async for part in parts:
                exchange.write(part)
                await exchange.drain()
            exchange.finish()
    except BridgeError:
        exchange.abort()


def _kept(headers: http1.Headers) -> Iterator[tuple[bytes, bytes]]:
    return ((name, value) for name, value in headers if name not in _HOP)


@contextlib.asynccontextmanager
async def in_front_of(ports: list[int], seed: int = 1) -> AsyncIterator[FaultyEngines]:
    """A proxy before each engine, while the block runs."""
    engines = FaultyEngines(seed)
    async with contextlib.AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for port in ports:
            pool = http1.Pool(("127.0.0.1", port))
            stack.push_async_callback(pool.close)

            async def handle(exchange: http1.Exchange, pool: http1.Pool = pool) -> None:
                await engines.answer(exchange, pool)

            server = await http1.serve(http1.coroutine_app(handle, group), name="faulty", host="127.0.0.1")
            stack.push_async_callback(server.close, 0.0)
            engines.urls.append(f"http://127.0.0.1:{server.port}")
        yield engines
