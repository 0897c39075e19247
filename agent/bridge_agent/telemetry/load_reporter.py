"""Tells the leading registry about once a second how this node stands."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from bridge_agent.membership.registry_api import LoadReport, RegistryApi
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError

log = structlog.get_logger()

REPORT_S: Final = 1.0


class LoadReporter:
    """See the module. Nothing waits for it: while no registry takes reports, none are sent.

    Args:
        registries: Tried in turn, more may come and some go; only the one that leads takes reports.
        report: Makes the report of the moment.
        rng: For the back-off's jitter.
        every_s: How often.
    """

    def __init__(
        self,
        registries: Sequence[RegistryApi],
        report: Callable[[], LoadReport],
        rng: random.Random,
        *,
        every_s: float = REPORT_S,
    ) -> None:
        self._registries = registries
        self._report = report
        self._backoff = Backoff(rng, first_s=0.2, most_s=5.0)
        self._every_s = every_s
        self._said = ""

    async def run(self) -> None:
        """Reports until cancelled."""
        at = 0
        while True:
            try:
                await self._to(self._registries[at % len(self._registries)])
            except BridgeError as fault:
                if str(fault) != self._said:
                    self._said = str(fault)
                    log.info("load_not_reported", reason=self._said)
            at += 1
            await asyncio.sleep(self._backoff.next_s())

    async def _to(self, registry: RegistryApi) -> None:
        sent: dict[tuple[str, str], object] = {}
        used: dict[str, int] = {}
        told: dict[str, object] = {}
        async with registry.report_load() as stream:
            while True:
                report = self._report()
                news = {key: counts for key, counts in report.backends.items() if sent.get(key) != counts}
                clients = {name: at for name, at in report.clients.items() if used.get(name) != at}
                models = {name: counts for name, counts in report.models.items() if told.get(name) != counts}
                await stream.send(msgspec.structs.replace(report, clients=clients, models=models), news)
                sent.update(news)
                used.update(clients)
                told.update(models)
                await asyncio.sleep(self._every_s)
                self._backoff.reset()
