"""A bounded load on a mesh, and an exact count of what became of each request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx

WORKERS = 4
# Between two requests of a worker. A load, not a stress test: what a test kills meanwhile is started anew on
# the same few cores, and forty requests a second meet every moment of that.
_PAUSE_S = 0.1


@dataclass
class Counts:
    """What became of the requests.

    Attributes:
        completed: Streams that ended with their terminal record.
        refused: Requests that had not begun streaming and got no stream: an error status, a connection
            refused, cut or timed out. Each with what happened.
        broken: Streams that began and ended with an error record in Ollama's shape.
        silent: Streams that began and ended with neither: what must never happen.
    """

    completed: int = 0
    refused: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)


class Load:
    """Workers that each send one streamed request after the other.

    Args:
        urls: The nodes that clients call; only those that the test does not kill.
        models: Asked in turn.
    """

    def __init__(self, urls: list[str], models: list[str]) -> None:
        self.counts = Counts()
        self._urls = itertools.cycle(urls)
        self._models = itertools.cycle(models)
        self._numbers = itertools.count()

    def after(self, more: int) -> Callable[[], bool]:
        """A predicate that becomes true when `more` requests than now are completed."""
        wanted = self.counts.completed + more
        return lambda: self.counts.completed >= wanted

    async def work(self, client: httpx.AsyncClient) -> None:
        """Sends requests until cancelled."""
        while True:
            await self._one(client, next(self._urls), next(self._models))
            await asyncio.sleep(_PAUSE_S)

    async def _one(self, client: httpx.AsyncClient, url: str, model: str) -> None:
        number = next(self._numbers)
        body = {
            "model": model,
            "prompt": f"request {number}",
            "options": {"num_predict": 12, "seed": number},
        }
        began, last = False, b""
        try:
            async with client.stream("POST", f"{url}/api/generate", json=body) as response:
                if response.status_code != 200:
                    text = (await response.aread()).decode()
                    self.counts.refused.append(f"{url} {model}: {response.status_code} {text}")
                    return
                async for line in response.aiter_lines():
                    began, last = True, line.encode() or last
        except httpx.HTTPError as fault:
            kept = self.counts.silent if began else self.counts.refused
            kept.append(f"{url} {model}: {fault!r}")
            return
        self._judge(f"{url} {model}", began, last)

    def _judge(self, what: str, began: bool, last: bytes) -> None:
        record = json.loads(last or b"{}")
        if record.get("done") is True:
            self.counts.completed += 1
        elif "error" in record:
            self.counts.broken.append(f"{what}: {record['error']}")
        else:
            (self.counts.silent if began else self.counts.refused).append(f"{what}: ended with {last!r}")


@contextlib.asynccontextmanager
async def load_on(urls: list[str], models: list[str]) -> AsyncIterator[Load]:
    """Load for the time of the block; requests under way at its end are finished and counted."""
    load = Load(urls, models)
    async with httpx.AsyncClient(timeout=60) as client:
        workers = [asyncio.create_task(load.work(client)) for _ in range(WORKERS)]
        try:
            yield load
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
    ended = [worker for worker in workers if not worker.cancelled()]
    assert not ended, [worker.exception() for worker in ended]
