"""A log's files as they lie, read: hashes, entries and heads. Nothing read here is believed by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from bridge_core.audit import merkle, sealed, tiles
from bridge_core.audit.notes import BadNote, read_checkpoint, read_note
from bridge_core.audit.sealed import KeyGone
from bridge_core.audit.tiles import WIDTH, Damaged

if TYPE_CHECKING:
    from bridge_core.sealing import Sealer

COSIGNED: Final = "cosigned"
KEY: Final = "key"
_MOST_TILES: Final = 64
_MOST_ROOTS: Final = 1 << 17
FAULT: Final = ".fault"
_MOST_FAULT: Final = 500
_GONE: Final = "key: "
# A record's share of a sealed tail, at most: each may be a piece of its own.
_MOST_BYTES: Final = tiles.MAX_BUNDLE + tiles.MAX_BUNDLE // 512 + WIDTH * 128


class Tail(msgspec.Struct, frozen=True):
    """A tile that is not full.

    Attributes:
        entries: Its entries, as far as they can be read.
        hashes: Its hashes; maybe not as many.
        fault: Why the next entry cannot be read; None: there is none.
    """

    entries: list[bytes]
    hashes: list[bytes]
    fault: Damaged | None = None


def fault_text(fault: Damaged) -> bytes:
    """What stands in the file `<path>.fault` of a copied log whose original did not open where it lies."""
    return f"{_GONE if isinstance(fault, KeyGone) else ''}{fault.message}".encode()[:_MOST_FAULT]


class StoredLog:
    """A log's folder, also while it grows: what a checkpoint speaks for does not change any more.

    It answers what `merkle.Ranges` wants. One thread at a time.

    Args:
        folder: The log's.
        sealer: Opens what is sealed; None: then that is not read.
    """

    def __init__(self, folder: Path, sealer: Sealer | None = None) -> None:
        self.folder = folder
        self._sealer = sealer
        self._tiles: dict[tuple[int, int], list[bytes]] = {}
        self._roots: dict[tuple[int, int], bytes] = {}

    def read(self, path: str) -> bytes:
        """A file of the log, as it was before it was sealed.

        Raises:
            Damaged: it does not open.
            OSError: it cannot be read.
        """
        try:
            return self._bytes(path)
        except FileNotFoundError:
            place = tiles.entries_at(path)
            if place is None:
                raise
            kind, index = place
            if kind == tiles.TAIL:
                return self._opened_tail(path, index)
            return self._opened_bundle(path, index)

    def whole(self, level: int, index: int) -> bytes:
        """See `merkle.Ranges`.

        Raises:
            Damaged: the hashes that are needed are not there.
        """
        tile_level, height = divmod(level, 8)
        first = index << height
        if height == 0:
            return self._hash(tile_level, first)
        count = 1 << height
        row = self.tile(tile_level, first // WIDTH)
        if row is not None:
            return merkle.root_of(row[first % WIDTH : first % WIDTH + count])
        return merkle.root_of([self._hash(tile_level, first + at) for at in range(count)])

    def tile(self, level: int, index: int) -> list[bytes] | None:
        """A full tile; None where it is not there or not whole."""
        found = self._tiles.get((level, index))
        if found is None:
            try:
                data = self._bytes(tiles.tile_path(level, index))
            except FileNotFoundError:
                return None
            if len(data) != tiles.TILE_BYTES:
                return None
            if len(self._tiles) >= _MOST_TILES:
                self._tiles.clear()
            found = self._tiles[level, index] = tiles.hashes_in(data)
        return found

    def bundle(self, index: int) -> tuple[list[bytes], bool]:
        """The entries of a full bundle, and whether its file is just as it was written.

        Raises:
            Damaged: it cannot be read, does not open, or is not full.
            FileNotFoundError: it is not there.
        """
        entries, intact = tiles.unpack(self.read(tiles.bundle_path(index)))
        if len(entries) != WIDTH:
            raise Damaged(f"{tiles.bundle_path(index)} does not hold {WIDTH} entries")
        return entries, intact

    def tail(self, index: int) -> Tail:
        """A tile that is not full. Raises OSError."""
        path = tiles.tail_paths(index)[0]
        entries, fault = tiles.entries_in(self._or_nothing(path))[0], None
        data = self._or_nothing(sealed.tail_path(index))
        if data:
            opened = sealed.open_tail(self._sealer, index, data)
            if len(opened.entries) >= len(entries):
                entries, fault = opened.entries, opened.fault
        elif not entries:
            fault = self._said_fault(path)
        return Tail(entries[:WIDTH], self.tail_hashes(index), fault)

    def tail_hashes(self, index: int) -> list[bytes]:
        """The hashes of a tile that is not full. Raises OSError."""
        return tiles.hashes_in(self._or_nothing(tiles.tail_paths(index)[1]))[:WIDTH]

    def entries(self, index: int) -> list[bytes]:
        """The entries of a bundle, full or not; of one that is neither there nor growing none.

        Raises:
            Damaged: it cannot be read.
        """
        for _ in range(2):  # it may become full in between
            try:
                return self.bundle(index)[0]
            except FileNotFoundError:
                found = self.tail(index).entries
            if found:
                return found
        return []

    def bundles_down(self, size: int) -> Iterator[tuple[int, list[bytes]]]:
        """The bundles of so many entries that can be read, with their indices, the newest first."""
        for index in range((size + WIDTH - 1) // WIDTH - 1, -1, -1):
            try:
                entries = self.entries(index)
            except Damaged:
                continue
            if not entries:
                return  # what is older is gone
            yield index, entries[: size - index * WIDTH]

    def length(self) -> int:
        """How many entries there are, signed for or not. Raises OSError."""
        try:
            signed = read_checkpoint(read_note(self.read(tiles.CHECKPOINT)).text).size
        except (FileNotFoundError, BadNote):
            signed = 0
        full = signed // WIDTH
        while self.has_bundle(full):
            full += 1
        return max(signed, full * WIDTH + len(self.tail(full).entries))

    def oldest_bundle(self, full: int) -> int:
        """The first of so many full bundles that is there: older ones went as they were too old."""
        low, high = 0, full
        while low < high:
            middle = (low + high) // 2
            if self.has_bundle(middle):
                high = middle
            else:
                low = middle + 1
        return low

    def has_bundle(self, index: int) -> bool:
        """Whether there is a bundle of this number, whatever is in it."""
        paths = (tiles.bundle_path(index), sealed.bundle_path(index))
        return any((self.folder / path).exists() for path in paths)

    def _bytes(self, path: str) -> bytes:
        with (self.folder / path).open("rb") as file:
            # Room is made for as many as are asked for: no more than there are.
            return file.read(min(os.fstat(file.fileno()).st_size, _MOST_BYTES))

    def _opened_bundle(self, path: str, index: int) -> bytes:
        try:
            data = self._bytes(sealed.bundle_path(index))
        except FileNotFoundError:
            fault = self._said_fault(path)
            if fault is not None:
                raise fault from None
            raise
        return sealed.open_bundle(self._sealer, index, data)

    def _opened_tail(self, path: str, index: int) -> bytes:
        opened = sealed.open_tail(self._sealer, index, self._bytes(sealed.tail_path(index)))
        if opened.fault is not None:
            raise opened.fault
        return b"".join(map(tiles.framed, opened.entries))

    def _said_fault(self, path: str) -> Damaged | None:
        """Why a file of a copied log did not open at the original's place; None: it is not said."""
        said = self._or_nothing(path + FAULT)[:_MOST_FAULT].decode("utf-8", "replace")
        if not said:
            return None
        return KeyGone(said.removeprefix(_GONE)) if said.startswith(_GONE) else Damaged(said)

    def _or_nothing(self, path: str) -> bytes:
        try:
            return self._bytes(path)
        except FileNotFoundError:
            return b""

    def _hash(self, level: int, index: int) -> bytes:
        row = self.tile(level, index // WIDTH)
        if row is not None:
            return row[index % WIDTH]
        if level == 0:
            return self._hash_of_tail(index)
        found = self._roots.get((level, index))
        if found is None:
            below = self.tile(level - 1, index)
            if below is None:
                raise Damaged(f"{tiles.tile_path(level - 1, index)} is missing or cut")
            if len(self._roots) >= _MOST_ROOTS:
                self._roots.clear()
            found = self._roots[level, index] = merkle.root_of(below)
        return found

    def _hash_of_tail(self, index: int) -> bytes:
        hashes = self.tail_hashes(index // WIDTH)
        if index % WIDTH < len(hashes):
            return hashes[index % WIDTH]
        row = self.tile(0, index // WIDTH)  # it may have become full in between
        if row is None:
            raise Damaged(f"the hash of entry {index} is missing")
        return row[index % WIDTH]
