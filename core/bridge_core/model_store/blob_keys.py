"""How an engine asks its node's agent for the key of a sealed blob: one question a connection, in JSON.

The agent listens at a socket in the models folder, which only the folder's owner and root may connect to. An
engine never has the keyring: it gets the key of one blob, for the header that it shows, and none that the
agent does not give at that moment.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

SOCKET: Final = "bridge-keys"
MOST_QUESTION: Final = 16 << 10
MOST_ANSWER: Final = 4 << 10
PATIENCE_S: Final = 40.0
"""That an engine waits: a command that gives the key-encryption key has 30 s."""

_Digits = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class KeyAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which blob: the digits of its digest, and the header that its file has."""

    digest: _Digits
    header: Annotated[bytes, msgspec.Meta(max_length=8192)]


class KeyGiven(msgspec.Struct, frozen=True):
    """The blob's key and the bytes of its text, or why it is not given.

    Attributes:
        secret: 32 bytes; empty where it is not given.
        size: Bytes of the text.
        fault: A sentence, and what to do; empty where it is given.
    """

    secret: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    fault: Annotated[str, msgspec.Meta(max_length=2048)] = ""

    def __repr__(self) -> str:  # never the secret
        return f"KeyGiven({self.size}, {self.fault!r})"
