"""Blobs and parts of blobs on disk. Everything here blocks: run it in threads.

A blob on its way lies in `bridge-partial/<hex>` beside `blobs`, sparse, with a journal `<hex>.pieces` of
the pieces that it has and their hashes. A journal's line counts only when the piece on disk has that hash,
so neither a cut nor a crash leaves a piece that is believed and wrong. The blob gets its name by a rename,
after the whole has the right digest and is on the disk.

Where the node seals its blobs, the file is a sealed one from its first byte on (`blob_content`).

The models folder may belong to an engine's user, who may be hostile: nothing here follows a symbolic link
in the last two steps of a path.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bridge_agent.models.blob_content import Content, PlainContent, SealedContent
from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.piece_rules import piece_count, piece_size, span
from bridge_core.errors import BridgeError, Reaction
from bridge_core.model_store.layout import describe
from bridge_core.sealing import SealBroken

PARTIAL: Final = "bridge-partial"
_LINE: Final = re.compile(r"(\d{1,5}) ([0-9a-f]{64})")
_MOST_JOURNAL: Final = 8 << 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BlobFault(BridgeError):
    """The disk refused, or holds something else than it should."""


class BlobBusy(BridgeError):
    """Another process fetches this blob into the same store."""

    reaction = Reaction.RETRY


@contextlib.contextmanager
def said(what: str) -> Iterator[None]:
    """Says what could not be done where the system refuses, or a seal is broken. Raises BlobFault instead."""
    try:
        yield
    except SealBroken as fault:
        raise BlobFault(f"{what}: {fault.message}", hint=fault.hint) from fault
    except OSError as fault:
        hint = "free some space and pull again: what came is kept" if fault.errno == errno.ENOSPC else ""
        raise BlobFault(f"{what}: {describe(fault)}", hint=hint) from fault


def open_blob(root: Path, hex_: str) -> int | None:
    """A descriptor of a whole blob; None where there is none that is a file of its own.

    Raises:
        BlobFault: it cannot be read.
    """
    with said(f"cannot read blob {hex_[:12]}"):
        try:
            folder = os.open(root / "blobs", _FOLDER)
            try:
                found = os.open(
                    f"sha256-{hex_}",
                    os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
                    dir_fd=folder,
                )
            finally:
                os.close(folder)
        except FileNotFoundError:
            return None
        except OSError as fault:
            if fault.errno in (errno.ELOOP, errno.ENOTDIR):
                return None
            raise
        if stat.S_ISREG(os.fstat(found).st_mode):
            return found
        os.close(found)
        return None


@contextlib.contextmanager
def opened(root: Path, hex_: str) -> Iterator[int | None]:
    """What `open_blob` finds, closed afterwards."""
    handle = open_blob(root, hex_)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def read_piece(read: Callable[[int, int], bytes], size: int, piece: int) -> bytes:
    """The bytes of a piece of a blob of `size` bytes, of which `read` gives those from an offset on.

    Raises:
        BlobFault: it is shorter than it was, was changed since it was sealed, or cannot be read.
    """
    begin, length = span(size, piece)
    with said(f"cannot read piece {piece}"):
        data = read(begin, length)
    if len(data) != length:
        raise BlobFault(f"piece {piece} has {len(data)} bytes and not {length}: the file was cut")
    return data


def hash_all(
    read: Callable[[int, int], bytes], size: int, stopped: Callable[[], bool] = lambda: False
) -> tuple[str, list[str]]:
    """The digest of a blob in hexadecimal, and that of each of its pieces.

    Args:
        read: Gives bytes of it from an offset on.
        size: Its bytes.
        stopped: Asked between pieces; True ends it early, and nothing it then returns counts.

    Raises:
        BlobFault: it is shorter than `size`, was changed since it was sealed, or cannot be read.
    """
    whole, pieces = hashlib.sha256(), []
    for piece in range(piece_count(size)):
        if stopped():
            break
        data = read_piece(read, size, piece)
        whole.update(data)
        pieces.append(hashlib.sha256(data).hexdigest())
    return whole.hexdigest(), pieces


def free_bytes(file: int) -> int:
    """Bytes that are free on the disk of an open file. Raises OSError."""
    disk = os.fstatvfs(file)
    return disk.f_bavail * disk.f_frsize


def open_partial(root: Path) -> int:
    """A descriptor of the folder of what is on its way, made where there is none. Raises OSError."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(PARTIAL, 0o700, dir_fd=top)
        return os.open(PARTIAL, _FOLDER, dir_fd=top)
    finally:
        os.close(top)


