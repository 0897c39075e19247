"""Seals blobs that lie in the clear, and wraps keys of sealed ones anew. All of it blocks: run it in threads.

A blob is sealed into `bridge-partial`, synced, and renamed over the one in the clear: a cut at any moment
leaves the one or the other. Who has the former one open (a runner that maps it) keeps it until it is closed.
What the disk has of it in blocks that are free now stays there until something else is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from bridge_agent.models.blob_content import SealedContent, write_all
from bridge_agent.models.blob_files import BlobFault, free_bytes, keep, open_partial, opened, said
from bridge_agent.models.blob_keys import BlobKeys
from bridge_core.files import read_at
from bridge_core.model_store.open_blob import is_sealed
from bridge_core.sealing import blobs
from bridge_core.sealing.blobs import SEGMENT_BYTES

_NAME: Final = re.compile(r"sha256-([0-9a-f]{64})")
_PREFIX: Final = "sealing-"


class Stopped(Exception):
    """It was told to stop; nothing was changed."""


def stored(root: Path) -> list[str]:
    """The digits of the digests of all blobs of a store. Raises BlobFault."""
    with said(f"cannot list {root / 'blobs'}"):
        names = [one.name for one in os.scandir(root / "blobs")]
    return sorted(found[1] for name in names if (found := _NAME.fullmatch(name)))


class How(NamedTuple):
    """How blobs of a store are sealed.

    Attributes:
        root: The models folder.
        keys: What they are sealed with.
        changing: Held while a blob changes its file: nobody removes blobs meanwhile.
        reserve: Bytes of the disk that stay free.
        stopped: Asked between pieces.
    """

    root: Path
    keys: BlobKeys
    changing: AbstractContextManager[object]
    reserve: int = 0
    stopped: Callable[[], bool] = lambda: False


def bring_up(hex_: str, how: How) -> int:
    """Has a blob lie sealed, its key wrapped with the active key; returns the bytes that were written for it.

    Args:
        hex_: The digits of the blob's digest.
        how: Where, and what with.

    Raises:
        Stopped: `stopped` said so.
        BlobFault: it does not have its digest, the disk has no room, or refuses.
        KeyWithheld: there is no key.
    """
    with opened(how.root, hex_) as handle, said(f"cannot seal blob {hex_[:12]}"):
        if handle is None:
            return 0
        if is_sealed(handle):
            return _rewrap(hex_, handle, how.keys)
        return _seal(hex_, handle, how)


def _rewrap(hex_: str, handle: int, keys: BlobKeys) -> int:
    """Wraps a blob's key with the active one, where it is not: in place, one slot after the other."""
    header = os.pread(handle, blobs.HEADER_BYTES, 0)
    if blobs.wrapped_with(header) == keys.ring().active.id:
        return 0
    wrapped = keys.header(keys.unseal(hex_, header))
    writing = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_CLOEXEC)  # the file that was looked at
    try:
        rewrite_header(writing, wrapped)
    finally:
        os.close(writing)
    return len(wrapped)


def rewrite_header(handle: int, header: bytes, sync: Callable[[int], None] = os.fsync) -> None:
    """Puts a header in another's place so that a cut leaves one that opens: one slot is whole at any moment.

    The second is written first: it is the one that nobody needs while the first one is whole.

    Raises:
        OSError: the disk refuses.
    """
    half = blobs.HEADER_BYTES // 2
    for at in (half, 0):
        write_all(handle, at, header[at : at + half])
        sync(handle)


def _seal(hex_: str, source: int, how: How) -> int:
    root, status = how.root, os.fstat(source)
    name, wanted = _PREFIX + hex_, blobs.sealed_size(status.st_size)
    with _temporary(root, name) as (folder, target):
        if free_bytes(target) < wanted + how.reserve:
            raise BlobFault(
                f"blob {hex_[:12]} lies in the clear: to seal it takes {wanted} bytes beside it in "
                f"{root}, and {how.reserve} are to stay free",
                hint="remove a model (`bridgectl models rm`), or give the disk more room",
            )
        content = SealedContent(target, how.keys)
        content.begin(hex_, status.st_size)
        if _copied(source, status.st_size, content, how.stopped) != hex_:
            raise BlobFault(
                f"blob {hex_[:12]} has other bytes than its name says, and was not sealed",
                hint="`bridgectl models verify` names the models; pull them again",
            )
        with how.changing:
            with opened(root, hex_) as now:
                if now is None or not os.path.samestat(os.fstat(now), status):
                    return 0  # removed meanwhile: it does not come back; or another one has its place
            keep(root, hex_, target, folder, name)
    return wanted


def _copied(source: int, size: int, content: SealedContent, stopped: Callable[[], bool]) -> str:
    """Seals a whole file; returns its digest."""
    found = hashlib.sha256()
    for at in range(0, size, SEGMENT_BYTES):
        if stopped():
            raise Stopped
        data = read_at(source, at, SEGMENT_BYTES)
        found.update(data)
        content.write(at, data)
    return found.hexdigest()


@contextlib.contextmanager
def _temporary(root: Path, name: str) -> Iterator[tuple[int, int]]:
    """Descriptors of the partial folder and of a file in it, gone afterwards if it has its name yet."""
    folder, target = open_partial(root), -1
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=folder)
        fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield folder, target
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    except BlockingIOError:
        raise BlobFault(f"another process seals {name.removeprefix(_PREFIX)[:12]}") from None
    finally:
        if target >= 0:
            os.close(target)
        os.close(folder)
