"""Saying why work that is tried again and again fails: not at every try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from bridge_core.errors import BridgeError

log = structlog.get_logger()


class Complaint:
    """What one task says of its failures: again only where the reason is another, or it went well meanwhile.

    Args:
        event: What is logged.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._said = ""

    @contextmanager
    def of_failure(self) -> Iterator[None]:
        """One try; where it fails that is said, and the task goes on."""
        try:
            yield
            self._said = ""
        except BridgeError as fault:
            reason = str(fault)
            if reason != self._said:
                self._said = reason
                log.warning(self._event, reason=reason)
