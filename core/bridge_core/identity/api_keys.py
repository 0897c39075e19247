"""API keys: `brk_<id>_<secret><checksum>`; pure.

The id finds the key's client, the secret proves that it was handed out. The checksum lets a secret scanner
tell a key from what only looks like one, and lets whoever mistyped a key be told so: it is the CRC-32 of
all before it, and proves nothing. Only an HMAC of the whole text under the mesh's pepper is stored: whoever
reads the store, or a snapshot, can neither use a key nor try keys against it.
"""

from __future__ import annotations

import hmac
import re
import zlib
from typing import Final

from bridge_core.keyed_hash import KeyedHash

PREFIX: Final = "brk"
PATTERN: Final = r"brk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}"
"""What a secret scanner searches for; `damage` says whether the checksum is right."""

PEPPER_BYTES: Final = 32
RANDOM_BYTES: Final = 41  # 9 for the id, 32 for the secret
PEPPER: Final = "api-key-pepper"
"""The pepper's name among the mesh's secrets."""

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_START: Final = b"brk_"
_ID: Final = 12
_ID_ENDS: Final = len(_START) + _ID
_SECRET: Final = 43  # the fewest digits that hold 256 bits
_CHECKSUM: Final = 6
_LENGTH: Final = _ID_ENDS + 1 + _SECRET + _CHECKSUM
_KEY: Final = re.compile(PATTERN.encode())


class Pepper(KeyedHash):
    """What the mesh's keys are hashed with: `of` is what is kept in the place of a key.

    The inner half is its proof, what only somebody who has seen a key can make, and what does not give the
    key away: from it everybody with the pepper makes what is kept in the place of the key.
    """

    __slots__ = ()

    hash = KeyedHash.of
    proof = KeyedHash.inner
    seal = KeyedHash.outer

    def __init__(self, secret: bytes) -> None:
        """`secret` has PEPPER_BYTES bytes."""
        if len(secret) != PEPPER_BYTES:
            raise ValueError(f"a pepper has {PEPPER_BYTES} bytes")
        super().__init__(secret)


def mint(randomness: bytes) -> str:
    """A new key out of RANDOM_BYTES random bytes."""
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"a key needs {RANDOM_BYTES} random bytes")
    id_ = _base62(int.from_bytes(randomness[:9], "big"), _ID)
    secret = _base62(int.from_bytes(randomness[9:], "big"), _SECRET)
    text = f"{PREFIX}_{id_}_{secret}"
    return text + _checksum(text.encode())


def same(shown: bytes, stored: bytes) -> bool:
    """Whether two hashes are the same; in constant time."""
    return hmac.compare_digest(shown, stored)


def is_meant(text: bytes) -> bool:
    """Whether somebody means an API key of a mesh by this, be it a right one or not."""
    return text.startswith(_START)


def id_of(text: bytes) -> bytes:
    """What finds a key; the text need not be one."""
    return text[len(_START) : _ID_ENDS] if len(text) == _LENGTH else b""


def damage(text: bytes) -> str:
    """What is wrong with a key by its looks alone; empty: nothing."""
    if len(text) != _LENGTH:
        return f"it has {len(text)} characters, and a key has {_LENGTH}"
    if _KEY.fullmatch(text) is None:
        return f"a key is {PREFIX}_, 12 letters and digits, _, and 49 more"
    if _checksum(text[:-_CHECKSUM]).encode() != text[-_CHECKSUM:]:
        return "its last six characters do not fit the others"
    return ""


def _checksum(text: bytes) -> str:
    return _base62(zlib.crc32(text), _CHECKSUM)


def _base62(number: int, width: int) -> str:
    """The last `width` digits of a number."""
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
