"""Three times the latency: the runners get a third of the time (SIGSTOP and SIGCONT in turns)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Final

from bench.detection.bed import NODE, Bed
from bench.detection.fault import Fault, Fixed
from tests.cluster.survival import runners

LEARN_S: Final = 315.0
"""What is learnt takes `learning_rules._WARM` windows of five seconds at the load there is."""

_RUNS_S, _STANDS_S = 0.005, 0.01


@contextlib.asynccontextmanager
async def _happens(bed: Bed) -> AsyncIterator[None]:
    pids = runners(bed.mesh, NODE)

    def tell(what: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    async def turns() -> None:
        while True:
            tell(signal.SIGCONT)
            await asyncio.sleep(_RUNS_S)
            tell(signal.SIGSTOP)
            await asyncio.sleep(_STANDS_S)

    task = asyncio.create_task(turns())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        tell(signal.SIGCONT)


FAULT = Fault(
    "slow",
    "3 times the latency",
    _happens,
    in_band=frozenset(),
    out_of_band=frozenset({"alert:slow-first-byte", "alert:slow-tokens"}),
    bars=(None, 23.0),
    fixed=Fixed("p95 of first bytes over 5m > 2s for 5m", lambda s: s.is_slow(2.0), 300.0),
    limit_s=120.0,
)
