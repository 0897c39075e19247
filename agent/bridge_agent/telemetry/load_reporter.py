"""Tells the leading registry about once a second how this node stands."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
import structlog

from bridge_agent.membership.registry_api import LoadReport, RegistryApi
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError

log = structlog.get_logger()

REPORT_S: Final = 1.0

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


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
        backends: dict[tuple[str, str], object] = {}
        clients: dict[str, object] = {}
        models: dict[str, object] = {}
        async with registry.report_load() as stream:
            while True:
                report = self._report()
                counts = _news(report.backends, backends)
                used, asked = _news(report.clients, clients), _news(report.models, models)
                await stream.send(msgspec.structs.replace(report, clients=used, models=asked), counts)
                backends.update(counts)  # only now: what was not sent is said to the next registry
                clients.update(used)
                models.update(asked)
                await asyncio.sleep(self._every_s)
                self._backoff.reset()


def _news(now: Mapping[_Key, _Value], told: Mapping[_Key, object]) -> dict[_Key, _Value]:
    """What this stream was not told yet, or is not so any more."""
    return {key: value for key, value in now.items() if told.get(key) != value}
