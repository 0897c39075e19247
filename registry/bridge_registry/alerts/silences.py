"""Keeps what people silenced, while this registry leads."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from bridge_core.errors import BridgeError
from bridge_registry.alerts import silence_rules as rules
from bridge_registry.alerts.silence_rules import Silence

log = structlog.get_logger()

_ID_BYTES: Final = 4


class Kept(Protocol):
    """Where they are kept; see `alert_store.AlertStore`."""

    @property
    def term(self) -> str:
        """Under which candidacy this registry leads; empty: it does not."""

    async def silences(self) -> dict[str, Silence]:
        """Those that are stored, by id."""

    async def save_silence(self, id_: str, silence: Silence | None) -> None:
        """Stores one; None: it is over."""


class Silences:
    """See the module. Whoever changes it holds its lock while the store is asked.

    Args:
        store: Where they are kept for who leads next.
        now: Unix seconds.
    """

    def __init__(self, store: Kept, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._lock = asyncio.Lock()
        self._term = ""
        self._known: dict[str, Silence] = {}

    @property
    def lasting(self) -> tuple[Silence, ...]:
        """Those that last, the first to end first."""
        return tuple(rules.lasting(self._known.values(), self._now()).values())

    async def refresh(self) -> None:
        """Reads what an earlier leader stored, once a term; removes what is over.

        Raises:
            BridgeError: the store does not answer.
        """
        async with self._lock:
            await self._refresh()

    async def add(self, matchers: Sequence[str], *, by: str, reason: str, lasts_s: float) -> Silence:
        """Makes one.

        Raises:
            SilenceRefused: it would be none; says why.
            BridgeError: it is not stored, or nobody knows.
        """
        async with self._lock:
            await self._refresh()
            id_ = secrets.token_hex(_ID_BYTES)
            found = rules.made(
                self._known, id_, matchers, by=by, reason=reason, lasts_s=lasts_s, now=self._now()
            )
            await self._save(id_, found)
            log.warning("alerts_silenced", silence=id_, by=by, matchers=[str(one) for one in found.matchers])
            return found

    async def end(self, id_: str) -> Silence:
        """Ends one, and returns it.

        Raises:
            BridgeError: there is none with this id, or the store does not take it.
        """
        async with self._lock:
            await self._refresh()
            found = self._known.get(id_)
            if found is None:
                raise BridgeError(
                    f"there is no silence {id_[:40]!r}, or it is over",
                    hint="`bridgectl alerts silences` lists them",
                )
            await self._save(id_, None)
            log.warning("silence_ended", silence=id_)
            return found

    async def _refresh(self) -> None:
        term = self._store.term
        if not term:
            self._term, self._known = "", {}
            return
        if term != self._term:
            self._known = await self._store.silences()
            self._term = term
        there = rules.lasting(self._known.values(), self._now())
        for id_ in [id_ for id_ in self._known if id_ not in there]:
            await self._save(id_, None)
            log.info("silence_over", silence=id_)

    async def _save(self, id_: str, silence: Silence | None) -> None:
        try:
            await self._store.save_silence(id_, silence)
        except BridgeError:
            self._term = ""  # nobody knows what is stored: it is read again
            raise
        if silence is None:
            del self._known[id_]
        else:
            self._known[id_] = silence
