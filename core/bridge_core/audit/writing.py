"""A log on disk that is being written: entries, tiles and signed heads, in an order that a crash respects.

Rules:
1. Entries grow a tail file; those that make 256 of them are packed with it into a bundle, and its tile is
   written beside it.
2. A head is signed over nothing that is not on the disk: entries and tiles are synced before it, those of a
   full tail in its bundle; that tail is removed only after a head speaks for the bundle.
3. After a crash the log goes on behind its last whole entry; what is torn behind it was never signed for.
   Where there is a whole bundle it counts, not what there is of its tail.
4. Where it is asked for, records lie sealed (`sealed`) from then on; what was written before stays as it is.
5. A folder whose files contradict its signed head, or do not open, is never continued: it is put aside, and
   a log with another key begun, which says so in its first entry.
"""

from __future__ import annotations

import base64
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from bridge_core.audit import merkle, sealed, tiles
from bridge_core.audit.notes import (
    BadNote,
    Checkpoint,
    Note,
    PublicKey,
    Signer,
    open_checkpoint,
)
from bridge_core.audit.stored import KEY, StoredLog
from bridge_core.audit.tail import TailWriter, open_to_write, write_all
from bridge_core.audit.tiles import WIDTH, Damaged
from bridge_core.files import sync_folder, write_atomically

if TYPE_CHECKING:
    from bridge_core.sealing import Sealer

log = structlog.get_logger()

_PRIVATE: Final = "PRIVATE+KEY+"
_SEED_BYTES: Final = 32
_MOST_UNSIGNED: Final = 1024  # bundles: heads are signed each second
_KEY_TYPE: Final = b"\x01"


class NotWritten(OSError):
    """The disk did not take all of it.

    Args:
        written: How many of the entries it took.
        fault: Why not the rest.
    """

    def __init__(self, written: int, fault: OSError) -> None:
        super().__init__(fault.errno, fault.strerror or str(fault))
        self.written = written


