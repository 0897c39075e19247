"""What a blob's file holds while it comes, in the clear or sealed. Everything here blocks: run it in threads.

Sealed, no byte of a blob's text is ever on the disk: each piece is sealed as it is written, under a salt of
its own, so that what came wrong may be written again (`sealing.blobs`).
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from bridge_agent.models.blob_keys import BlobKeys, new_key
from bridge_core.errors import BridgeError
from bridge_core.files import read_at
from bridge_core.sealing import blobs, framing
from bridge_core.sealing.blobs import NO_DIGEST, SEGMENT_BYTES, BlobKey, SealedBlob


class Content(Protocol):
    """The text of a blob in an open file. All methods raise OSError, and BridgeError where no key is had."""

    def take_up(self, hex_: str, size: int) -> bool:
        """Goes on with what lies there; False: that is no beginning of this blob, in this form."""
        ...

    def begin(self, hex_: str, size: int) -> None:
        """Empties the file for a blob; it is sparse, and has its length already."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Puts bytes in their place: whole segments, from the start of one on; the last may be short."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer where the file is cut. Raises SealBroken: they were changed."""
        ...


class PlainContent:
    """In the clear.

    Args:
        handle: Of the file; stays its owner's.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def take_up(self, hex_: str, size: int) -> bool:
        """See `Content`."""
        return os.fstat(self._handle).st_size == size

    def begin(self, hex_: str, size: int) -> None:
        """See `Content`. What lies there, sealed or not, is lost."""
        os.ftruncate(self._handle, 0)
        os.ftruncate(self._handle, size)

    def write(self, offset: int, data: bytes) -> None:
        """See `Content`."""
        write_all(self._handle, offset, data)

    def read(self, offset: int, length: int) -> bytes:
        """See `Content`."""
        return read_at(self._handle, offset, length)


class SealedContent:
    """Sealed.

    Args:
        handle: Of the file; stays its owner's.
        keys: Wrap and unwrap the blob's key.
    """

    def __init__(self, handle: int, keys: BlobKeys) -> None:
        self._handle: Final = handle
        self._keys = keys
        self._key: BlobKey | None = None

    @property
    def key(self) -> BlobKey:
        """The blob's."""
        if self._key is None:
            raise RuntimeError("a blob that was neither begun nor taken up")
        return self._key

    def take_up(self, hex_: str, size: int) -> bool:
        """See `Content`."""
        if os.fstat(self._handle).st_size != blobs.sealed_size(size):
            return False
        return self._takes(bytes.fromhex(hex_)) and self.key.size == size

    def take_up_unnamed(self) -> bool:
        """The same of a blob whose digest nobody knows yet."""
        return self._takes(NO_DIGEST)

    def _takes(self, digest: bytes) -> bool:
        ring = self._keys.ring()  # withheld: that is no reason to throw away what came
        try:
            self._key = blobs.unwrap(ring, os.pread(self._handle, blobs.HEADER_BYTES, 0), digest)
        except BridgeError:  # cut off before its header was whole, or of another keyring
            return False
        return True

    def begin(self, hex_: str, size: int) -> None:
        """See `Content`; an empty `hex_`: nobody knows its digest yet, and the file grows as it comes."""
        self._key = new_key(hex_, size)
        header = self._keys.header(self._key)
        os.ftruncate(self._handle, 0)
        write_all(self._handle, 0, header)
        if hex_:
            os.ftruncate(self._handle, blobs.sealed_size(size))

    def name(self, hex_: str, size: int) -> None:
        """Says in the header of which digest, and how long, the blob turned out to be."""
        self._key = BlobKey(bytes.fromhex(hex_), size, self.key.secret)
        write_all(self._handle, 0, self._keys.header(self._key))

    def write(self, offset: int, data: bytes) -> None:
        """See `Content`."""
        view, number = memoryview(data), offset // SEGMENT_BYTES
        for at in range(0, len(view), SEGMENT_BYTES):
            salt = os.urandom(framing.SALT_BYTES)
            sealed = blobs.seal_segment(self.key.secret, number, salt, view[at : at + SEGMENT_BYTES])
            write_all(self._handle, blobs.segment_at(number), sealed)
            number += 1

    def read(self, offset: int, length: int) -> bytes:
        """See `Content`."""
        return self.reader(self.key.size).read(offset, length)

    def reader(self, size: int) -> SealedBlob:
        """Reads what is there as the text of so many bytes."""
        key = BlobKey(self.key.digest, size, self.key.secret)
        return SealedBlob(self._handle, key, whole=False)


def write_all(handle: int, offset: int, data: bytes | memoryview) -> None:
    """Writes all of it. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        offset, view = offset + written, view[written:]
