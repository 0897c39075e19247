r"""Sealed files: written as a stream, read from anywhere, with one chunk in memory at a time.

"BRSEAL1\n" || id of the data key (8 bytes) || a message of `framing`
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from bridge_core.errors import BridgeError
from bridge_core.files import sync_folder
from bridge_core.sealing import framing
from bridge_core.sealing.keyring import ID_BYTES, Keyring

MAGIC: Final = b"BRSEAL1\n"
_FAMILY: Final = b"BRSEAL"
HEAD_BYTES: Final = len(MAGIC) + ID_BYTES
_START: Final = HEAD_BYTES + framing.HEAD_BYTES


class KeyMissing(framing.SealBroken):
    """The keyring has no data key of the id that stands in front."""


def seal_bytes(ring: Keyring, purpose: str, salt: bytes, text: bytes) -> bytes:
    """A whole sealed file's content; see `framing.Cipher` for `salt`."""
    key = ring.active
    return MAGIC + key.id + framing.seal(key.secret, salt, purpose.encode(), text)


def open_bytes(ring: Keyring, purpose: str, sealed: bytes) -> bytes:
    """The text of a whole sealed file's content.

    Raises:
        SealBroken: it is not whole, not of this purpose, or not sealed with a key of this ring.
    """
    secret = _secret(ring, purpose, sealed[:HEAD_BYTES], sealed[HEAD_BYTES:_START])
    return framing.open_sealed(secret, purpose.encode(), sealed[HEAD_BYTES:])


def key_id(sealed: bytes) -> bytes | None:
    """The id of the data key that a file says it is sealed with; None: it is not sealed in this way."""
    return sealed[len(MAGIC) : HEAD_BYTES] if _is_head(sealed[:HEAD_BYTES]) else None


def _is_head(head: bytes) -> bool:
    return len(head) == HEAD_BYTES and head.startswith(MAGIC)


def _secret(ring: Keyring, purpose: str, head: bytes, message_head: bytes) -> bytes:
    if not _is_head(head):
        if head.startswith(_FAMILY) and not head.startswith(MAGIC):
            raise framing.SealBroken("it is sealed in a format of a later version than this program reads")
        raise framing.SealBroken("it is not sealed in this way: its head is another one")
    key = ring.find(head[len(MAGIC) :])
    if key is not None:
        return key.secret
    for other in ring.keys:  # a lost key is told from an id that somebody changed
        if framing.is_sealed_with(message_head, other.secret, purpose.encode()):
            raise framing.SealBroken(f"the id of its data key was changed: that is {other.id.hex()}")
    raise KeyMissing(
        f"it is sealed with the data key {head[len(MAGIC) :].hex()}, which the keyring does not hold",
        hint="restore the keyring that was there when it was written",
    )


class SealedWriter:
    """Writes one sealed file; there under its name, whole, when the `with` block ended well.

    Args:
        path: The file; replaced at the end, and left as it was when the block fails.
        ring: Its active key seals.
        purpose: See `framing.Cipher`.
        salt: 24 fresh random bytes.

    Raises:
        OSError: the folder is missing, not writable or full.
    """

    def __init__(self, path: Path, ring: Keyring, purpose: str, salt: bytes) -> None:
        self._path = path
        self._cipher = framing.Cipher(ring.active.secret, salt, purpose.encode())
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "wb")
        self._pending = bytearray()
        self._number = 0
        try:
            self._file.write(MAGIC + ring.active.id + self._cipher.head)
        except BaseException:
            self._drop()
            raise

    def write(self, text: bytes) -> None:
        """Adds to the file; at most one chunk is held back. Raises OSError."""
        self._pending += text
        whole = len(self._pending) // framing.CHUNK_BYTES
        for at in range(whole):
            self._put(bytes(self._pending[at * framing.CHUNK_BYTES : (at + 1) * framing.CHUNK_BYTES]))
        del self._pending[: whole * framing.CHUNK_BYTES]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._put(bytes(self._pending))
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.replace(self._path)
                sync_folder(self._path.parent)
        finally:
            self._drop()

    def _put(self, text: bytes) -> None:
        self._file.write(self._cipher.seal_chunk(self._number, text))
        self._number += 1

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()


class SealedReader:
    """Reads one sealed file from anywhere in it. Close it, or use it in `with`.

    Args:
        file: Opened for reading, with a position that can be set; closed along with the reader.
        ring: Where its data key is.
        purpose: What it was sealed for.

    Attributes:
        size: Bytes of text, vouched for by the last chunk.

    Raises:
        SealBroken: it was cut or added to, is of another purpose, or its data key is not in the ring.
        OSError: it cannot be read.
    """

    def __init__(self, file: BinaryIO, ring: Keyring, purpose: str) -> None:
        self._file = file
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        head, message_head = file.read(HEAD_BYTES), file.read(framing.HEAD_BYTES)
        secret = _secret(ring, purpose, head, message_head)
        self._cipher = framing.cipher_of(message_head, secret, purpose.encode())
        self._last, rest = framing.shape(length - HEAD_BYTES)
        self._rest = rest
        self._number, self._chunk = -1, b""
        self.size: Final = self._last * framing.CHUNK_BYTES + len(self._open(self._last))

    @classmethod
    def open(cls, path: Path, ring: Keyring, purpose: str) -> SealedReader:
        """A reader of the file at `path`; faults name it."""
        file = path.open("rb")
        try:
            return cls(file, ring, purpose)
        except BridgeError as fault:
            file.close()
            raise framing.SealBroken(f"{path}: {fault.message}", hint=fault.hint) from fault
        except BaseException:
            file.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes of the text from `offset`; fewer only at its end.

        Raises:
            SealBroken: a chunk was changed.
            OSError: it cannot be read.
        """
        end = min(self.size, offset + length)
        pieces = []
        for number in range(offset // framing.CHUNK_BYTES, -(-end // framing.CHUNK_BYTES)):
            begin = number * framing.CHUNK_BYTES
            pieces.append(self._open(number)[max(0, offset - begin) : end - begin])
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """The whole text, chunk by chunk. Raises as `read`."""
        for number in range(self._last + 1):
            yield self._open(number)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, number: int) -> bytes:
        if number != self._number:
            self._file.seek(_START + number * framing.STRIDE)
            sealed = self._file.read(self._rest if number == self._last else framing.STRIDE)
            self._chunk, self._number = self._cipher.open_chunk(number, sealed), number
        return self._chunk