class LogWriter:
    """The one writer of a log; one thread at a time.

    Args:
        folder: The log's; made where it is missing.
        origin: What the log is called, see `notes.Checkpoint`.
        begun: Makes the first entry of a new log from what there was to say of a former one.
        sealer: Opens what is sealed, and seals; None: nothing is.
        wanted: Whether what is written is to be sealed, now.

    Attributes:
        signer: The log's key.
        stored: Its files, read.
        size: Entries.
        signed: The newest signed head; None before the first.

    Raises:
        OSError: the folder cannot be made, read or written.
    """

    def __init__(
        self,
        folder: Path,
        origin: str,
        begun: Callable[[str], bytes],
        *,
        sealer: Sealer | None = None,
        wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder = folder
        self._sealer = sealer
        self._wanted = wanted
        self._levels: list[list[bytes]] = [[]]
        self._look_anew()
        self._full_tails: set[int] = set()
        self.size = 0
        self.signed: Checkpoint | None = None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.signer = self._read_key(origin)
            self._recover()
            if self.size == 0:
                self.append([begun("")])
        except FileNotFoundError:
            self._begin(origin, begun, self._put_aside("its key is gone"))
        except (BadNote, Damaged) as fault:
            self._begin(origin, begun, self._put_aside(fault.message))
        self.oldest = self.stored.oldest_bundle(self.size // WIDTH)

    def _look_anew(self) -> None:
        self.stored = StoredLog(self.folder, self._sealer)
        self._tail = TailWriter(self.folder, self._sealer, self._wanted)
        self._root = str(self.folder)
        self._unsynced: set[str] = set()
        self._has_tail = False  # of the lowest row there may be tail files

    def append(self, entries: list[bytes]) -> int:
        """Adds entries; the index of the first of them.

        Raises:
            NotWritten: the disk did not take all; what it took is whole.
        """
        first = self.size
        try:
            if len(self._levels[0]) == WIDTH:  # its bundle is there, and the disk did not take its tile
                self._close_tile()
            while (done := self.size - first) < len(entries):
                part = entries[done : done + WIDTH - self.size % WIDTH]
                if (self.size + len(part)) % WIDTH:
                    self._grow_tail(part)
                else:
                    self._fill_tile(part)
        except OSError as fault:
            done = self.size - first
            if done < len(entries):
                raise NotWritten(done, fault) from fault
        return first

    def root(self) -> bytes:
        """The root of all entries."""
        if self.size == 0:
            return merkle.EMPTY_ROOT
        found: bytes | None = None
        for row in self._levels:
            if row:
                found = merkle.root_of(row if found is None else [*row, found])
        return found or merkle.EMPTY_ROOT

    def checkpoint(self) -> Checkpoint | None:
        """Signs what there is, once it is on the disk; None where the newest head says it already.

        Raises:
            OSError: the disk does not take it; the former head stays.
        """
        if self.signed is not None and self.signed.size == self.size:
            return None
        self._sync()
        head = Checkpoint(self.signer.public.name, self.size, self.root())
        note = Note(head.text, (self.signer.sign(head.text),))
        write_atomically(self.folder / tiles.CHECKPOINT, note.data)
        self.signed = head
        for index in self._full_tails:
            self._tail.remove(index)
        self._full_tails.clear()
        return head

    def forget_bundle(self) -> None:
        """Removes the oldest bundle. Its hashes stay: what is younger is proved with them. Raises OSError."""
        self._remove_bundle(self.oldest)
        self.oldest += 1
        group, place = divmod(self.oldest, WIDTH)
        if place == 0 and (self.folder / tiles.tile_path(1, group - 1)).exists():
            # Whose hashes are all in the tile above.
            for index in range(self.oldest - WIDTH, self.oldest):
                (self.folder / tiles.tile_path(0, index)).unlink(missing_ok=True)

    # -- writing

    def _grow_tail(self, entries: list[bytes]) -> None:
        """Adds entries to the tail, all or none."""
        index, have = divmod(self.size, WIDTH)
        hashes = merkle.leaf_hashes(entries)
        self._has_tail = True
        self._tail.grow(index, have, entries, hashes)
        self._levels[0] += hashes
        self.size += len(entries)

    def _fill_tile(self, entries: list[bytes]) -> None:
        """Makes a bundle and its tile of the tail and the entries that it lacks, all or none of them.

        They do not pass through the tail: what counts of a full one is its bundle.
        """
        index, have = divmod(self.size, WIDTH)
        hashes = merkle.leaf_hashes(entries)
        tail = self._tail.bundle(index) if have else b""
        self._write_bundle(index, tail + tiles.framed_all(entries))
        self._levels[0] += hashes
        self.size += len(entries)
        self._close_tile()

    def _write_bundle(self, index: int, entries: bytes) -> None:
        sealer = self._tail.sealer()
        if sealer is None:
            self._write_new(tiles.bundle_path(index), tiles.pack(entries))
        else:
            data = sealed.seal_bundle(sealer, index, tiles.pack(entries))
            self._write_new(sealed.bundle_path(index), data)

    def _close_tile(self, *, recovering: bool = False) -> None:
        """The bundle of the lowest row is there: so is its tile, then."""
        index = self.size // WIDTH - 1
        self._close_rows(index, recovering=recovering)
        if self._has_tail:
            self._tail.packed(index)
            self._full_tails.add(index)
            self._has_tail = False

    def _remove_bundle(self, index: int) -> None:
        for path in self._bundle_paths(index):
            path.unlink(missing_ok=True)

    def _bundle_paths(self, index: int) -> tuple[Path, Path]:
        return self.folder / tiles.bundle_path(index), self.folder / sealed.bundle_path(index)

    def _close_rows(self, number: int, *, recovering: bool) -> None:
        """Writes the tile of the lowest row, which is full, and of those above that become full by it.

        `recovering`: they may be there.
        """
        rows, level = [list(row) for row in self._levels], 0
        while len(rows[level]) == WIDTH:
            path, tile = tiles.tile_path(level, number), b"".join(rows[level])
            if not recovering or self.stored.tile(level, number) != rows[level]:
                self._write_new(path, tile)
            else:  # a good one is not put at risk, and may be of a writer that did not come to sync it
                self._unsynced.add(f"{self._root}/{path}")
            if level + 1 == len(rows):
                rows.append([])
            rows[level + 1].append(merkle.root_of(rows[level]))
            rows[level] = []
            level, number = level + 1, number // WIDTH
        self._levels = rows

    def _write_new(self, path: str, data: bytes) -> None:
        """A file that is there whole or not at all to whoever reads now; `_sync` makes it last."""
        folder, _, name = f"{self._root}/{path}".rpartition("/")
        temporary = f"{folder}/.{name}.new"
        handle = open_to_write(temporary, os.O_TRUNC)
        try:
            write_all(handle, data)
        finally:
            os.close(handle)
        os.replace(temporary, f"{folder}/{name}")  # noqa: PTH105 - for each bundle: pathlib takes as long as the disk
        self._unsynced.add(f"{folder}/{name}")

    def _sync(self) -> None:
        folders = set()
        for path in self._unsynced | self._tail.unsynced:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            folder = path.rpartition("/")[0]
            while folder not in folders and len(folder) > len(self._root):
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        for folder in folders | {self._root}:
            sync_folder(Path(folder))
        self._unsynced.clear()
        self._tail.unsynced.clear()

    # -- beginning

    def _read_key(self, origin: str) -> Signer:
        text = (self.folder / KEY).read_text(encoding="utf-8", errors="replace").strip()
        encoded = text.removeprefix(f"{_PRIVATE}{origin}+").partition("+")[2]
        try:
            seed = base64.b64decode(encoded, validate=True)[1:]
        except ValueError:
            seed = b""
        if not text.startswith(f"{_PRIVATE}{origin}+") or len(seed) != _SEED_BYTES:
            raise BadNote(f"its key is not one of {origin}")
        return Signer(origin, seed)

    def _recover(self) -> None:
        """Goes on behind the last whole entry."""
        try:
            data = self.stored.read(tiles.CHECKPOINT)
        except FileNotFoundError:
            signed = None
        else:
            signed = open_checkpoint(data, self.signer.public)[0]
        self._follow_files(0 if signed is None else signed.size)
        if signed is not None:
            if self.size < signed.size:
                raise Damaged(f"{signed.size - self.size} of its {signed.size} signed entries are missing")
            if merkle.range_root(self.stored, 0, signed.size) != signed.root:
                raise Damaged(f"its {signed.size} entries are not those that were signed")
        self.signed = signed

    def _follow_files(self, signed: int) -> None:
        """Takes up what there is. Behind the last signed bundle it may be torn."""
        index = signed // WIDTH
        self._levels = self._rows_above(index)
        self.size = index * WIDTH
        while True:
            self._has_tail = True  # for all that is known
            try:
                entries = self.stored.bundle(index)[0]
            except (FileNotFoundError, Damaged):
                self._take_tail(index, max(0, signed - index * WIDTH))
                if len(self._levels[0]) < WIDTH:
                    self._sweep(index)
                    return
                bundle = self._tail.bundle(index)
                self._remove_bundle(index)  # one that a crash left behind, and that does not open
                self._write_bundle(index, bundle)
                self._close_tile(recovering=True)
            else:
                self._levels[0] = merkle.leaf_hashes(entries)
                self.size += WIDTH
                self._unsynced |= {str(path) for path in self._bundle_paths(index) if path.exists()}
                self._close_tile(recovering=True)
            index += 1

    def _take_tail(self, index: int, signed: int) -> None:
        entries = self._tail.take_up(index, signed)
        self._levels[0] = merkle.leaf_hashes(entries)
        self.size += len(entries)
        if len(entries) < WIDTH:  # else the bundle and its tile follow at once
            self._tail.write_hashes(index, self._levels[0])

    def _sweep(self, index: int) -> None:
        """Removes what nobody signed for behind a gap: it would be taken up later as if it fitted."""
        for number in range(index, index + _MOST_UNSIGNED):
            self._remove_bundle(number)
        self._tail.sweep(index)

    def _rows_above(self, full: int) -> list[list[bytes]]:
        """The rows of hashes above so many full bundles."""
        rows: list[list[bytes]] = [[]]
        level, count = 1, full
        while count:
            first = count - count % WIDTH
            rows.append([self.stored.whole(8 * level, at) for at in range(first, count)])
            level, count = level + 1, count // WIDTH
        return rows

    def _put_aside(self, reason: str) -> str:
        """Keeps what there is under another name; what is to be said of it, empty where there was nothing."""
        if not any(self.folder.iterdir()):
            return ""
        aside = self.folder.with_name(f"{self.folder.name}-until-{int(time.time())}-{secrets.token_hex(2)}")
        self.folder.rename(aside)
        self.folder.mkdir(mode=0o700)
        log.error("audit_log_begun_anew", former=str(aside), reason=reason)
        return f"{reason}; it is kept as {aside.name}"

    def _begin(self, origin: str, begun: Callable[[str], bytes], former: str) -> None:
        self._look_anew()
        self._levels, self.size, self.signed = [[]], 0, None
        self._full_tails.clear()
        seed = secrets.token_bytes(_SEED_BYTES)
        self.signer = Signer(origin, seed)
        id_ = self.signer.public.text.removeprefix(f"{origin}+").partition("+")[0]
        key = f"{_PRIVATE}{origin}+{id_}+{base64.b64encode(_KEY_TYPE + seed).decode()}\n"
        write_atomically(self.folder / KEY, key.encode())
        write_atomically(self.folder / f"{KEY}.pub", self.signer.public.text.encode() + b"\n")
        self.append([begun(former)])
        self.checkpoint()


def public_key(folder: Path) -> PublicKey:
    """The key that a log's folder says is the log's.

    Raises:
        BadNote: it says none.
    """
    try:
        text = (folder / f"{KEY}.pub").read_text(encoding="utf-8", errors="replace")
        if text[-1:] != "\n":
            raise BadNote(f"{KEY}.pub is not one line")
        return PublicKey.parse(text[:-1])
    except OSError as fault:
        raise BadNote(f"{folder} holds no log: {KEY}.pub cannot be read ({fault.strerror})") from fault
