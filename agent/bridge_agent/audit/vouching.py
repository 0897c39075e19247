"""Signs with the node's own key that a log's key is the node's, in a process of its own.

What signs keeps 8 MiB in the process that loads it, and an agent is asked for a voucher once in months.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.audit.notes import PublicKey
from bridge_core.audit.vouchers import Statement, Voucher
from bridge_core.child import converse_with
from bridge_core.errors import BridgeError

_PATIENCE_S: Final = 30.0


class _Wanted(msgspec.Struct, frozen=True):
    statement: bytes
    key_pem: bytes


class Vouching:
    """Makes vouchers; one is good for as long as certificate and log are the same.

    Args:
        certificate: The node's file, with its chain.
        key: The file of its private key.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self._made: tuple[str, Voucher] | None = None
        self._turn = asyncio.Lock()

    async def voucher(self, origin: str, key: PublicKey) -> Voucher:
        """The voucher for a log's key.

        Raises:
            BridgeError: it could not be signed.
        """
        async with self._turn:
            chain, key_pem = await asyncio.to_thread(self._files)
            made = self._made
            if made is not None and made[0] == key.text and made[1].chain == chain:
                return made[1]
            statement = Statement(origin, key, int(time.time())).text
            wanted = msgspec.msgpack.encode(_Wanted(statement.encode(), key_pem))
            signature = await converse_with(
                __name__, wanted, within_s=_PATIENCE_S, otherwise="nothing was signed"
            )
            voucher = Voucher(statement, signature, chain)
            self._made = key.text, voucher
            return voucher

    def _files(self) -> tuple[str, bytes]:
        try:
            return self._certificate.read_text("ascii"), self._key.read_bytes()
        except (OSError, UnicodeDecodeError) as fault:
            raise BridgeError(f"the node's certificate or key cannot be read: {fault}") from fault


def main() -> None:
    """The process: what is wanted comes in, the signature goes out."""
    from bridge_core.identity.certificates import key_from_pem, sign

    wanted = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Wanted)
    sys.stdout.buffer.write(sign(key_from_pem(wanted.key_pem), wanted.statement))


if __name__ == "__main__":
    main()
