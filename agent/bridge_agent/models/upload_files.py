"""Blobs that are pushed to this node, on disk. Everything here blocks: run it in threads.

They lie in `bridge-partial` as `upload-<id>`, without a name that means anything until their digest is right.
What holds for blobs on their way here (`blob_files`) holds for them: no link is followed, the name is given
by a rename after the whole is on the disk, and what nobody goes on with is removed. Where the node seals its
blobs, they are sealed as they come: the last segment, which is not whole yet, is sealed anew with each write.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bridge_agent.models.blob_content import PlainContent, SealedContent, write_all
from bridge_agent.models.blob_files import BlobFault, free_bytes, keep, open_partial, said
from bridge_agent.models.blob_keys import BlobKeys
from bridge_core.sealing.blobs import SEGMENT_BYTES, segment_at, text_size

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
        keys: What it is sealed with; None: it lies there in the clear.
    """

    def __init__(self, root: Path, id_: str, keys: BlobKeys | None = None) -> None:
        self._root = root
        self._name = f"upload-{id_}"
        self._keys = keys
        self._file = -1
        self._sealed: SealedContent | None = None
        self._size = 0
        self._tail = b""  # of the text, what the last segment has that is not whole

    def open(self) -> None:
        """Makes it where there is none.

        Raises:
            BlobFault: the disk refuses.
            KeyWithheld: there is no key to seal it with.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with said(f"cannot take an upload into {self._root}"), _partial(self._root) as folder:
            self._file = os.open(self._name, flags, 0o600, dir_fd=folder)
            if self._keys is not None:
                self._sealed = SealedContent(self._file, self._keys)
                if not self._sealed.take_up_unnamed():
                    self._sealed.begin("", 0)

    def begin_at(self, offset: int) -> None:
        """Forgets what is there from `offset` on. Raises BlobFault."""
        with said("cannot write an upload"):
            self._size, self._tail = offset, b""
            if self._sealed is None:
                os.ftruncate(self._file, offset)
                return
            number, rest = divmod(offset, SEGMENT_BYTES)
            whole = offset - rest
            if rest:  # of a segment, which is sealed as one
                self._tail = self._sealed.reader(self._written()).read(whole, rest)
            if len(self._tail) != rest:
                raise BlobFault(f"it ends before byte {offset}: begin the upload again")
            os.ftruncate(self._file, segment_at(number))
            if rest:
                self._sealed.write(whole, self._tail)

    def write(self, data: bytes, reserve: int) -> None:
        """Adds bytes.

        Raises:
            BlobFault: the disk is full down to `reserve`, or refuses.
        """
        with said("cannot write an upload"):
            if free_bytes(self._file) < len(data) + reserve:
                raise BlobFault(f"the disk is full: {reserve} bytes of it are to stay free")
            if self._sealed is None:
                write_all(self._file, self._size, data)
            else:
                text = self._tail + data
                self._sealed.write(self._size - len(self._tail), text)
                self._tail = text[len(text) // SEGMENT_BYTES * SEGMENT_BYTES :]
            self._size += len(data)

    def _written(self) -> int:
        """Bytes of the upload in its file. Raises BlobFault: it is sealed, and was cut."""
        length = os.fstat(self._file).st_size
        size = length if self._sealed is None else text_size(length)
        if size is None:
            raise BlobFault("the upload's file was cut: begin it again")
        return size

    def commit(self, hex_: str, stopped: Callable[[], bool]) -> bool:
        """Makes it the blob of this digest; False where it has another one, or `stopped`.

        Raises:
            BlobFault: the disk refuses.
        """
        with said(f"cannot keep blob {hex_[:12]}"):
            found = hashlib.sha256()
            size = self._written()
            read = PlainContent(self._file).read if self._sealed is None else self._sealed.reader(size).read
            for at in range(0, size, _READ):
                if stopped():
                    return False
                found.update(read(at, _READ))
            if found.hexdigest() != hex_:
                return False
            if self._sealed is not None:
                self._sealed.name(hex_, size)
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
