"""The keys that make hashes of what was asked, one a period, destroyed when they are too old.

A plain hash of a short prompt is guessed by trying prompts. Under a key it proves what was asked for as long
as the key is there, and nothing once it is gone.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from pathlib import Path
from typing import Final

from bridge_core.files import sync_folder, write_atomically

_BYTES: Final = 32
_SUFFIX: Final = ".key"
_BLOCK: Final = 64  # SHA-256's
_INNER: Final = bytes(one ^ 0x36 for one in range(256))
_OUTER: Final = bytes(one ^ 0x5C for one in range(256))


class KeyedHash:
    """HMAC-SHA-256 (RFC 2104) under one key of at most 64 bytes.

    What depends on the key alone is done once. The library's one-shot HMAC looks its parts up anew each time,
    which takes a multiple of the hash of a prompt.
    """

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = sha256(padded.translate(_INNER))
        self._outer = sha256(padded.translate(_OUTER))

    def of(self, data: bytes) -> str:
        """The hash of `data`, hexadecimal."""
        inner = self._inner.copy()
        inner.update(data)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()


class InputKeys:
    """A folder of keys, each named by the Unix time at which its period begins and ends: `<from>-<to>.key`.

    One thread at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._hash = KeyedHash(b"")
        self._from = self._to = 0.0

    def hashed(self, data: bytes, at: float, period_s: float) -> tuple[str, str]:
        """The hash of what was asked at a time, hexadecimal, and the name of its key.

        Raises:
            OSError: there is no key, and none can be made.
        """
        if not self._from <= at < self._to:
            self._take(at, period_s)
        return self._hash.of(data), self._name

    def forget(self, before: float) -> list[str]:
        """Destroys the keys of periods that were over by then; their names. Raises OSError."""
        gone = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            ends = path.stem.partition("-")[2]
            if ends.isdigit() and int(ends) <= before:
                path.unlink(missing_ok=True)
                gone.append(path.stem)
                if path.stem == self._name:
                    self._name, self._hash = "", KeyedHash(b"")
                    self._from = self._to = 0.0
        if gone:
            sync_folder(self._folder)
        return sorted(gone)

    def _take(self, at: float, period_s: float) -> None:
        period = max(1, int(period_s))
        begins = int(at) // period * period
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{begins}-{begins + period}"
        path = self._folder / f"{name}{_SUFFIX}"
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = b""
        if len(key) != _BYTES:
            key = secrets.token_bytes(_BYTES)
            write_atomically(path, key)
        self._name, self._hash = name, KeyedHash(key)
        self._from, self._to = begins, begins + period
