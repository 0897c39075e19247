"""The data keys of one program, in one file that is sealed as a whole under a key-encryption key (KEK).

The KEK seals nothing but this file, so another KEK means one small file written anew. A new data key
seals what is written from then on; the earlier ones stay, for what they sealed. Sealed as one piece, no
key can be taken out of the ring, put in or made the active one again by who does not have the KEK.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from bridge_core.decoding import decode_json
from bridge_core.errors import BridgeError, Fatal
from bridge_core.files import write_atomically
from bridge_core.key_files import read_key_file
from bridge_core.sealing import framing

MAGIC: Final = b"BRRING1\n"
_FAMILY: Final = b"BRRING"
ID_BYTES: Final = 8
_MOST_BYTES: Final = 1 << 20
_MOST_KEYS: Final = 4096


class DataKey(msgspec.Struct, frozen=True):
    """A key that data is sealed with.

    Attributes:
        id: 8 random bytes: in the clear in front of what the key sealed.
        secret: 32 random bytes.
        made: Unix seconds.
    """

    id: bytes
    secret: bytes
    made: float

    def __repr__(self) -> str:  # never the secret
        return f"DataKey({self.id.hex()})"


class Keyring(msgspec.Struct, frozen=True):
    """The data keys of a program, oldest first; the last one seals."""

    keys: Annotated[tuple[DataKey, ...], msgspec.Meta(min_length=1, max_length=_MOST_KEYS)]

    @property
    def active(self) -> DataKey:
        """The key that seals from now on."""
        return self.keys[-1]

    def find(self, key_id: bytes) -> DataKey | None:
        """The key of this id; None: it is not in the ring."""
        return next((key for key in self.keys if key.id == key_id), None)

    def with_key(self, key: DataKey) -> Keyring:
        """The ring with another active key.

        Raises:
            Fatal: it is full, or has a key of this id.
        """
        if len(self.keys) >= _MOST_KEYS or self.find(key.id) is not None:
            raise Fatal(f"no key can be added: {len(self.keys)} are in the ring", hint="write it anew")
        return Keyring((*self.keys, key))


def encode(ring: Keyring, kek: bytes, salt: bytes) -> bytes:
    """The file's content; 24 fresh random bytes as `salt`."""
    return MAGIC + framing.seal(kek, salt, MAGIC, msgspec.json.encode(ring))


def decode(data: bytes, kek: bytes) -> Keyring:
    """The ring in a file's content.

    Raises:
        framing.WrongKey: it is sealed with another KEK.
        BridgeError: it was changed, or is no keyring.
    """
    if not data.startswith(MAGIC):
        if data.startswith(_FAMILY):
            raise framing.SealBroken("it is a keyring of a later version than this program reads")
        raise framing.SealBroken("it is no keyring")
    ring = decode_json(framing.open_sealed(kek, MAGIC, data[len(MAGIC) :]), Keyring)
    if any(len(key.id) != ID_BYTES or len(key.secret) != framing.KEY_BYTES for key in ring.keys):
        raise framing.SealBroken("a key in it is not of its length")
    return ring


def load(path: Path, kek: bytes, *, source: str) -> Keyring:
    """The ring in a file; `source` says in faults where the KEK is from.

    Raises:
        Fatal: it does not open with this KEK, or is damaged, and what to do.
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    data = read_key_file(path, most=_MOST_BYTES, of_service=True)
    try:
        return decode(data, kek)
    except framing.WrongKey as fault:
        raise Fatal(
            f"the keyring {path} does not open with the key-encryption key of {source}",
            hint="both have to be of the same time: restore the key that the keyring was last sealed with",
        ) from fault
    except BridgeError as fault:
        raise Fatal(
            f"the keyring {path} is damaged: {fault.message}", hint="restore it from a backup"
        ) from fault


def save(path: Path, ring: Keyring, kek: bytes, salt: bytes) -> None:
    """Writes the file, whole or not at all. Raises OSError."""
    write_atomically(path, encode(ring, kek, salt))
