"""Signed notes, checkpoints and cosignatures (C2SP signed-note, tlog-checkpoint, tlog-cosignature).

A checkpoint is a note whose text is the log's origin, its size and its root. A log signs the text with
Ed25519; a cosigner signs it with the time before it, having seen that the log only grew.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from bridge_core.audit.merkle import HASH_BYTES
from bridge_core.errors import BridgeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_NOTE: Final = 64 * 1024
MAX_SIGNATURES: Final = 64
_ED25519: Final = b"\x01"
_COSIGNATURE: Final = b"\x04"
_DASH: Final = "\u2014 "
_SIZE_DIGITS: Final = 16


class BadNote(BridgeError):
    """A note, key or checkpoint that cannot be used; the message says why."""


class PublicKey(msgspec.Struct, frozen=True):
    """A key that signs notes.

    Attributes:
        name: Whose: for a log's own key the log's origin.
        raw: Its 32 bytes.
    """

    name: str
    raw: bytes

    @property
    def text(self) -> str:
        """As a verifier key of signed notes: `<name>+<id>+<key>`."""
        encoded = base64.b64encode(_ED25519 + self.raw).decode()
        return f"{self.name}+{self.id(_ED25519).hex()}+{encoded}"

    def id(self, kind: bytes) -> bytes:
        """The key's id for signatures of a kind."""
        return sha256(self.name.encode() + b"\n" + kind + self.raw).digest()[:4]

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The key that a verifier key spells.

        Raises:
            BadNote: it is none.
        """
        name, _, rest = text.partition("+")
        id_, _, encoded = rest.partition("+")
        raw = _unbase64(encoded)
        if raw is None or len(raw) != 1 + 32 or raw[:1] != _ED25519 or not _is_name(name):
            raise BadNote("not an Ed25519 verifier key: name+id+base64")
        key = cls(name, raw[1:])
        if key.id(_ED25519).hex() != id_:
            raise BadNote(f"the id of the key of {name} is not that of its bytes")
        return key


class Checkpoint(msgspec.Struct, frozen=True):
    """A tree's head: whose, of how many entries, and its root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> bytes:
        """The note's text, which is what is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


class Signature(msgspec.Struct, frozen=True):
    """A line below a note: a name, the id of a key of that name, and what it made of the text."""

    name: str
    key_id: bytes
    raw: bytes

    @property
    def line(self) -> str:
        """As it stands in the note."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.raw).decode()}\n"


class Note(msgspec.Struct, frozen=True):
    """A note as it was read: nothing of it is verified."""

    text: bytes
    signatures: tuple[Signature, ...]

    @property
    def data(self) -> bytes:
        """As it is written."""
        return self.text + b"\n" + "".join(one.line for one in self.signatures).encode()


class Signer:
    """An Ed25519 key of a log or a cosigner.

    Args:
        name: Whose key it is.
        seed: Its 32 secret bytes.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        # Large, and an agent without an audit log would never need it.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if not _is_name(name):
            raise BadNote(f"{name!r} cannot be a key's name: no spaces, no plus")
        self._key: Ed25519PrivateKey = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(name, self._key.public_key().public_bytes_raw())

    def sign(self, text: bytes) -> Signature:
        """Signs a note's text."""
        return Signature(self.public.name, self.public.id(_ED25519), self._key.sign(text))

    def cosign(self, text: bytes, at: int) -> Signature:
        """Says that at this time (Unix seconds) this was the log's largest head that it has seen."""
        raw = at.to_bytes(8, "big") + self._key.sign(_cosigned(text, at))
        return Signature(self.public.name, self.public.id(_COSIGNATURE), raw)


def read_note(data: bytes) -> Note:
    """The note that `data` is.

    Raises:
        BadNote: it is none.
    """
    if len(data) > MAX_NOTE:
        raise BadNote(f"a note of more than {MAX_NOTE} bytes")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise BadNote("a note that is not UTF-8") from fault
    if any(sign < " " and sign != "\n" for sign in whole):
        raise BadNote("a note with control characters")
    text, separator, below = whole.rpartition("\n\n")
    lines = below.split("\n")
    if not separator or lines.pop() or not lines or len(lines) > MAX_SIGNATURES:
        raise BadNote("a note without signatures after its last empty line")
    return Note((text + "\n").encode(), tuple(map(read_signature, lines)))


def read_signature(line: str) -> Signature:
    """The signature in a line (without its end).

    Raises:
        BadNote: there is none in it.
    """
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    raw = _unbase64(encoded)
    if not line.startswith(_DASH) or raw is None or len(raw) < 5 or not _is_name(name):
        raise BadNote("a line below a note that is no signature")
    return Signature(name, raw[:4], raw[4:])


def read_checkpoint(text: bytes) -> Checkpoint:
    """The checkpoint in a note's text.

    Raises:
        BadNote: there is none, or it has lines that are not signed for by its tree.
    """
    lines = text.decode("utf-8", "replace").split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise BadNote("not a checkpoint: origin, size and root, a line each")
    size, root = lines[1], _unbase64(lines[2])
    if not (size.isascii() and size.isdigit()) or len(size) > _SIZE_DIGITS or str(int(size)) != size:
        raise BadNote("a checkpoint whose size is no number")
    if root is None or len(root) != HASH_BYTES:
        raise BadNote("a checkpoint whose root is no hash")
    return Checkpoint(lines[0], int(size), root)


def open_checkpoint(data: bytes, key: PublicKey) -> tuple[Checkpoint, Note]:
    """The checkpoint in a note that the log's key signed.

    Raises:
        BadNote: it is none, or `key` did not sign it.
    """
    note = read_note(data)
    if not signed_by(note, key):
        raise BadNote(f"the checkpoint is not signed by the key of {key.name}")
    found = read_checkpoint(note.text)
    if found.origin != key.name:
        raise BadNote(f"the checkpoint is of {found.origin}, its key of {key.name}")
    return found, note


def signed_by(note: Note, key: PublicKey) -> bool:
    """Whether the note has a signature of this key, and no false one."""
    own = [one.raw for one in note.signatures if (one.name, one.key_id) == (key.name, key.id(_ED25519))]
    return bool(own) and all(_verifies(key, raw, note.text) for raw in own)


def cosigned_at(note: Note, key: PublicKey) -> int | None:
    """When this key cosigned the note (Unix seconds); None: it did not."""
    id_ = key.id(_COSIGNATURE)
    for one in note.signatures:
        if (one.name, one.key_id) == (key.name, id_) and len(one.raw) == 8 + 64:
            at = int.from_bytes(one.raw[:8], "big")
            if _verifies(key, one.raw[8:], _cosigned(note.text, at)):
                return at
    return None


def with_signatures(note: Note, more: Iterable[Signature]) -> Note:
    """The note with these below it, too; one of a key that is there already takes that one's place."""
    kept = {(one.name, one.key_id): one for one in (*note.signatures, *more)}
    return Note(note.text, tuple(kept.values()))


def _cosigned(text: bytes, at: int) -> bytes:
    return b"cosignature/v1\ntime %d\n%b" % (at, text)


def _verifies(key: PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _unbase64(text: str) -> bytes | None:
    """The bytes; None where the text is not exactly how they are written."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _is_name(name: str) -> bool:
    # Not printable are control characters, lone surrogates, which UTF-8 cannot say, and all spaces but one.
    return name.isprintable() and bool(name) and "+" not in name and " " not in name
