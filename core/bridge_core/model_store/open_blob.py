"""A blob of a store, opened: read alike whether it lies there in the clear or sealed (`sealing.blobs`).

Whether one is sealed is seen from its first bytes, not from any setting: what was there before sealing
began, and what was sealed before it ended, stays readable.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from bridge_core.errors import BridgeError
from bridge_core.files import read_at

if TYPE_CHECKING:
    from bridge_core.sealing.blobs import BlobKey, SealedBlob

Unseal: TypeAlias = "Callable[[str, bytes], BlobKey]"
"""The key of the blob of a digest (its digits) with this header. Raises BridgeError: it is not to be had."""

_FAMILY: Final = b"BRBLOB"  # as in `sealing.blobs`: what sealed nothing does without cryptography's weight
HEADER_BYTES: Final = 8192


class SealedWithoutKey(BridgeError):
    """A blob is sealed, and whoever reads it has nothing to open it with."""


class OpenBlob:
    """One blob; close it, or use it in `with`. Its reads may come from several threads.

    Args:
        handle: Of the file, closed along with this.
        hex_: The digits of its digest.
        unseal: Gives its key where it is sealed.

    Attributes:
        size: Bytes of its text.
        sealed: Whether it lies there sealed.

    Raises:
        SealedWithoutKey: it is sealed, and `unseal` is None.
        BridgeError: it is sealed and does not open; whatever `unseal` raises.
        OSError: it cannot be read. In all cases the descriptor is closed.
    """

    def __init__(self, handle: int, hex_: str, unseal: Unseal | None) -> None:
        self._handle = handle
        self._hex = hex_
        self._unseal = unseal
        self._blob: SealedBlob | None = None
        try:
            self.sealed: Final = is_sealed(handle)
            if self.sealed:
                self._blob = self._opened()
            self.size: Final = os.fstat(handle).st_size if self._blob is None else self._blob.size
        except BaseException:
            os.close(handle)
            raise

    @classmethod
    def at(cls, path: Path, hex_: str, unseal: Unseal | None) -> OpenBlob:
        """The blob in a file. Raises as the class."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), hex_, unseal)

    def _opened(self) -> SealedBlob:
        from bridge_core.sealing.blobs import SealedBlob  # cryptography is large, and few need it

        return SealedBlob(self._handle, self._key(self._header()))

    def _header(self) -> bytes:
        return os.pread(self._handle, HEADER_BYTES, 0)

    def _key(self, header: bytes) -> BlobKey:
        if self._unseal is None:
            raise SealedWithoutKey(
                f"blob {self._hex[:12]} is sealed, and this program was given no key",
                hint="only the agent of its node, and the engines that it starts, open it",
            )
        return self._unseal(self._hex, header)

    def header_fault(self) -> str:
        """What is wrong with one of the two slots of a sealed blob's header; empty: nothing.

        To read the blob takes one of them; who checks it wants to hear of the other one, too. Raises OSError.
        """
        if not self.sealed:
            return ""
        header, half = self._header(), HEADER_BYTES // 2
        try:
            first, second = (self._key(header[at : at + half] * 2) for at in (0, half))
        except BridgeError as fault:
            return fault.message
        return "" if first == second else "the two slots of its header are of two keys"

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes of the text from `offset`; fewer only at its end.

        Raises:
            BridgeError: it is sealed and was changed there.
            OSError: it cannot be read.
        """
        if self._blob is not None:
            return self._blob.read(offset, length)
        return read_at(self._handle, offset, length)

    def close(self) -> None:
        """Closes the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_sealed(handle: int) -> bool:
    """Whether a blob is sealed, by either slot of its header: one may be cut off. Raises OSError."""
    first = os.pread(handle, len(_FAMILY), 0)
    if first == _FAMILY or first.startswith(b"GGUF"):
        return first == _FAMILY
    return os.pread(handle, len(_FAMILY), HEADER_BYTES // 2) == _FAMILY
