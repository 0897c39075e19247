"""Refusals in the log, at most one a minute for each caller and reason: attacks must not fill a disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger()

_EVERY_S: Final = 60.0
_MOST: Final = 1_024


class RefusalLog:
    """`now` gives monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said: dict[tuple[str, str], float] = {}
        self._unsaid = 0

    def say(self, who: str, reason: str, *, method: str, words: str) -> None:
        """Logs a refusal, or counts it for the next line."""
        now = self._now()
        if now - self._said.get((who, reason), now - _EVERY_S) < _EVERY_S:
            self._unsaid += 1
            return
        if len(self._said) >= _MOST:
            self._said = {key: at for key, at in self._said.items() if now - at < _EVERY_S}
            if len(self._said) >= _MOST:
                self._unsaid += 1
                return
        self._said[who, reason] = now
        log.warning(
            "store_access_refused", by=who, reason=reason, method=method, words=words, unsaid=self._unsaid
        )
        self._unsaid = 0
