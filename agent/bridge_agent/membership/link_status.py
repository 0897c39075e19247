"""Whether something we depend on answers, and since when it does not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class LinkReport(msgspec.Struct, frozen=True):
    """What `status` shows of one dependency; `since_unix` is when it came to be as it is."""

    name: str
    up: bool
    since_unix: float
    reason: str = ""


class LinkStatus:
    """Up or down with the first moment of it; down until it was first seen working."""

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        """`now` is the wall clock in seconds."""
        self._name = name
        self._now = now
        self._up = False
        self._since = now()
        self._reason = "not reached yet"
        self.fault: Exception | None = None  # behind the reason, while it does not answer

    @property
    def up(self) -> bool:
        """Whether it answered last time."""
        return self._up

    def works(self) -> bool:
        """It answered; True when that is news."""
        news = not self._up
        if news:
            self._up, self._since, self._reason, self.fault = True, self._now(), "", None
        return news

    def failed(self, reason: object, *, because: Exception | None = None) -> bool:
        """It did not answer, `because` of this fault; True when that, or the reason, is news."""
        news = self._up or self._reason != str(reason)
        if self._up:
            self._up, self._since = False, self._now()
        self._reason = str(reason)
        self.fault = because
        return news

    def report(self) -> LinkReport:
        """The state as `status` shows it."""
        return LinkReport(self._name, self._up, self._since, self._reason)
