"""Why a request is nobody's."""

from __future__ import annotations

from bridge_core.errors import BridgeError


class Refused(BridgeError):
    """Nobody who may call; the message never repeats what was shown.

    Attributes:
        status: 401: not proven; 403: proven, and may not; 503: it cannot be told at present.
        shown: A key or token was shown, and is none that counts.
        retry_after: When to come again, in seconds.
        reason: A word for counts.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        shown: bool = True,
        retry_after: int | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.shown = shown
        self.retry_after = retry_after
        self.reason = reason or ("credential" if shown else "nothing_shown")
