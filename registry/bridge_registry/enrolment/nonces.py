"""What a registry gives out to be signed: good for a minute, here, and once.

None of it is kept until it comes back with a proof, so that asking for many costs the registry nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Final

LIFE_S: Final = 60.0
_STAMP, _RANDOM, _MAC = 8, 16, 16


class Nonces:
    """See the module. Another registry, or this one after a restart, takes none of them.

    Args:
        clock: Seconds that only go up: with a clock that is set back, what was used could be used again.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._key = os.urandom(32)
        self._spent: dict[bytes, float] = {}

    def make(self) -> bytes:
        """A new one."""
        body = int(self._clock() * 1000).to_bytes(_STAMP, "big") + os.urandom(_RANDOM)
        return body + self._mac(body)

    def spend(self, nonce: bytes) -> bool:
        """Whether it is one of these and counts now; it then never does again."""
        now = self._clock()
        body, mac = nonce[: _STAMP + _RANDOM], nonce[_STAMP + _RANDOM :]
        if len(body) != _STAMP + _RANDOM or not hmac.compare_digest(mac, self._mac(body)):
            return False
        made = int.from_bytes(body[:_STAMP], "big") / 1000
        if now - made > LIFE_S or nonce in self._spent:
            return False
        self._spent = {one: at for one, at in self._spent.items() if now - at <= LIFE_S}
        self._spent[nonce] = made
        return True

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)[:_MAC]
