"""Files that are either the old one or the new one, whole, and never world-readable; and reads in full."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replaces `path` by `data`: written beside it, synced, renamed, and the folder synced.

    A crash or a full disk at any point leaves the old file as it was.

    Raises:
        OSError: the folder is missing, not writable or full.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    sync_folder(path.parent)


def read_at(handle: int, offset: int, length: int) -> bytes:
    """The bytes of an open file from `offset`; fewer than `length` only at its end. Raises OSError."""
    data = os.pread(handle, length, offset)
    while len(data) < length and (more := os.pread(handle, length - len(data), offset + len(data))):
        data += more
    return data


def sync_folder(path: Path) -> None:
    """Makes the names in a folder (renames, new files) survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
