r"""Sealed files that are small: written and read as a whole. What is large is a blob (`blobs`).

"BRSEAL1\n" || id of the data key (8 bytes) || a message of `framing`
"""

from __future__ import annotations

from typing import Final

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
