"""Rounds, one after the other, on one mesh: what was found after how many seconds."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from bench.detection.bed import Bed
from bench.detection.fault import SCRAPE_S, Fault
from bench.detection.sight import Sight
from bridge_cli.access import access_of
from bridge_cli.connection import ask
from bridge_cli.layout import MeshFile
from bridge_core import http1
from bridge_core.decoding import decode_json
from bridge_core.errors import BridgeError
from tests.cluster.survival import runners
from tests.support import eventually

_MOST: Final = 256  # requests at a time
_TIMEOUT_S: Final = 20.0
_WELL_S: Final = 3.0  # for so long nothing may be said before a round begins
_RECOVERS_S: Final = 240.0


class Round(msgspec.Struct, frozen=True):
    """One round; infinite: not before the limit. `fixed_s` is at the least."""

    fault: str
    in_s: float
    out_s: float
    fixed_s: float
    signs: tuple[str, ...]


class Rounds:
    """One mesh under load, watched.

    Args:
        bed: The mesh.
        rate: Requests a second.
        say: Told of each round.
    """

    def __init__(self, bed: Bed, rate: float, say: Callable[[Round], None]) -> None:
        self._bed = bed
        self._rate = rate
        self._say = say
        self.sight = Sight(bed.mesh)
        self._began = time.monotonic()

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Load and eyes, while the block runs."""
        to = access_of(decode_json((self._bed.mesh.state / "mesh.json").read_bytes(), MeshFile))
        tasks = [
            asyncio.create_task(self._clients()),
            asyncio.create_task(self.sight.in_band()),
            asyncio.create_task(ask(to, self.sight.out_of_band)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for end in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(end, Exception):
                    print(f"a watcher ended: {end!r}", flush=True)
            await self.sight.close()

    async def one(self, fault: Fault) -> Round:
        """Does it once, and waits until all is well again."""
        await self.well(fault)
        self.sight.begin()
        await asyncio.sleep(0.3)  # a look at the counters before
        already = set(self.sight.now)
        found = dict.fromkeys(("in", "out", "fixed"), math.inf)
        began = time.monotonic()
        async with fault.happens(self._bed):
            while (now := time.monotonic() - began) < fault.limit_s:
                new = self.sight.now - already
                if found["in"] == math.inf and new & fault.in_band:
                    found["in"] = now
                if found["out"] == math.inf and new & fault.out_of_band:
                    found["out"] = now
                if found["fixed"] == math.inf and fault.fixed is not None and fault.fixed.holds(self.sight):
                    found["fixed"] = now
                if found["out"] < math.inf and (not fault.in_band or found["in"] < math.inf):
                    break
                await asyncio.sleep(0.01)
            signs = tuple(sorted(self.sight.now - already))
            if fault.fixed is not None and fault.fixed.holds(self.sight):
                found["fixed"] = min(found["fixed"], time.monotonic() - began)
        one = Round(fault.name, found["in"], found["out"], _fires(fault, found["fixed"], began), signs)
        self._say(one)
        return one

    async def well(self, fault: Fault | None = None) -> None:
        """Until nothing has been said of node3 for a while, of what counts for this fault where one is named,
        and it has the model in memory and answers.
        """
        signs = None if fault is None else fault.in_band | fault.out_of_band
        quiet_since = time.monotonic()

        def is_well() -> bool:
            nonlocal quiet_since
            now = time.monotonic()
            said = self.sight.now if signs is None else self.sight.now & signs
            if any(not one.startswith("failed") for one in said):
                quiet_since = now
            answers = any(one[1] == "node3" and one[0] > now - 5.0 and one[2] for one in self.sight.answers)
            return now - quiet_since >= _WELL_S and answers and bool(runners(self._bed.mesh, "node3"))

        try:
            await eventually(is_well, _RECOVERS_S)
        except AssertionError:
            print(f"{self._bed.folder.name} is not well again: {sorted(self.sight.now)}", flush=True)
            raise

    async def _clients(self) -> None:
        """An open loop: who hangs at node3 keeps nobody else from asking."""
        pool = http1.Pool(self._bed.mesh.address("node1"))
        tasks: set[asyncio.Task[None]] = set()
        try:
            for number in itertools.count():
                if len(tasks) < _MOST:
                    task = asyncio.create_task(self._asks(pool, number))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.sleep(1.0 / self._rate)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pool.close()

    async def _asks(self, pool: http1.Pool, number: int) -> None:
        words = [{"role": "user", "content": f"Tell story number {number} of a fox."}]
        body = {"model": self._bed.model, "stream": True, "messages": words}
        body |= {"options": {"num_predict": 12, "temperature": 0}}
        head = [(b"content-type", b"application/json")]
        began, first, node = time.monotonic(), 0.0, ""
        with contextlib.suppress(BridgeError, TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                async with pool.request("POST", "/api/chat", head, msgspec.json.encode(body)) as answer:
                    node = next((v.decode() for k, v in answer.headers if k.lower() == b"x-bridge-node"), "")
                    async for _ in answer:
                        first = first or time.monotonic() - began
                if answer.status != 200:
                    first = 0.0
        self.sight.answers.append((time.monotonic(), node, first))


def _fires(fault: Fault, held_s: float, began: float) -> float:
    """Seconds until the fixed threshold would have fired at the earliest: from the scrape after its
    condition was first true, for as long as it has to be.
    """
    if fault.fixed is None or fault.fixed.heals or held_s == math.inf:
        return math.inf
    at = began + held_s
    return math.ceil(at / SCRAPE_S) * SCRAPE_S - began + fault.fixed.for_s
