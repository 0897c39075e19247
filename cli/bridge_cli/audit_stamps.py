"""The time stamps beside a log, checked against its records and the authorities that are trusted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridge_cli.audit_parts import Part
from bridge_core.audit import merkle, stamps
from bridge_core.audit.notes import BadNote, Checkpoint, PublicKey, open_checkpoint
from bridge_core.audit.tiles import WIDTH
from bridge_core.errors import BridgeError

if TYPE_CHECKING:
    from cryptography import x509

_PART_LEVEL = WIDTH.bit_length() - 1


class _Ranges:
    """The hashes of what was read; see `merkle.Ranges`."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._known: dict[tuple[int, int], bytes] = {}

    def whole(self, level: int, index: int) -> bytes:
        """See `merkle.Ranges`."""
        if level == _PART_LEVEL:
            return self._parts[index].root()
        if level < _PART_LEVEL:
            first = index << level
            part = self._parts[first // WIDTH]
            hashes = part.said or part.had or []
            return merkle.root_of(hashes[first % WIDTH :][: 1 << level])
        found = self._known.get((level, index))
        if found is None:
            halves = (self.whole(level - 1, 2 * index), self.whole(level - 1, 2 * index + 1))
            found = self._known[level, index] = merkle.node_hash(*halves)
        return found


class Stamps:
    """What the stamps in a log's folder say.

    Args:
        folder: The log's.
        key: The log's.
        head: Its newest head.
        parts: What was read of it.
        roots: Of authorities that are trusted; none: who signed the stamps is not looked at.

    Attributes:
        size: Records that the newest good stamp speaks for; 0: there is none.
        at: When they were there at the latest.
        by: Whether it is known who says so.
    """

    def __init__(
        self,
        folder: Path,
        key: PublicKey,
        head: Checkpoint,
        parts: Sequence[Part],
        roots: Sequence[x509.Certificate],
    ) -> None:
        self._folder = folder
        self._key = key
        self._head = head
        self._ranges = _Ranges(parts)
        self._roots = roots
        self.size = 0
        self.at = ""
        self.by = "by an authority that you trust" if roots else "by whom was not checked (--tsa-root)"

    def faults(self) -> Iterator[tuple[str, str, int]]:
        """What is wrong with them: the word for it, a sentence, and the last record of it or -1."""
        for size in stamps.sizes(self._folder):
            try:
                head, at = self._read(size)
            except (OSError, BridgeError) as fault:
                yield "altered", f"{stamps.paths(size)[1]}: {fault}", -1
                continue
            when = dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
            if head.size > self._head.size:
                left = self._head.size
                yield "truncated", f"at {when} {size} records were stamped, {left} are left", size - 1
            elif merkle.range_root(self._ranges, 0, size) != head.root:
                yield "forked", f"at {when} other first {size} records were stamped", size - 1
            else:
                self.size, self.at = size, when

    def _read(self, size: int) -> tuple[Checkpoint, float]:
        """A stamped head, and when it was stamped. Raises BridgeError, OSError."""
        path, answer_path = stamps.paths(size)
        data = (self._folder / path).read_bytes()
        head = open_checkpoint(data, self._key)[0]
        if head.size != size:
            raise BadNote(f"{path} is the head of {head.size} records")
        answer = (self._folder / answer_path).read_bytes()
        at = stamps.read(answer, data)
        if self._roots:
            stamps.check(answer, data, self._roots)
        return head, at


def roots_in(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file.

    Raises:
        BridgeError: there are none.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise BridgeError(f"{path} holds no certificates: {fault}") from fault
