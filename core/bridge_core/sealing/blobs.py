r"""Sealed blobs of models: written in any order, read from anywhere, their keys wrapped apart from them.

    header = slot || zeros up to 4,096 bytes || the same slot || zeros up to 8,192
    slot   = "BRBLOB1\n" || a sealed file (`files`) of digest (32 bytes) || size (8) || the blob's key (32)
    blob   = header || segment 0 || segment 1 || …

A segment is a message of `framing` under the blob's own key, of 1 MiB of the text (the last one of the rest),
for its number. Each time that one is written it has a fresh salt, and thereby another key: what came wrong
and comes again does not use a nonce twice. Nothing can be moved within a blob or from one into another; the
size in the header says where it ends.

The key that wraps is one of a keyring's. To wrap with another one means two writes of one block, with a sync
between them: cut at any moment, one of the two slots is whole, and either opens the same blob.
"""

from __future__ import annotations

import os
import struct
from typing import Final

import msgspec

from bridge_core.files import read_at
from bridge_core.sealing import files, framing
from bridge_core.sealing.framing import CHUNK_BYTES, SealBroken
from bridge_core.sealing.keyring import Keyring

MAGIC: Final = b"BRBLOB1\n"
_FAMILY: Final = b"BRBLOB"
SEGMENT_BYTES: Final = 1 << 20
HEADER_BYTES: Final = 8192
STRIDE: Final = framing.HEAD_BYTES + SEGMENT_BYTES + (SEGMENT_BYTES // CHUNK_BYTES + 1) * framing.TAG_BYTES
_BLOCK: Final = HEADER_BYTES // 2
_PURPOSE: Final = "model blob"
_ABOUT: Final = struct.Struct(">32sQ32s")
_SLOT_BYTES: Final = len(MAGIC) + files.HEAD_BYTES + framing.HEAD_BYTES + _ABOUT.size + framing.TAG_BYTES
NO_DIGEST: Final = bytes(32)


class BlobKey(msgspec.Struct, frozen=True):
    """What a header says.

    Attributes:
        digest: SHA-256 of the text; `NO_DIGEST` while nobody knows it.
        size: Bytes of the text.
        secret: 32 random bytes, of this blob alone.
    """

    digest: bytes
    size: int
    secret: bytes

    def __repr__(self) -> str:  # never the secret
        return f"BlobKey({self.digest.hex()}, {self.size})"


def header_of(ring: Keyring, key: BlobKey, salt: bytes) -> bytes:
    """A header, wrapped with the ring's active key; 24 fresh random bytes as `salt`."""
    about = _ABOUT.pack(key.digest, key.size, key.secret)
    return (MAGIC + files.seal_bytes(ring, _PURPOSE, salt, about)).ljust(_BLOCK, b"\0") * 2


def unwrap(ring: Keyring, header: bytes, digest: bytes | None = None) -> BlobKey:
    """What a header says, by whichever of its slots is whole.

    Args:
        ring: Where the key is that wraps.
        header: The first HEADER_BYTES of the file.
        digest: Of the blob that it has to be; None: whichever it is.

    Raises:
        SealBroken: it was changed, is another blob's, or was not wrapped with a key of this ring.
    """
    fault: SealBroken | None = None
    for at in (0, _BLOCK):
        try:
            return _unwrapped(ring, header[at : at + _BLOCK], digest)
        except SealBroken as found:
            fault = fault or found
    raise fault or SealBroken("it has no header")


def wrapped_with(header: bytes) -> bytes | None:
    """The id of the key that both slots say to be wrapped with; None: they do not agree, or do not say."""
    first, second = (files.key_id(header[at + len(MAGIC) : at + _SLOT_BYTES]) for at in (0, _BLOCK))
    return first if first == second else None


def _unwrapped(ring: Keyring, block: bytes, digest: bytes | None) -> BlobKey:
    if not block.startswith(MAGIC):
        if block.startswith(_FAMILY):
            raise SealBroken("it is a sealed blob of a later version than this program reads")
        raise SealBroken("it is no sealed blob: its header is another one")
    if len(block) != _BLOCK or block[_SLOT_BYTES:].strip(b"\0"):
        raise SealBroken("its header was cut or added to")
    about = files.open_bytes(ring, _PURPOSE, block[len(MAGIC) : _SLOT_BYTES])
    if len(about) != _ABOUT.size:
        raise SealBroken("its header was cut or added to")
    key = BlobKey(*_ABOUT.unpack(about))
    if digest is not None and key.digest != digest:
        raise SealBroken(f"it is another blob: its header is that of {key.digest.hex()[:12]}")
    return key


def sealed_size(size: int) -> int:
    """Bytes of the file of a blob of `size` bytes."""
    whole, rest = divmod(size, SEGMENT_BYTES)
    return HEADER_BYTES + whole * STRIDE + (_sealed_rest(rest) if rest else 0)


def text_size(length: int) -> int | None:
    """Bytes of the text in a file of `length` bytes; None: no whole blob is that long."""
    whole, rest = divmod(length - HEADER_BYTES, STRIDE)
    if length < HEADER_BYTES or not rest:
        return whole * SEGMENT_BYTES if length >= HEADER_BYTES else None
    try:
        last, sealed = framing.shape(rest)
    except SealBroken:
        return None
    text = last * CHUNK_BYTES + sealed - framing.TAG_BYTES
    return whole * SEGMENT_BYTES + text if 0 < text < SEGMENT_BYTES else None


def segment_at(number: int) -> int:
    """Where a segment begins in the file."""
    return HEADER_BYTES + number * STRIDE


def seal_segment(secret: bytes, number: int, salt: bytes, text: bytes | memoryview) -> bytes:
    """A segment; 24 fresh random bytes as `salt`, at every call."""
    return framing.seal(secret, salt, _context(number), text)


class SealedBlob:
    """Reads a sealed blob; safe in several threads at once. The descriptor stays its owner's.

    Args:
        handle: Of the file.
        key: What its header says.
        whole: Its length has to be that of the size; False where it is still being written.

    Raises:
        SealBroken: it was cut, or added to.
        OSError: it cannot be read.
    """

    def __init__(self, handle: int, key: BlobKey, *, whole: bool = True) -> None:
        self._handle = handle
        self._secret = key.secret
        self.size: Final = key.size
        length = os.fstat(handle).st_size
        if whole and length != sealed_size(key.size):
            wanted = sealed_size(key.size)
            raise SealBroken(f"it has {length} bytes and not {wanted}: it was cut, or added to")

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes of the text from `offset`; fewer only at its end.

        Raises:
            SealBroken: a segment was changed.
            OSError: it cannot be read.
        """
        end = min(self.size, offset + length)
        pieces = []
        for number in range(offset // SEGMENT_BYTES, -(-end // SEGMENT_BYTES)):
            begin = number * SEGMENT_BYTES
            pieces.append(self._segment(number, max(0, offset - begin), min(SEGMENT_BYTES, end - begin)))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _segment(self, number: int, begin: int, end: int) -> bytes:
        """The text from `begin` to before `end` of one segment."""
        size = min(SEGMENT_BYTES, self.size - number * SEGMENT_BYTES)
        at = segment_at(number)
        try:
            if (begin, end) == (0, size):  # with its tag at the end, which no part of it needs
                sealed = read_at(self._handle, at, _sealed_rest(size))
                return framing.open_sealed(self._secret, _context(number), sealed)
            head = read_at(self._handle, at, framing.HEAD_BYTES)
            cipher = framing.cipher_of(head, self._secret, _context(number))
            first, last = begin // CHUNK_BYTES, -(-end // CHUNK_BYTES)
            text = b"".join(self._chunk(cipher, at, chunk, size) for chunk in range(first, last))
            return text[begin - first * CHUNK_BYTES : end - first * CHUNK_BYTES]
        except SealBroken as fault:
            raise SealBroken(f"segment {number}: {fault.message}") from fault

    def _chunk(self, cipher: framing.Cipher, at: int, chunk: int, size: int) -> bytes:
        length = min(CHUNK_BYTES, size - chunk * CHUNK_BYTES) + framing.TAG_BYTES
        sealed = read_at(self._handle, at + framing.HEAD_BYTES + chunk * framing.STRIDE, length)
        return cipher.open_chunk(chunk, sealed)


def _sealed_rest(size: int) -> int:
    return framing.HEAD_BYTES + size + (size // CHUNK_BYTES + 1) * framing.TAG_BYTES


def _context(number: int) -> bytes:
    return b"model blob segment " + number.to_bytes(8, "big")