def keep(root: Path, hex_: str, file: int, folder: int, name: str) -> None:
    """Makes a file of the partial folder the blob of a digest, synced before and after.

    Args:
        root: The models folder.
        hex_: The digest's digits.
        file: The file's descriptor.
        folder: That of the partial folder.
        name: The file's name there.

    Raises:
        OSError: it cannot be done.
    """
    blobs = os.open(root / "blobs", _FOLDER)
    try:
        os.fchmod(file, 0o644)
        give_like(blobs, file)
        os.fsync(file)
        os.rename(name, f"sha256-{hex_}", src_dir_fd=folder, dst_dir_fd=blobs)
        os.fsync(blobs)
        os.fsync(folder)
    finally:
        os.close(blobs)


class PartialBlob:
    """A blob on its way into a store; close it.

    Args:
        root: The models folder.
        hex_: The digest's digits.
        size: The blob's bytes.
        reserve: Bytes of the disk that stay free.
        stopped: Asked while what is there is read; True ends that, and the file cannot be used.
        keys: What it is sealed with; None: it lies there in the clear.

    Attributes:
        hashes: Of each piece that is here.

    Raises:
        BlobBusy: another process has it open.
        BlobFault: the disk has no room for it, or refuses.
        KeyWithheld: there is no key to seal it with.
    """

    def __init__(
        self,
        root: Path,
        hex_: str,
        size: int,
        *,
        reserve: int = 0,
        stopped: Callable[[], bool] = lambda: False,
        keys: BlobKeys | None = None,
    ) -> None:
        self._root = root
        self._hex = hex_
        self._keys = keys
        self._content: Content
        self.size = size
        self.hashes: dict[int, str] = {}
        self._folder = self._file = self._journal = -1
        try:
            with said(f"cannot fetch blob {hex_[:12]} into {root}"):
                self._open(reserve, stopped)
        except BaseException:
            self.close()
            raise

    def _open(self, reserve: int, stopped: Callable[[], bool]) -> None:
        self._folder = open_partial(self._root)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._hex, flags, 0o600, dir_fd=self._folder)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlobBusy(f"another process fetches blob {self._hex[:12]} into {self._root}") from None
        self._journal = os.open(f"{self._hex}.pieces", flags | os.O_APPEND, 0o600, dir_fd=self._folder)
        self._content = (
            PlainContent(self._file) if self._keys is None else SealedContent(self._file, self._keys)
        )
        if self._content.take_up(self._hex, self.size):
            self._take_up(stopped)
        else:
            self._content.begin(self._hex, self.size)
        self._write_journal()
        room, wanted = free_bytes(self._file), self.missing_bytes
        if room < wanted + reserve:
            raise BlobFault(
                f"blob {self._hex[:12]} needs {wanted} bytes more in {self._root}, where {room} are free and "
                f"{reserve} are to stay free",
                hint="remove a model (`bridgectl models rm`), or give the disk more room",
            )

    def _take_up(self, stopped: Callable[[], bool]) -> None:
        """Believes of the journal what the file confirms. Raises BlobFault: it was stopped before the end."""
        text = os.pread(self._journal, _MOST_JOURNAL, 0).decode("ascii", "replace")
        lines = (found for line in text.splitlines() if (found := _LINE.fullmatch(line)))
        journalled = {int(found[1]): str(found[2]) for found in lines}
        for piece, hash_ in journalled.items():
            if stopped():  # the journal stays as it is, for the next one
                raise BlobFault(f"nobody waits for blob {self._hex[:12]} any more")
            if piece < piece_count(self.size) and self._has(piece, hash_):
                self.hashes[piece] = hash_

    def _has(self, piece: int, hash_: str) -> bool:
        try:
            data = self._content.read(*span(self.size, piece))
        except SealBroken:  # it was cut off while it was written
            return False
        return hashlib.sha256(data).hexdigest() == hash_

    def _write_journal(self) -> None:
        os.ftruncate(self._journal, 0)
        lines = "".join(f"{piece} {hash_}\n" for piece, hash_ in self.hashes.items())
        os.write(self._journal, lines.encode())

    @property
    def missing_bytes(self) -> int:
        """Bytes of the pieces that are not here."""
        return self.size - sum(span(self.size, piece)[1] for piece in self.hashes)

    def write(self, piece: int, data: bytes, hash_: str) -> None:
        """Puts a piece in its place.

        Raises:
            BlobFault: the disk is full, or refuses.
        """
        with said(f"cannot write blob {self._hex[:12]}"):
            self._content.write(piece * piece_size(self.size), data)
            os.write(self._journal, f"{piece} {hash_}\n".encode())
        self.hashes[piece] = hash_

    def read(self, piece: int) -> bytes:
        """The bytes of a piece that is here. Raises BlobFault."""
        return read_piece(self._content.read, self.size, piece)

    def lose(self, pieces: set[int]) -> None:
        """Forgets pieces that are wrong."""
        for piece in pieces:
            self.hashes.pop(piece, None)
        with said(f"cannot write blob {self._hex[:12]}"):
            self._write_journal()

    def digest(self, stopped: Callable[[], bool]) -> str:
        """The digest of the whole, in hexadecimal; see `hash_all`, which hashes each byte twice."""
        whole = hashlib.sha256()
        for piece in range(piece_count(self.size)):
            if stopped():
                break
            whole.update(self.read(piece))
        return whole.hexdigest()

    def commit(self) -> None:
        """Gives the blob its name, synced before and after.

        Raises:
            BlobFault: the disk refuses.
        """
        with said(f"cannot keep blob {self._hex[:12]}"):
            keep(self._root, self._hex, self._file, self._folder, self._hex)
            os.unlink(f"{self._hex}.pieces", dir_fd=self._folder)

    def close(self) -> None:
        """Lets go of the files; what came stays for the next try."""
        for handle in (self._file, self._journal, self._folder):
            if handle >= 0:
                os.close(handle)
        self._file = self._journal = self._folder = -1


