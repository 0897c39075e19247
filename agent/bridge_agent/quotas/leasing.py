"""Leases what this node may use of quotas from the leading registry, and tells it what was used.

Nothing waits for it. While no registry answers, what was leased holds for LEASE_S and then the node's equal
share of each quota (`quota_rules`): the control plane's loss stops no traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from typing import Final

import structlog

from bridge_agent.membership.registry_api import QuotaCall, RegistryApi
from bridge_agent.quotas.meter import Meter
from bridge_agent.quotas.stream_rules import QuotaStream
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError, Unavailable

log = structlog.get_logger()

REPORT_S: Final = 1.0
_HURRIED_S: Final = 0.05  # between two reports, however short a bucket runs
_SILENT_S: Final = 5.0  # a registry that answers nothing for so long is left
_LAST_WORD_S: Final = 0.5


class QuotaLeasing:
    """See the module.

    Args:
        registries: Tried in turn; only the one that leads lends.
        meter: Counts.
        rng: For the back-off's jitter.
        every_s: How often it reports while nothing runs short.

    Attributes:
        leased: A registry answers.
    """

    def __init__(
        self,
        registries: Sequence[RegistryApi],
        meter: Meter,
        rng: random.Random,
        *,
        every_s: float = REPORT_S,
    ) -> None:
        self._registries = tuple(registries)
        self._meter = meter
        self._backoff = Backoff(rng, first_s=0.2, most_s=5.0)
        self._every_s = every_s
        self._short = asyncio.Event()
        self._began = int(time.time() * 1000)
        self._heard_at = 0.0
        self._said = ""
        self.leased = False
        meter.hurry = self._short.set

    async def run(self) -> None:
        """Leases and reports until cancelled."""
        at = 0
        while True:
            try:
                await self._at(self._registries[at % len(self._registries)])
            except* BridgeError as faults:
                fault = str(faults.exceptions[0])
                if fault != self._said:
                    self._said = fault
                    log.info("quotas_not_leased", reason=fault)
            self.leased = False
            at += 1
            await asyncio.sleep(self._backoff.next_s())

    async def _at(self, registry: RegistryApi) -> None:
        async with registry.lease_cells() as call:
            stream = QuotaStream(self._meter.book, self._meter.usage)
            self._heard_at = time.monotonic()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._hear(call, stream), name="quota-grants")
                    group.create_task(self._tell(call, stream), name="quota-reports")
            except asyncio.CancelledError:
                with contextlib.suppress(BridgeError, TimeoutError):  # what was used since the last report
                    async with asyncio.timeout(_LAST_WORD_S):
                        await self._report(call, stream)
                        await call.receive()
                raise

    async def _tell(self, call: QuotaCall, stream: QuotaStream) -> None:
        while True:
            self._short.clear()
            await self._report(call, stream)
            await asyncio.sleep(_HURRIED_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s - _HURRIED_S):
                    await self._short.wait()
            if time.monotonic() - self._heard_at > _SILENT_S:
                raise Unavailable("the registry does not answer quota reports")

    async def _report(self, call: QuotaCall, stream: QuotaStream) -> None:
        await call.send(self._began, stream.report(time.monotonic(), int(time.time() * 1000)))

    async def _hear(self, call: QuotaCall, stream: QuotaStream) -> None:
        while True:
            grants = await call.receive()
            self._heard_at = time.monotonic()
            stream.take(grants.sequence, grants.answered, grants.limits, int(time.time() * 1000))
            if grants.limits:
                # The registry lends to others what this node was told to leave once it has said so.
                self._short.set()
            if not self.leased:
                self.leased, self._said = True, ""
                self._backoff.reset()
                log.info("quotas_leased")
