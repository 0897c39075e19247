"""The network to node3 is cut: the relay that the others reach it through is stopped (SIGSTOP)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator

from bench.detection.bed import Bed
from bench.detection.fault import Fault, Fixed


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    os.kill(bed.relay_pid(), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(bed.relay_pid(), signal.SIGCONT)


FAULT = Fault(
    "network",
    "network cut (a stopped relay)",
    _happens,
    in_band=frozenset({"failed-attempt", "passed-over"}),
    out_of_band=frozenset({"registry:unreached", "alert:peers-cut"}),
    bars=(1.0, 5.0),
    fixed=Fixed("probe_success == 0 for 1m", lambda s: "passed-over" in s.now, 60.0),
)