def give_like(folder: int | Path, what: int | Path) -> None:
    """Makes something the user's whose the folder is, where this one is root: an engine's user removes it.

    Raises:
        OSError: it cannot be done.
    """
    owner = os.stat(folder)  # noqa: PTH116 -- a descriptor, or a path
    if os.geteuid() == 0 and owner.st_uid != 0:
        # A descriptor is no link, and the system takes no such word about one.
        os.chown(what, owner.st_uid, owner.st_gid, follow_symlinks=isinstance(what, int))


def make_folders(top: Path, folder: Path) -> None:
    """Makes the folders from `top` down to `folder`, each the user's whose `top` is.

    Raises:
        BlobFault: one of them is a symbolic link: whoever made it would have the agent write elsewhere.
        OSError: it cannot be done.
    """
    at = top
    for part in folder.relative_to(top).parts:
        at /= part
        try:
            at.mkdir()
            give_like(top, at)
        except FileExistsError:
            if at.is_symlink() or not at.is_dir():
                raise BlobFault(
                    f"{at} is no folder of its own",
                    hint="remove the link: models are not written through one",
                ) from None


def tidy(root: Path, before: float) -> list[str]:
    """Removes what lies there of blobs that nobody fetched on since the Unix time `before`; their digests.

    Raises:
        BlobFault: the disk refuses.
    """
    gone = []
    with said(f"cannot tidy {root / PARTIAL}"):
        try:
            folder = os.open(root / PARTIAL, _FOLDER)
        except FileNotFoundError:
            return []
        try:
            for name in os.listdir(folder):  # noqa: PTH208 -- of a descriptor, which no link can move
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                    os.unlink(name, dir_fd=folder)
                    gone.append(name)
        finally:
            os.close(folder)
    return gone
