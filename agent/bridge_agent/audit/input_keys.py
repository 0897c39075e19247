"""The keys that make hashes of what was asked, one a period, destroyed when they are too old.

A plain hash of a short prompt is guessed by trying prompts. Under a key it proves what was asked for as long
as the key is there, and nothing once it is gone.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bridge_core.files import sync_folder, write_atomically
from bridge_core.keyed_hash import KeyedHash

_BYTES: Final = 32
_SUFFIX: Final = ".key"


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
        return self._hash.hex_of(data), self._name

    def hashed_all(
        self, many: Sequence[bytes], first: float, last: float, period_s: float
    ) -> tuple[list[str], str] | None:
        """The hashes of what was asked between two times, and the name of their key; None: they are of two.

        Raises:
            OSError: as `hashed`.
        """
        if not self._from <= first < self._to:
            self._take(first, period_s)
        return (self._hash.hex_of_all(many), self._name) if first <= last < self._to else None

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
