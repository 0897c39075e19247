"""What a gRPC call ends with when it fails, and the records that are read of an answer.

Interpreted also where the rest is compiled: mypyc's exceptions and decoded Structs are other ones.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from bridge_core.errors import BridgeError

_DIGITS: Final = 6  # of the seconds after which anybody is told to come again


class Status(enum.Enum):
    """gRPC's codes that the adapter answers with; the values are the wire's."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class CallFault(BridgeError):
    """What a call ends with when it fails."""

    def __init__(self, status: Status, message: str, *, retry_after: str = "") -> None:
        """`retry_after` is the engine's or the queue's hint, in seconds."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def hints(self) -> tuple[tuple[str, str], ...]:
        """When to come again, as metadata: the answer's own field, and the one gRPC's clients retry by."""
        if not self.retry_after:
            return ()
        found = [("retry-after", self.retry_after)]
        if self.retry_after.isascii() and self.retry_after.isdigit() and len(self.retry_after) <= _DIGITS:
            found.append(("grpc-retry-pushback-ms", f"{int(self.retry_after) * 1000}"))
        return tuple(found)


class ClientGone(BridgeError):
    """The client hung up or cancelled."""


class Record(msgspec.Struct, frozen=True):
    """One line of a streamed answer, as far as the adapter reads it."""

    done: bool = False
    error: str | None = None
