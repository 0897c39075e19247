"""A record's proof in one file (C2SP tlog-proof): anybody checks it with the keys, and nothing else.

The file has the record as its extra data, its place, the way from it to the root, and the signed head with
the cosignatures.
"""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from bridge_core.audit import merkle
from bridge_core.audit.notes import BadNote, Checkpoint, Note, read_checkpoint, read_note
from bridge_core.decoding import Undecodable, decode_json

_FIRST: Final = "c2sp.org/tlog-proof@v1"
_MOST_PATH: Final = 63
_MOST_BYTES: Final = 1 << 20


class ProofExtra(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands beside the proof for whoever has nothing else; only the record is proved.

    Attributes:
        record: The entry, as it was written.
        keys: Verifier keys: the log's, then its cosigners'.
    """

    record: str
    keys: tuple[str, ...] = ()


class Proof(msgspec.Struct, frozen=True):
    """A record, its place, and what proves that it is there.

    Attributes:
        extra: See there.
        index: The record's.
        path: Hashes from beside the leaf up to below the root.
        note: The signed head.
    """

    extra: ProofExtra
    index: int
    path: tuple[bytes, ...]
    note: Note

    @property
    def head(self) -> Checkpoint:
        """The head that it is proved in. Raises BadNote."""
        return read_checkpoint(self.note.text)

    @property
    def text(self) -> bytes:
        """As a file."""
        lines = [
            _FIRST,
            f"extra {base64.b64encode(msgspec.json.encode(self.extra)).decode()}",
            f"index {self.index}",
            *(base64.b64encode(one).decode() for one in self.path),
        ]
        return "\n".join(lines).encode() + b"\n\n" + self.note.data

    def check(self) -> None:
        """Checks that the record is where the head has it. Who signed the head is for the caller to check.

        Raises:
            BadProof: it is not there.
            BadNote: there is no head.
        """
        head, leaf = self.head, merkle.leaf_hash(self.extra.record.encode())
        merkle.check_inclusion(leaf, self.index, head.size, self.path, head.root)


def prove(ranges: merkle.Ranges, entry: bytes, index: int, note: Note, keys: tuple[str, ...]) -> Proof:
    """The proof of an entry in a signed head's tree.

    Raises:
        BadNote: the note is no head, or its tree does not reach the entry.
        BridgeError: the hashes are not there.
    """
    size = read_checkpoint(note.text).size
    if index >= size:
        raise BadNote(f"record {index} is not signed for yet")
    path = tuple(merkle.inclusion_path(ranges, index, size))
    return Proof(ProofExtra(entry.decode("utf-8", "replace"), keys), index, path, note)


def read_proof(data: bytes) -> Proof:
    """The proof in a file.

    Raises:
        BadNote: there is none.
    """
    if len(data) > _MOST_BYTES:
        raise BadNote(f"a proof of more than {_MOST_BYTES} bytes")
    above, separator, note = data.partition(b"\n\n")
    lines = above.decode("ascii", "replace").split("\n")
    fits = bool(separator) and 3 <= len(lines) <= 3 + _MOST_PATH and lines[0] == _FIRST
    if not fits or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise BadNote("not a proof (c2sp.org/tlog-proof@v1) with a record in it")
    number = lines[2].removeprefix("index ")
    if not (number.isascii() and number.isdigit()) or len(number) > 16 or str(int(number)) != number:
        raise BadNote("a proof whose index is no number")
    try:
        extra = decode_json(_bytes(lines[1].removeprefix("extra ")), ProofExtra)
    except Undecodable as fault:
        raise BadNote(f"the record in a proof does not decode: {fault.message}") from fault
    path = tuple(map(_bytes, lines[3:]))
    if any(len(one) != merkle.HASH_BYTES for one in path):
        raise BadNote("a proof with a line that is no hash")
    return Proof(extra, int(number), path, read_note(note))


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as fault:
        raise BadNote("a proof with a line that is not base64") from fault
