"""The keys that blobs are sealed with at rest: one for each blob, wrapped by the node's keyring.

The keyring is opened anew where it was last opened more than `HELD_S` ago. So a key-encryption key that is
withdrawn (its file is gone, its command refuses) counts for a minute at most: then no sealed blob is served,
pushed to or loaded, until it is there again. What an engine has in memory by then stays there.

Everything here blocks: run it in threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from bridge_core.errors import BridgeError, Fatal
from bridge_core.sealing import blobs, framing
from bridge_core.sealing.blobs import BlobKey
from bridge_core.sealing.keyring import Keyring
from bridge_core.sealing.sealer import SealFolder, read_ring

HELD_S: Final = 60.0
AGAIN_S: Final = 5.0
"""Before a source that refused is asked again: a command may take 30 s, and everybody waits for it."""


class KeyWithheld(BridgeError):
    """The keyring does not open now."""


class BlobKeys:
    """See the module. Safe in several threads.

    Args:
        where: Says where the keyring, which exists, and what opens it are: an admin may have moved that.
        now: Monotonic seconds.
    """

    def __init__(self, where: Callable[[], SealFolder], now: Callable[[], float] = time.monotonic) -> None:
        self._where = where
        self._now = now
        self._turn = threading.Lock()
        self._ring: Keyring | None = None
        self._fault = ""
        self._until = float("-inf")

    @property
    def fault(self) -> str:
        """Why the keyring did not open when it was last tried; empty: it did."""
        return self._fault

    def ring(self) -> Keyring:
        """The keyring, as it is now.

        Raises:
            KeyWithheld: it does not open, and why.
        """
        with self._turn:
            if self._now() >= self._until:
                self._read()
            if self._ring is None:
                raise KeyWithheld(
                    f"sealed models do not open: {self._fault}",
                    hint="what is loaded stays; give the key back, and all else opens again",
                )
            return self._ring

    def _read(self) -> None:
        try:
            self._ring, self._fault = read_ring(self._where()), ""
            held_s = HELD_S
        except Fatal as fault:
            self._ring, self._fault, held_s = None, str(fault), AGAIN_S
        self._until = self._now() + held_s

    def unseal(self, hex_: str, header: bytes) -> BlobKey:
        """The key of the blob of a digest with this header.

        Raises:
            KeyWithheld: the keyring does not open.
            SealBroken: the header was changed, or is another blob's.
        """
        return blobs.unwrap(self.ring(), header, bytes.fromhex(hex_))

    def header(self, key: BlobKey) -> bytes:
        """A header that says this, wrapped with the active key. Raises KeyWithheld."""
        return blobs.header_of(self.ring(), key, os.urandom(framing.SALT_BYTES))


def new_key(hex_: str, size: int) -> BlobKey:
    """A key for a blob that begins to come; an empty `hex_`: nobody knows its digest yet."""
    return BlobKey(bytes.fromhex(hex_) or blobs.NO_DIGEST, size, os.urandom(framing.KEY_BYTES))
