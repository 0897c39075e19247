"""Reads the files of a store that others write. Everything here blocks, and may hang: run it in `Patience`.

Whoever writes there may be hostile: names are opened one by one from the folder above, no symbolic link is
followed below the root, and only regular files are read, as far as they may go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from bridge_agent.models.manifest_rules import MOST_MANIFEST
from bridge_agent.models.shared.storage import Listed, Stamp, TooMany, listed_at
from bridge_core.files import read_at

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
MANIFESTS: Final = "manifests"
_MOST_ENTRIES: Final = 16_384  # of folders that are looked through
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO blocks nobody
_NONE: Final = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO)


class NoStore(OSError):
    """The folder is there, and holds no models: most likely nothing is mounted there."""


def stamp_of(file: int) -> Stamp:
    """That of an open file. Raises OSError."""
    found = os.fstat(file)
    return Stamp(f"{found.st_ino} {found.st_mtime_ns}", found.st_size)


def is_none(fault: OSError) -> bool:
    """Whether there is no such file, or something that counts as none: a link, a folder that is no folder."""
    return fault.errno in _NONE


@contextlib.contextmanager
def top(root: Path, name: str) -> Iterator[int]:
    """The open folder `manifests` or `blobs` of the root. Raises NoStore: there is none; OSError."""
    with folders(root, name) as folder:
        if folder is None:
            raise NoStore(f"it has no folder {name}: nothing is mounted there, or nothing was published yet")
        yield folder


def open_blob(root: Path, hex_: str) -> tuple[int, Stamp] | None:
    """A descriptor of a blob, and its stamp; None where there is none. Raises NoStore, OSError."""
    with top(root, "blobs") as folder:
        file = open_regular(f"sha256-{hex_}", folder)
    if file is None:
        return None
    try:
        return file, stamp_of(file)
    except BaseException:
        os.close(file)
        raise


def open_regular(name: str, folder: int) -> int | None:
    """A descriptor of a regular file in an open folder; None where there is none. Raises OSError."""
    try:
        found = os.open(name, _READ, dir_fd=folder)
    except OSError as fault:
        if is_none(fault) or fault.errno == errno.EACCES:  # one file that is not ours to read
            return None
        raise
    try:
        if stat.S_ISREG(os.fstat(found).st_mode):
            return found
    except BaseException:
        os.close(found)
        raise
    os.close(found)
    return None


@contextlib.contextmanager
def below(root: Path, *names: str) -> Iterator[int]:
    """The open folder below `root` that these names lead to, none of them a link. Raises OSError.

    The root itself may be a link: it is the operator's word.
    """
    at = _led_to(os.open(root, ROOT), names)
    try:
        yield at
    finally:
        os.close(at)


@contextlib.contextmanager
def folders(root: Path, *names: str) -> Iterator[int | None]:
    """As `below`; None where the root is there and no such folder in it. Raises OSError."""
    top_folder = os.open(root, ROOT)
    try:
        at = _led_to(top_folder, names)
    except OSError as fault:
        if not is_none(fault):
            raise
        yield None
        return
    try:
        yield at
    finally:
        os.close(at)


def _led_to(at: int, names: Sequence[str]) -> int:
    """The open folder that these names lead to from an open one, which is closed. Raises OSError."""
    try:
        for name in names:
            inner = os.open(name, FOLDER, dir_fd=at)
            os.close(at)
            at = inner
    except BaseException:
        os.close(at)
        raise
    return at


def read_file(name: str, folder: int, most: int) -> bytes | None:
    """The content of a regular file of at most `most` bytes; None: there is no such one. Raises OSError."""
    file = open_regular(name, folder)
    if file is None:
        return None
    try:
        if os.fstat(file).st_size > most:
            return None
        data = read_at(file, 0, most + 1)
    finally:
        os.close(file)
    return data if len(data) <= most else None


def manifest_at(root: Path, place: str) -> bytes | None:
    """The manifest at a place below `manifests`; None where there is none to be read. Raises OSError."""
    *parts, tag = place.split("/")
    with folders(root, MANIFESTS, *parts) as folder:
        return None if folder is None else read_file(tag, folder, MOST_MANIFEST)


def listed(root: Path) -> Generator[Listed, None, None]:
    """All that lies where manifests lie. Raises TooMany, NoStore, OSError."""
    left = [_MOST_ENTRIES]

    def walked(folder: int, names: tuple[str, ...]) -> Generator[Listed, None, None]:
        with os.scandir(folder) as entries:
            found = sorted(entry.name for entry in islice(entries, left[0] + 1))
        left[0] -= len(found)
        if left[0] < 0:
            raise TooMany(f"more than {_MOST_ENTRIES} files lie below {root / MANIFESTS}")
        for entry in found:
            if len(names) == 3:
                yield listed_at("/".join((*names, entry)))
                continue
            try:
                inner = os.open(entry, FOLDER, dir_fd=folder)
            except OSError as fault:
                if is_none(fault):
                    continue
                raise
            try:
                yield from walked(inner, (*names, entry))
            finally:
                os.close(inner)

    with top(root, MANIFESTS) as folder:
        yield from walked(folder, ())
