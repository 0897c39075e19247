"""The last, not yet full tile of a log that is being written: its entries and hashes, which grow together.

Its entries lie in one of two files: in the clear, or sealed (`sealed`). Which one is asked at each append;
where it is the other one, what there is moves first. Hashes are not sealed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from bridge_core.audit import merkle, sealed, tiles
from bridge_core.audit.stored import StoredLog, Tail
from bridge_core.audit.tiles import Damaged
from bridge_core.files import sync_folder, write_atomically

if TYPE_CHECKING:
    from bridge_core.sealing import Sealer

log = structlog.get_logger()


class TailWriter:
    """Writes the tail of a log; one thread at a time.

    Args:
        folder: The log's.
        sealer: Seals and opens; None: nothing is sealed.
        wanted: Whether what is written is to be sealed, now.

    Attributes:
        unsynced: Files that were written and are not made to last yet; whoever syncs them takes them out.
    """

    def __init__(self, folder: Path, sealer: Sealer | None, wanted: Callable[[], bool]) -> None:
        self._folder = folder
        self._sealer = sealer
        self._wanted = wanted
        self._stored = StoredLog(folder, sealer)
        self._sealed = False  # how the present tail lies there
        self.unsynced: set[str] = set()

    def sealer(self) -> Sealer | None:
        """What is written from now on is sealed with; None: it is not sealed."""
        return self._sealer if self._wanted() else None

    def grow(self, index: int, have: int, entries: list[bytes], hashes: list[bytes]) -> None:
        """Adds entries behind those that tile `index` has, all or none. Raises OSError."""
        sealer = self.sealer()
        if self._sealed != (sealer is not None):
            if have:
                self._move(index, sealer)
            self._sealed = sealer is not None
        data = tiles.framed_all(entries)
        if sealer is not None:
            data = sealed.seal_part(sealer, index, have, data)
        hashes_path, entries_path = self._folder / tiles.tail_paths(index)[1], self._path(index)
        before = _length(entries_path) if have else 0
        try:
            write_at(hashes_path, have * merkle.HASH_BYTES, b"".join(hashes))
            write_at(entries_path, before, data)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(entries_path, before)
                os.truncate(hashes_path, have * merkle.HASH_BYTES)
            raise
        if not have:
            self._other_path(index).unlink(missing_ok=True)  # of a log that was cut back
        self.unsynced |= {str(entries_path), str(hashes_path)}

    def bundle(self, index: int) -> bytes:
        """The framed entries of tile `index`.

        Raises:
            Damaged: they do not open.
            OSError: they cannot be read.
        """
        return self._stored.read(tiles.tail_paths(index)[0])

    def take_up(self, index: int, signed: int) -> list[bytes]:
        """The entries that a crash left of tile `index`; what is torn behind them is cut off.

        Args:
            index: The tile's.
            signed: So many of them are signed for.

        Raises:
            Damaged: they are there and do not open.
            OSError: they cannot be read or cut.
        """
        tail = self._stored.tail(index)
        if tail.fault is not None and len(tail.entries) < signed:
            raise Damaged(f"its tail: {tail.fault.message}", hint=tail.fault.hint)
        self._sealed = self._keep_longer(index, tail)
        path = self._path(index)
        if path.exists():
            self._cut(path, index)
            self.unsynced.add(str(path))
        return tail.entries

    def write_hashes(self, index: int, hashes: list[bytes]) -> None:
        """Writes all hashes of tile `index` anew. Raises OSError."""
        path = self._folder / tiles.tail_paths(index)[1]
        if hashes or path.exists():
            write_at(path, 0, b"".join(hashes))
            self.unsynced.add(str(path))

    def packed(self, index: int) -> None:
        """Tile `index` is a bundle now, which is made to last in place of its tail."""
        self.unsynced -= {str(self._folder / one) for one in _paths(index)}

    def remove(self, index: int) -> None:
        """Removes the files of tile `index`. Raises OSError."""
        for path in _paths(index):
            (self._folder / path).unlink(missing_ok=True)

    def sweep(self, index: int) -> None:
        """Removes the files of tiles behind this one. Raises OSError."""
        for path in (self._folder / tiles.TAIL).glob("*.*"):
            if path.stem.isdigit() and int(path.stem) > index:
                path.unlink(missing_ok=True)

    def _path(self, index: int) -> Path:
        plain = tiles.tail_paths(index)[0]
        return self._folder / (sealed.tail_path(index) if self._sealed else plain)

    def _other_path(self, index: int) -> Path:
        plain = tiles.tail_paths(index)[0]
        return self._folder / (plain if self._sealed else sealed.tail_path(index))

    def _move(self, index: int, sealer: Sealer | None) -> None:
        """Writes what there is the other way; whole before the former file goes."""
        data, former = self.bundle(index), self._path(index)
        if sealer is not None:
            data = sealed.seal_part(sealer, index, 0, data)
        write_atomically(self._other_path(index), data)
        former.unlink(missing_ok=True)
        sync_folder(former.parent)
        self.unsynced.discard(str(former))

    def _keep_longer(self, index: int, tail: Tail) -> bool:
        """Of two files that a crash while one was moved left, the one with what was read; is it sealed?"""
        path, other = (self._folder / one for one in (tiles.tail_paths(index)[0], sealed.tail_path(index)))
        if not other.exists():
            return False
        if not path.exists():
            return True
        plain = tiles.entries_in(path.read_bytes())[0]
        is_sealed = len(plain) < len(tail.entries) or plain != tail.entries
        (path if is_sealed else other).unlink()
        return is_sealed

    def _cut(self, path: Path, index: int) -> None:
        data = path.read_bytes()
        if self._sealed:
            taken = sealed.open_tail(self._sealer, index, data).taken
        else:
            taken = tiles.entries_in(data)[1]
        if taken != len(data):
            log.warning("audit_log_torn", path=str(path), cut_bytes=len(data) - taken)
            os.truncate(path, taken)


def _paths(index: int) -> tuple[str, ...]:
    return (*tiles.tail_paths(index), sealed.tail_path(index))


def write_at(path: Path, at: int, data: bytes) -> None:
    """Writes into a file, made where it is missing, and cuts off what was behind. Raises OSError."""
    handle = open_to_write(path)
    try:
        if os.lseek(handle, 0, os.SEEK_END) != at:
            os.ftruncate(handle, at)
            os.lseek(handle, at, os.SEEK_SET)
        write_all(handle, data)
    finally:
        os.close(handle)


def open_to_write(path: Path | str, flags: int = 0) -> int:
    """A handle of a file that is made where it is missing, as is its folder. Raises OSError."""
    flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:  # seldom, and asking each time would take longer than to write
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


def write_all(handle: int, data: bytes) -> None:
    """Writes all of it. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
