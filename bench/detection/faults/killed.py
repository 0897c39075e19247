"""The engine is killed: SIGKILL. Its agent starts another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bench.detection.bed import NODE, Bed
from bench.detection.fault import Fault, Fixed
from tests.cluster.survival import kill_engine


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    await asyncio.to_thread(kill_engine, bed.mesh, NODE)
    yield


FAULT = Fault(
    "killed",
    "engine killed (SIGKILL)",
    _happens,
    in_band=frozenset({"failed-attempt", "passed-over", "not-ready"}),
    out_of_band=frozenset({"registry:gone", "registry:failing", "registry:engine"}),
    bars=(1.0, 5.0),
    fixed=Fixed("up == 0 for 1m", lambda sight: "not-ready" in sight.now, 60.0, heals=True),
)
