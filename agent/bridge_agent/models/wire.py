"""What nodes ask each other about models, over the peer link.

| page | what |
|---|---|
| `GET /bridge/models/have?digest=&more=&wait=` | its pieces of a blob, once they are more than `more` |
| `GET /bridge/models/piece?digest=&piece=` | a piece; its SHA-256 is in `x-bridge-piece` |
| `GET /bridge/models/hashes?digest=` | of a whole blob: its digest as read now, and that of each piece |
| `GET /bridge/models/manifest?name=` | a manifest as it lies on disk |
| `POST /bridge/models/claim` | a node asks the coordinator of a digest: `claim_rules` |

Errors are 404 (it does not have that), 503 (it serves as many as it will) and 400, with a sentence.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

HAVE: Final = "/bridge/models/have"
PIECE: Final = "/bridge/models/piece"
HASHES: Final = "/bridge/models/hashes"
MANIFEST: Final = "/bridge/models/manifest"
CLAIM: Final = "/bridge/models/claim"
PIECE_HASH: Final = b"x-bridge-piece"
LONGEST_WAIT_S: Final = 5.0

_HEX: Final = re.compile(r"[0-9a-f]{64}")

Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 43)]
Pieces = Annotated[int, msgspec.Meta(ge=0, le=1 << 14)]
_NodeName = Annotated[str, msgspec.Meta(max_length=64)]


class HaveAnswer(msgspec.Struct, frozen=True):
    """Which pieces of a blob of `size` bytes a node has: `piece_rules.read_have`."""

    size: Bytes
    have: Annotated[str, msgspec.Meta(max_length=4096)]


class HashesAnswer(msgspec.Struct, frozen=True):
    """What a blob's bytes hash to now, in hexadecimal: the whole, and each piece."""

    digest: Hex
    pieces: Annotated[tuple[Hex, ...], msgspec.Meta(max_length=1 << 14)]


class ClaimRequest(msgspec.Struct, frozen=True):
    """What a node asks a coordinator: see `Claims.ask`."""

    digest: Hex
    have: Pieces = 0
    offers: bool = False


class ClaimSaid(msgspec.Struct, frozen=True):
    """A coordinator's answer, bounded: see `ClaimAnswer`."""

    fetcher: _NodeName = ""
    sources: Annotated[tuple[_NodeName, ...], msgspec.Meta(max_length=64)] = ()


def is_hex(text: str) -> bool:
    """Whether this is a SHA-256 in lower-case hexadecimal digits."""
    return _HEX.fullmatch(text) is not None
