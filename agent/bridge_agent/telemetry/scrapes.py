"""Answers who scrapes the metrics; what renders them, a library, is loaded with the first scrape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bridge_agent.made_once import MadeOnce
from bridge_agent.telemetry.sources import Sources
from bridge_core.http1 import Exchange


class Scrapes:
    """See the module.

    Args:
        sources: Where the figures come from.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._page = MadeOnce(self._made)

    async def answer(self, exchange: Exchange) -> None:
        """Answers one, with the figures of now."""
        (await self._page.get())(exchange)

    def _made(self) -> Callable[[Exchange], None]:
        from bridge_agent.telemetry.metrics import metrics_of
        from bridge_core import exposition

        return partial(exposition.answer, registry=metrics_of(self._sources))
