"""What a cosigner decides of a head that a log shows it (C2SP tlog-witness). Pure.

Rules:
1. A log's heads only grow: what a cosigner signs continues, by proof, the last head of it that it signed.
2. A head that does not is not signed. Where the log's key signed it, both heads together convict the log:
   they are kept, and said.
3. A node's log is known by its key. Another key of the same node begins another log, and that is said, too:
   who may replace its key unseen may as well rewrite its log.
"""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from bridge_core.audit import merkle
from bridge_core.audit.notes import BadNote, Checkpoint, Note, PublicKey, open_checkpoint, read_checkpoint
from bridge_core.bounds import Count, Moment, Name

MAX_REQUEST: Final = 96 * 1024
_MOST_PATH: Final = 63


class Seen(msgspec.Struct, frozen=True):
    """The newest head of a log that was cosigned here.

    Attributes:
        key: The log's verifier key.
        size: Of the head.
        root: Its root, base64.
        note: The signed head.
        at: When it was cosigned.
    """

    key: Name
    size: Count
    root: Name
    note: str
    at: Moment

    @property
    def head(self) -> Checkpoint:
        """As a head. Raises BadNote."""
        return read_checkpoint(self.note.partition("\n\n")[0].encode() + b"\n")


class Asked(msgspec.Struct, frozen=True):
    """What a log asks: its newest head, and what proves that it continues an older one."""

    old: int
    path: tuple[bytes, ...]
    note: bytes

    @property
    def data(self) -> bytes:
        """As it is sent."""
        lines = [f"old {self.old}", *(base64.b64encode(one).decode() for one in self.path)]
        return "\n".join(lines).encode() + b"\n\n" + self.note


class Answer(msgspec.Struct, frozen=True):
    """What is answered, and what follows.

    Attributes:
        status: HTTP's, as tlog-witness says: 200, 400, 403, 409 or 422.
        detail: Why not; for 409 the size from which the log has to prove.
        head: What to remember and to cosign; None: nothing.
        note: The note of that head, or of one that convicts its log.
        finding: `forked`, `rolled back`, `new key`; empty: nothing was found.
    """

    status: int
    detail: str = ""
    head: Checkpoint | None = None
    note: Note | None = None
    finding: str = ""


def read_request(data: bytes) -> Asked:
    """What a log asked.

    Raises:
        BadNote: it cannot be understood.
    """
    if len(data) > MAX_REQUEST:
        raise BadNote(f"a request of more than {MAX_REQUEST} bytes")
    above, separator, note = data.partition(b"\n\n")
    lines = above.decode("ascii", "replace").split("\n")
    number = lines[0].removeprefix("old ")
    fits = separator and lines[0].startswith("old ") and len(lines) <= 1 + _MOST_PATH
    if not fits or not (number.isascii() and number.isdigit()) or len(number) > 16:
        raise BadNote("not what a cosigner is asked: the old size, hashes, an empty line and a checkpoint")
    try:
        path = tuple(base64.b64decode(line, validate=True) for line in lines[1:])
    except ValueError as fault:
        raise BadNote("a line of the proof is not base64") from fault
    if any(len(one) != merkle.HASH_BYTES for one in path):
        raise BadNote("a line of the proof is no hash")
    return Asked(int(number), path, note)


def judge(asked: Asked, key: PublicKey, seen: Seen | None) -> Answer:
    """What becomes of a head that the log with this key asks to have cosigned."""
    try:
        head, note = open_checkpoint(asked.note, key)
        before = None if seen is None else seen.head
    except BadNote as fault:
        return Answer(403, fault.message)
    if seen is None or before is None or seen.key != key.text:
        if asked.old:
            return Answer(409, "0")
        return Answer(200, "", head, note, "" if seen is None else "new key")
    if head.size < before.size:
        return Answer(409, str(before.size), None, note, "rolled back")
    if head.size == before.size and head.root != before.root:
        return Answer(409, str(before.size), None, note, "forked")
    if asked.old != before.size:
        return Answer(409, str(before.size))
    try:
        merkle.check_consistency(before.size, before.root, head.size, head.root, asked.path)
    except merkle.BadProof as fault:
        # The log knew from which head to prove and has signed another: or its proof was damaged on the way.
        return Answer(422, fault.message, None, note, "forked")
    return Answer(200, "", head, note)
