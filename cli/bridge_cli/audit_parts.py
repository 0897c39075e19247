"""A tile's worth of a log that is verified: what its hashes say, and what its records are."""

from __future__ import annotations

from collections.abc import Sequence

from bridge_core.audit import merkle, tiles
from bridge_core.audit.stored import StoredLog
from bridge_core.audit.tiles import WIDTH, Damaged


class Part:
    """A tile's worth: the hashes that its tile says, and those of the records that are there.

    Attributes:
        index: Of the tile.
        width: Records that it has to have.
        said: What the tile says; None where it is missing or cut.
        had: Of the records; None where they cannot be read.
        intact: Their file is as it was written.
        missing: Their file is not there.
        gone: That is as they were too old, and removed.
        fault: Why they, or those behind them that did, cannot be read; None: they can.
        times: When the first and the last of them were made; 0: not known.
        above: The tile's root as the tile above has it, where the tile itself is gone.
    """

    def __init__(self, index: int, width: int) -> None:
        self.index = index
        self.width = width
        self.said: list[bytes] | None = None
        self.had: list[bytes] | None = None
        self.intact = True
        self.missing = False
        self.gone = False
        self.fault: Damaged | None = None
        self.times = (0.0, 0.0)
        self.above = b""
        self._roots: dict[bool, bytes] = {}

    @property
    def differs(self) -> bool:
        """Records and hashes contradict each other."""
        return not self.gone and self.said != self.had

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last of its records."""
        return self.index * WIDTH, self.index * WIDTH + self.width - 1

    @property
    def ways(self) -> list[bool]:
        """Whether its hashes can be the signed ones (True), and those of its records (False)."""
        both = ((True, self.said), (False, self.had))
        return [way for way, hashes in both if hashes is not None and len(hashes) == self.width]

    def root(self, *, said: bool = True) -> bytes:
        """The root of the hashes, or else of the records."""
        found = self._roots.get(said)
        if found is None:
            hashes = self.said if said else self.had
            found = self.above if hashes is None and said else merkle.root_of(hashes or ())
            self._roots[said] = found
        return found

    def believe_records(self) -> None:
        """The records are the signed ones."""
        self.said = self.had
        self._roots.clear()


def read_part(stored: StoredLog, index: int, width: int) -> tuple[Part, Sequence[bytes]]:
    """A tile and its records as they are read, of which so many are signed for. Raises OSError."""
    part, tail = Part(index, width), stored.tail(index)
    part.said = stored.tile(0, index) if width == WIDTH else None
    if part.said is None and len(tail.hashes) >= width:
        part.said = tail.hashes[:width]
    entries: Sequence[bytes] = ()
    try:
        entries, part.intact = tiles.unpack(stored.read(tiles.bundle_path(index)))
    except FileNotFoundError:
        entries = tail.entries  # of a bundle that became full a moment ago they are in either
        part.fault = tail.fault if len(entries) < width else None
        part.missing = not entries and part.fault is None
    except Damaged as fault:
        part.fault = fault
    if part.said is None and width == WIDTH:
        above = stored.tile(1, index // WIDTH)
        part.above = b"" if above is None else above[index % WIDTH]
    if width < WIDTH:
        entries = entries[:width]
    if entries or not (part.missing or part.fault):
        part.had = list(map(merkle.leaf_hash, entries))
    return part, entries
