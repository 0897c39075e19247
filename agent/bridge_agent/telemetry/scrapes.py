"""Answers who scrapes the metrics; what renders them, a library, is loaded with the first scrape."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bridge_agent.telemetry.sources import Sources
from bridge_core.http1 import Exchange

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class Scrapes:
    """See the module.

    Args:
        sources: Where the figures come from.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._page: Callable[[], bytes] | None = None
        self._making = asyncio.Lock()

    async def answer(self, exchange: Exchange) -> None:
        """Answers one, with the figures of now."""
        if self._page is None:
            async with self._making:
                if self._page is None:
                    self._page = await asyncio.to_thread(self._made)
        fields = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-store")]
        exchange.respond(200, fields, self._page())

    def _made(self) -> Callable[[], bytes]:
        from bridge_agent.telemetry.metrics import metrics_page

        return metrics_page(self._sources)
