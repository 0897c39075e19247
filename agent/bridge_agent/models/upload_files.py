"""Blobs that are pushed to this node, on disk. Everything here blocks: run it in threads.

They lie in `bridge-partial` as `upload-<id>`, without a name that means anything until their digest is right.
What holds for blobs on their way here (`blob_files`) holds for them: no link is followed, the name is given
by a rename after the whole is on the disk, and what nobody goes on with is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bridge_agent.models.blob_files import BlobFault, keep, open_partial, said

_READ: Final = 1 << 20


@contextlib.contextmanager
def _partial(root: Path) -> Iterator[int]:
    """A descriptor of the folder of what is on its way."""
    folder = open_partial(root)
    try:
        yield folder
    finally:
        os.close(folder)


class UploadFile:
    """The file of one upload; one thread at a time has it, and closes it.

    Args:
        root: The models folder.
        id_: The upload's name.
    """

    def __init__(self, root: Path, id_: str) -> None:
        self._root = root
        self._name = f"upload-{id_}"
        self._file = -1

    def open(self) -> None:
        """Makes it where there is none. Raises BlobFault."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with said(f"cannot take an upload into {self._root}"), _partial(self._root) as folder:
            self._file = os.open(self._name, flags, 0o600, dir_fd=folder)

    def begin_at(self, offset: int) -> None:
        """Forgets what is there from `offset` on. Raises BlobFault."""
        with said("cannot write an upload"):
            os.ftruncate(self._file, offset)
            os.lseek(self._file, offset, os.SEEK_SET)

    def write(self, data: bytes, reserve: int) -> None:
        """Adds bytes.

        Raises:
            BlobFault: the disk is full down to `reserve`, or refuses.
        """
        with said("cannot write an upload"):
            free = os.fstatvfs(self._file)
            if free.f_bavail * free.f_frsize < len(data) + reserve:
                raise BlobFault(f"the disk is full: {reserve} bytes of it are to stay free")
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]

    def commit(self, hex_: str, stopped: Callable[[], bool]) -> bool:
        """Makes it the blob of this digest; False where it has another one, or `stopped`.

        Raises:
            BlobFault: the disk refuses.
        """
        with said(f"cannot keep blob {hex_[:12]}"):
            found = hashlib.sha256()
            os.lseek(self._file, 0, os.SEEK_SET)
            while data := os.read(self._file, _READ):
                if stopped():
                    return False
                found.update(data)
            if found.hexdigest() != hex_:
                return False
            with _partial(self._root) as folder:
                keep(self._root, hex_, self._file, folder, self._name)
        return True

    def close(self) -> None:
        """Lets go of the file, where it is open; what came stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def forget(root: Path, id_: str) -> None:
    """Removes what came of an upload. Raises BlobFault."""
    with said("cannot remove an upload"), _partial(root) as folder, contextlib.suppress(FileNotFoundError):
        os.unlink(f"upload-{id_}", dir_fd=folder)
