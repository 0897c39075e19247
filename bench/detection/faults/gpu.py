"""The GPU is lost: the driver answers for it no more (a fake that NVML's contract suite verifies)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from bench.detection.bed import Bed
from bench.detection.fault import Fault, Fixed


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    bed.gpu.touch()
    try:
        yield
    finally:
        bed.gpu.unlink()


FAULT = Fault(
    "gpu",
    "GPU lost (fake NVML)",
    _happens,
    in_band=frozenset({"gpu-fault", "not-ready", "own:infrastructure", "own:service"}),
    out_of_band=frozenset({"registry:gone", "registry:failing", "registry:gpu", "registry:kept-out"}),
    bars=(1.0, 5.0),
    fixed=Fixed("DCGM_FI_DEV_XID_ERRORS > 0 for 1m", lambda s: "gpu-fault" in s.now, 60.0),
)
