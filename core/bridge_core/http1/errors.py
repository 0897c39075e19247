"""How an HTTP exchange fails, classed by what the caller should do."""

from __future__ import annotations

from bridge_core.errors import BridgeError, Reaction


class UpstreamError(BridgeError):
    """A request to another server did not get its whole answer.

    Attributes:
        reused: The connection had answered an earlier request, so a keep-alive race is possible.
        seen: Some of the answer had been received.
    """

    reaction = Reaction.ELSEWHERE
    reused = False
    seen = False

    def __init__(self, message: str, *, hint: str = "", reused: bool = False, seen: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.reused = reused
        self.seen = seen


class ConnectFailed(UpstreamError):
    """No connection came about: refused, unreachable, timed out, or TLS was not agreed on."""


class IncompleteResponse(UpstreamError):
    """The connection ended before the answer did."""


class BadResponse(UpstreamError):
    """What came back is not a well-formed HTTP/1.1 answer."""


class ResponseTimeout(UpstreamError):
    """The head of the answer did not come in time."""


class PoolBusy(UpstreamError):
    """As many requests wait for a connection as may."""


class PoolClosed(UpstreamError):
    """The pool was closed."""


class ResponseTooLarge(BridgeError):
    """A body that was to be read whole is larger than the caller allows."""


class Disconnected(BridgeError):
    """The client went away before its answer was written or its body read."""


class BodyTimeout(BridgeError):
    """The client stopped sending its body."""
