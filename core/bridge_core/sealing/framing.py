"""Cobblestone-256: the chunked encryption of https://c2sp.org/chunked-encryption, with AES-256-GCM.

    message = salt (24 bytes) || commitment (32) || chunk 0 || chunk 1 || …

From the input key, the salt and a context come a key, a base nonce and the commitment (HKDF-Expand with
SHA-512). A chunk holds 16 KiB of the text and a tag of 16 bytes, and its number is in its nonce; only
the last one is shorter, be it empty, so that no chunk can be moved, left out, cut off or added unseen.
A chunk is found and checked by itself. The commitment says before the first chunk whether key and
context are the right ones, and no message opens under two keys.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import constant_time, hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from bridge_core.errors import BridgeError

KEY_BYTES: Final = 32
SALT_BYTES: Final = 24
CHUNK_BYTES: Final = 16 * 1024
TAG_BYTES: Final = 16
HEAD_BYTES: Final = SALT_BYTES + 32
STRIDE: Final = CHUNK_BYTES + TAG_BYTES
_NONCE_BYTES: Final = 12
_MOST_CHUNKS: Final = 1 << 38
_LABEL: Final = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"


class SealBroken(BridgeError):
    """What is sealed does not open: another key, another purpose, or it was changed."""


class WrongKey(SealBroken):
    """The commitment is of another key or another context; nothing was decrypted."""


class Cipher:
    """What one message is sealed and opened with.

    Args:
        key: 32 uniformly random bytes.
        salt: 24 bytes, never twice under one key.
        context: What the message is for; it has to be given again to open it.

    Raises:
        ValueError: key or salt are not of their length.
    """

    def __init__(self, key: bytes, salt: bytes, context: bytes) -> None:
        if len(key) != KEY_BYTES or len(salt) != SALT_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes and a salt {SALT_BYTES}")
        length = KEY_BYTES + _NONCE_BYTES + 32
        made = HKDFExpand(hashes.SHA512(), length, _LABEL + salt + context).derive(key)
        self.head: Final = salt + made[KEY_BYTES + _NONCE_BYTES :]
        self._aead = AESGCM(made[:KEY_BYTES])
        self._base = int.from_bytes(made[KEY_BYTES : KEY_BYTES + _NONCE_BYTES], "big")

    def seal_chunk(self, number: int, text: bytes | memoryview) -> bytes:
        """Chunk `number`, sealed; all but the last are CHUNK_BYTES long.

        Raises:
            ValueError: the message has grown beyond what one key may seal (4 PiB).
        """
        return self._aead.encrypt(self._nonce(number), text, None)

    def open_chunk(self, number: int, sealed: bytes | memoryview) -> bytes:
        """The text of chunk `number`.

        Raises:
            SealBroken: it is not the chunk of this message at this place.
        """
        try:
            return self._aead.decrypt(self._nonce(number), sealed, None)
        except (InvalidTag, ValueError) as fault:
            raise SealBroken(f"chunk {number} was changed, or does not belong there") from fault

    def _nonce(self, number: int) -> bytes:
        if not 0 <= number < _MOST_CHUNKS:
            raise ValueError(f"a message has at most {_MOST_CHUNKS} chunks")
        return (self._base ^ number).to_bytes(_NONCE_BYTES, "big")


def cipher_of(head: bytes, key: bytes, context: bytes) -> Cipher:
    """What the message that begins with `head` opens with.

    Raises:
        WrongKey: it was sealed with another key or for another context.
        SealBroken: the head is cut short.
    """
    if len(head) != HEAD_BYTES:
        raise SealBroken("it is cut short: not even its head is whole")
    cipher = Cipher(key, head[:SALT_BYTES], context)
    if not constant_time.bytes_eq(cipher.head, head):
        raise WrongKey("it was sealed with another key or for another purpose, or its head was changed")
    return cipher


def is_sealed_with(head: bytes, key: bytes, context: bytes) -> bool:
    """Whether the message that begins with `head` was sealed with this key for this context."""
    try:
        cipher_of(head, key, context)
    except SealBroken:
        return False
    return True


def shape(length: int) -> tuple[int, int]:
    """Number and sealed length of the last chunk of a message of `length` bytes, head included.

    Raises:
        SealBroken: no message is that long: it was cut or added to.
    """
    last, rest = divmod(length - HEAD_BYTES, STRIDE)
    if length < HEAD_BYTES or rest < TAG_BYTES:
        raise SealBroken("it is cut short, or something was added to it")
    return last, rest


def seal(key: bytes, salt: bytes, context: bytes, text: bytes | memoryview) -> bytes:
    """`text` as one message; see `Cipher` for the arguments."""
    cipher, view = Cipher(key, salt, context), memoryview(text)  # slices of it are no copies
    chunks = (
        cipher.seal_chunk(number, view[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])
        for number in range(len(text) // CHUNK_BYTES + 1)
    )
    return b"".join((cipher.head, *chunks))


def open_sealed(key: bytes, context: bytes, message: bytes) -> bytes:
    """The text of one whole message.

    Raises:
        WrongKey: it was sealed with another key or for another context.
        SealBroken: it was changed, cut, added to or put in another order.
        ValueError: the key is not of its length.
    """
    cipher = cipher_of(message[:HEAD_BYTES], key, context)
    last, _ = shape(len(message))
    view = memoryview(message)[HEAD_BYTES:]
    return b"".join(
        cipher.open_chunk(number, view[number * STRIDE : (number + 1) * STRIDE]) for number in range(last + 1)
    )
