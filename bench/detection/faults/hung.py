"""The engine hangs: its runners are stopped (SIGSTOP), so that nothing is closed and nothing answers.

At the end they are killed, as whoever repairs it would: one that goes on by itself was only slow.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator

from bench.detection.bed import NODE, Bed
from bench.detection.fault import Fault, Fixed
from tests.cluster.survival import runners, stop_runner


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    pids = runners(bed.mesh, NODE)
    stop_runner(bed.mesh, NODE)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


FAULT = Fault(
    "hung",
    "engine hung (runners SIGSTOPped)",
    _happens,
    in_band=frozenset({"failed-attempt", "passed-over", "not-ready", "own:service"}),
    out_of_band=frozenset(
        {"registry:gone", "registry:failing", "registry:degraded", "registry:engine", "registry:silent"}
    ),
    bars=(1.0, 5.0),
    fixed=Fixed("p95 of first bytes over 5m > 2s for 5m", lambda s: s.is_slow(2.0), 300.0),
    limit_s=90.0,
)
