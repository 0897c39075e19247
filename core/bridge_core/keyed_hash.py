"""HMAC-SHA-256 (RFC 2104) under one key, made ready once."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

_BLOCK: Final = 64  # SHA-256's
_INNER: Final = bytes(one ^ 0x36 for one in range(256))
_OUTER: Final = bytes(one ^ 0x5C for one in range(256))


class KeyedHash:
    """HMAC-SHA-256 under a key of at most 64 bytes, in its two halves.

    What depends on the key alone is done once. The library's one-shot HMAC looks its parts up anew each time,
    which takes a multiple of the hash of a prompt.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = sha256(padded.translate(_INNER))
        self._outer = sha256(padded.translate(_OUTER))

    def of(self, data: bytes) -> bytes:
        """The hash of `data`."""
        return self.outer(self.inner(data))

    def hex_of(self, data: bytes) -> str:
        """The hash of `data`, hexadecimal."""
        return self.hex_of_all([data])[0]

    def hex_of_all(self, many: Sequence[bytes]) -> list[str]:
        """The hashes of many, hexadecimal: without a call for each."""
        found = []
        begun, ended = self._inner.copy, self._outer.copy
        for data in many:
            inner, outer = begun(), ended()
            inner.update(data)
            outer.update(inner.digest())
            found.append(outer.hexdigest())
        return found

    def inner(self, data: bytes) -> bytes:
        """The first half: with the key, `outer` makes the hash of it, and nobody makes it from that."""
        hashed = self._inner.copy()
        hashed.update(data)
        return hashed.digest()

    def outer(self, inner: bytes) -> bytes:
        """The hash whose first half is `inner`."""
        hashed = self._outer.copy()
        hashed.update(inner)
        return hashed.digest()
