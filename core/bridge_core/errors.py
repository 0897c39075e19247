"""Errors classed by the reaction they need, each with a hint for the person who reads it.

Raise a `BridgeError` where something fails for a reason that a caller can act on, and translate
foreign exceptions (OSError, grpc.RpcError, ssl.SSLError) into one at the edge where they appear,
once.
"""

from __future__ import annotations

import enum


class Reaction(enum.Enum):
    """What whoever catches the error should do."""

    RETRY = "retry"  # the same thing again, after a back-off
    ELSEWHERE = "elsewhere"  # another instance, node or endpoint may do it
    REFUSE = "refuse"  # the request or the input is at fault: tell whoever sent it
    STOP = "stop"  # this process cannot go on


class BridgeError(Exception):
    """Something failed; `message` says what and where, `hint` what to do next.

    Attributes:
        message: One sentence without a trailing period, fit for a client or an operator.
        hint: What to do about it; may be empty.
        reaction: How the caller should react.
    """

    reaction: Reaction = Reaction.REFUSE

    def __init__(self, message: str, *, hint: str = "", reaction: Reaction | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reaction is not None:
            self.reaction = reaction

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Unavailable(BridgeError):
    """A service we depend on does not answer at present."""

    reaction = Reaction.RETRY


class Fatal(BridgeError):
    """This process cannot start or go on: bad configuration, taken port, unreadable key."""

    reaction = Reaction.STOP
