"""Five of a hundred requests fail at the engine (500), for no reason of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from bench.detection.bed import Bed
from bench.detection.fault import Fault, Fixed

SHARE: Final = 0.05


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    bed.failures.write_text(str(SHARE))
    try:
        yield
    finally:
        bed.failures.write_text("0")


FAULT = Fault(
    "errors",
    "5 % errors",
    _happens,
    in_band=frozenset({"own:service"}),
    out_of_band=frozenset({"alert:error-rate", "registry:errors", "alert:errors"}),
    bars=(None, 23.0),
    fixed=Fixed("error share over 5m > 5% for 5m", lambda s: s.error_share() > 0.05, 300.0),
    limit_s=120.0,
)
