"""The disk of the models fills: a file system of its own, whose room is taken away in steps within a second.

A tmpfs that becomes smaller says of its room what one that is written to says, without gigabytes of memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from bench.detection.bed import ROOM, Bed
from bench.detection.fault import Fault, Fixed

LEFT: Final = 64 << 20
_STEPS: Final = 8


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    for step in range(1, _STEPS + 1):
        await asyncio.to_thread(bed.set_room, int(ROOM * (LEFT / ROOM) ** (step / _STEPS)))
    try:
        yield
    finally:
        await asyncio.to_thread(bed.set_room, ROOM)


FAULT = Fault(
    "disk",
    "disk filling",
    _happens,
    in_band=frozenset({"own:infrastructure"}),
    out_of_band=frozenset({"registry:disk", "alert:disk"}),
    bars=(1.0, 5.0),
    fixed=Fixed("disk > 90% for 5m", lambda s: "own:infrastructure" in s.now, 300.0),
)
