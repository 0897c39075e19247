"""A tier's identity, and the fences of its models. Everything here blocks, and may hang.

A model's fence is a file that says who began to publish it last. It is read and written under `flock`, which
CephFS and NFS keep between machines.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bridge_agent.models.blob_content import write_all
from bridge_agent.models.shared.storage import PublishFault, still_claimed, still_held
from bridge_agent.models.shared.tier_files import below, read_file
from bridge_core.names import ModelName

FENCES: Final = "bridge-fences"
IDENTITY: Final = "bridge-tier"
WRITE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
NEW: Final = WRITE | os.O_CREAT | os.O_EXCL
_MOST: Final = 4096
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_LOCKED: Final = (errno.EAGAIN, errno.EACCES)


def identity(root: Path) -> str:
    """32 hexadecimal digits that are this tier's wherever it is mounted, made at its first use.

    Raises:
        PublishFault: something else lies there by that name.
        OSError: the storage refuses.
    """
    with below(root) as folder:
        found = read_file(IDENTITY, folder, _MOST)
        if found is None:
            _make_identity(folder)
            found = read_file(IDENTITY, folder, _MOST)
    return read_identity(found, str(root / IDENTITY))


def read_identity(data: bytes | None, where: str) -> str:
    """The identity that lies there. Raises PublishFault: something else does."""
    text = (data or b"").decode("latin-1")
    if len(text) != 32 or not set(text) <= set("0123456789abcdef"):
        raise PublishFault(f"{where} is not what makes a tier", hint="remove it while nobody is publishing")
    return text


def fence_name(name: ModelName) -> str:
    """By which name a model's fence lies there."""
    return hashlib.sha256(str(name).lower().encode()).hexdigest()[:32]


def _make_identity(folder: int) -> None:
    temporary = f"{IDENTITY}.{secrets.token_hex(8)}"
    file = os.open(temporary, NEW, 0o644, dir_fd=folder)
    try:
        write_all(file, 0, secrets.token_hex(16).encode())
        os.fsync(file)
        with contextlib.suppress(FileExistsError):  # another node was faster: its word counts
            os.link(temporary, IDENTITY, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.fsync(folder)
    finally:
        os.close(file)
        os.unlink(temporary, dir_fd=folder)


def claim(root: Path, name: ModelName, mark: str, valid: Callable[[], bool]) -> None:
    """Puts a writer's mark into a model's fence, while its lease is good.

    Raises:
        PublishFault: another writer is at the fence, or the lease is over.
        OSError: the storage refuses.
    """
    with _fenced(root, name) as fence:
        still_held(name, valid)
        os.ftruncate(fence, 0)
        write_all(fence, 0, mark.encode())
        os.fsync(fence)


@contextlib.contextmanager
def claimed(root: Path, name: ModelName, mark: str, valid: Callable[[], bool]) -> Iterator[None]:
    """While in the context nobody else gets at the fence, which has this mark, and the lease was good.

    Raises:
        PublishFault: it is not so.
        OSError: the storage refuses.
    """
    with _fenced(root, name) as fence:
        still_claimed(name, os.pread(fence, _MOST, 0), mark, valid)
        yield


@contextlib.contextmanager
def _fenced(root: Path, name: ModelName) -> Iterator[int]:
    """A model's fence file, locked where the file system knows locks."""
    file_name = fence_name(name)
    with below(root, FENCES) as folder:
        fence = os.open(file_name, WRITE | os.O_CREAT | os.O_NONBLOCK, 0o644, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(fence).st_mode):
            raise PublishFault(f"{root / FENCES / file_name} is no file: remove it")
        try:
            fcntl.flock(fence, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            if fault.errno in _LOCKED:
                raise PublishFault(
                    f"another writer is publishing {name.short()} at this moment: nothing was replaced"
                ) from fault
            if fault.errno not in _NO_LOCKS:
                raise
        yield fence
    finally:
        os.close(fence)
