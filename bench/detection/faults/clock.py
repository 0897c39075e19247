"""The wall clock jumps, by an hour ahead or back in turn (libfaketime; the monotonic clock goes on)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from bench.detection.bed import Bed
from bench.detection.fault import Fault, Fixed

JUMP_S: Final = 3600


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    bed.jumps += 1
    bed.set_clock(JUMP_S if bed.jumps % 2 else -JUMP_S)
    try:
        yield
    finally:
        bed.set_clock(0)


FAULT = Fault(
    "clock",
    "clock jump (an hour, ahead or back)",
    _happens,
    in_band=frozenset({"link:clock"}),
    out_of_band=frozenset({"alert:clock-off"}),
    bars=(1.0, 5.0),
    fixed=Fixed("abs(clock offset) > 0.05s for 10m", lambda s: True, 600.0),
)
