"""The edge of project quotas: how much may be stored below a folder, on the kernel's own account.

A folder is put into a project of its file system, with all that lies in it. What is made below it
later inherits that, and past the project's limit the kernel refuses to write, whoever the files
belong to. Two rights stand above it: CAP_SYS_RESOURCE passes the limit (ext4), and the owner of a
file takes it out of its project, except from inside a user namespace. So a limit holds whom the walls
"user" and "mount" hold; see `walls.demanded`.

ext4 and xfs have project quotas, where they are mounted with `prjquota`. Linux: quotactl_fd(2) since
5.14, ioctl_xfs_fsgetxattr(2); numbers and layouts from the UAPI headers linux/fs.h, linux/quota.h and
linux/dqblk_xfs.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bridge_agent.limits.cgroup import LimitsRefused

_SYS_QUOTACTL_FD: Final = 443  # the same on every architecture that Python is built for but alpha
_PRJQUOTA: Final = 2
_Q_GETQUOTA, _Q_SETQUOTA, _Q_XGETQSTAT = 0x800007, 0x800008, 0x5805
_QIF_LIMITS: Final = 1 | 4  # blocks and inodes
_PROJECT_LIMITS_HOLD: Final = 1 << 5  # FS_QUOTA_PDQ_ENFD
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
_INHERIT: Final = 0x200  # FS_XFLAG_PROJINHERIT
_ATTRIBUTES: Final = struct.Struct("=5I8x")  # flags, extsize, nextents, project, cowextsize
_QUOTA: Final = struct.Struct("=8QI4x")  # block limits, bytes used, inode limits, inodes used, times, valid
_BLOCK: Final = 1024
# mke2fs makes an inode for every 16 KiB; a flood of empty files would otherwise take all of them.
_BYTES_AN_INODE: Final = 16 << 10
_FEWEST_INODES: Final = 1024
# Our projects have numbers that administrators and container runtimes do not give out.
_OURS: Final = 0x5B000000
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC
_DEEPEST: Final = 64  # folders in folders; each holds a descriptor open while it is walked

_libc = ctypes.CDLL(None, use_errno=True)


def hold(folders: Iterable[Path], most: int | None) -> tuple[str, ...]:
    """Limits what may be stored in each folder to `most` bytes; None lifts what was set here before.

    A folder that holds more already keeps it, and takes nothing more. Returns the folders limited.

    Raises:
        LimitsRefused: the kernel would not hold one of them, and why. Those before it are limited.
    """
    held = []
    for folder in folders:
        if most is None:
            with contextlib.suppress(OSError, LimitsRefused), _opened(str(folder)) as handle:
                _lift(handle)
            continue
        with _opened(str(folder)) as handle:
            # By what the folder is, not its path: another container's may be called the same.
            inode = os.fstat(handle).st_ino
            project = _OURS | int.from_bytes(hashlib.sha256(str(inode).encode()).digest()[:3], "big")
            _check(folder, handle, most)
            try:
                _set_limit(handle, project, most)
                _take_in(handle, project, os.fstat(handle).st_dev, _DEEPEST)
            except OSError as fault:
                raise LimitsRefused(f"disk_max of {folder}: {_sentence(fault)}") from fault
            held.append(str(folder))
    return tuple(held)


def resize(folders: Iterable[str], most: int) -> None:
    """Sets another limit for folders that `hold` has limited before.

    Raises:
        LimitsRefused: as `hold`.
    """
    for folder in folders:
        with _opened(folder) as handle:
            _check(Path(folder), handle, most)
            try:
                _set_limit(handle, _attributes(handle)[3], most)
            except OSError as fault:
                raise LimitsRefused(f"disk_max of {folder}: {_sentence(fault)}") from fault


def stored(folders: Iterable[str]) -> dict[str, int]:
    """Bytes that are stored in those of the folders that are limited."""
    return {folder: used[0] for folder in folders if (used := usage(folder)) is not None}


def usage(folder: str) -> tuple[int, int] | None:
    """Bytes stored in a folder that `hold` has limited, and its limit; None: it is not limited."""
    with contextlib.suppress(OSError, LimitsRefused), _opened(folder) as handle:
        project = _attributes(handle)[3]
        if _is_ours(project):
            answer = bytearray(_QUOTA.size)
            _quotactl(handle, _Q_GETQUOTA, project, answer)
            limit, _, used, *_ = _QUOTA.unpack(answer)
            return (used, limit * _BLOCK) if limit else None
    return None


def _check(folder: Path, handle: int, most: int) -> None:
    """Raises LimitsRefused where a limit would not hold."""
    answer = bytearray(256)
    try:
        _quotactl(handle, _Q_XGETQSTAT, 0, answer)
    except OSError as fault:
        raise LimitsRefused(f"disk_max of {folder}: {_sentence(fault)}") from fault
    if not struct.unpack_from("=H", answer, 2)[0] & _PROJECT_LIMITS_HOLD:
        raise LimitsRefused(f"disk_max of {folder}: {_NO_QUOTA}")
    project = _attributes(handle)[3]
    if project and not _is_ours(project):
        raise LimitsRefused(
            f"disk_max of {folder}: the folder belongs to project {project} of its file system already",
            hint="leave disk_max out, or the folder out of that project",
        )
    device = os.fstat(handle).st_dev
    with contextlib.suppress(OSError):  # not on a block device: nothing to compare with
        size = int(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/size").read_text()) * 512
        if most > size:
            raise LimitsRefused(f"disk_max of {folder}: it is {most} bytes, the disk has {size}")


_NO_QUOTA: Final = (
    "its file system keeps no project quotas: mount it with prjquota "
    "(ext4 needs `tune2fs -O project,quota` before, once)"
)


def _sentence(fault: OSError) -> str:
    """What a refusal of the kernel means for whoever runs the agent."""
    if fault.errno in {errno.ENOSYS, errno.ESRCH, errno.EOPNOTSUPP, errno.ENOTTY}:
        return _NO_QUOTA
    if fault.errno in {errno.EPERM, errno.EACCES}:
        return "only root (CAP_SYS_ADMIN) can set a quota, where no filter of system calls forbids it"
    if fault.errno == errno.EXDEV:
        return "another file system is mounted inside it, which the limit would not hold"
    if fault.errno == errno.ELOOP:
        return f"it has folders more than {_DEEPEST} deep"
    return fault.strerror or str(fault)


def _take_in(handle: int, project: int, device: int, levels: int) -> None:
    """Puts a folder and all that lies in it into a project; links are not followed.

    The folder itself comes first: what is made in it meanwhile inherits the project.
    """
    if not levels:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    _assign(handle, project, _INHERIT)
    with os.scandir(handle) as entries:
        for entry in entries:
            folder = entry.is_dir(follow_symlinks=False)
            if not folder and not entry.is_file(follow_symlinks=False):
                continue  # takes no space
            try:
                # Never a link, and never a wait for the other end of a pipe.
                flags = _FLAGS | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECTORY if folder else 0)
                inner = os.open(entry.name, flags, dir_fd=handle)
            except FileNotFoundError:
                continue
            try:
                about = os.fstat(inner)
                if about.st_dev != device:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                if folder:
                    _take_in(inner, project, device, levels - 1)
                elif stat.S_ISREG(about.st_mode):
                    _assign(inner, project, 0)
            finally:
                os.close(inner)


def _assign(handle: int, project: int, flags: int) -> None:
    now, extsize, extents, before, cow = _attributes(handle)
    if before != project or now & flags != flags:
        wanted = _ATTRIBUTES.pack(now | flags, extsize, extents, project, cow)
        fcntl.ioctl(handle, _SET_ATTRIBUTES, wanted)


def _attributes(handle: int) -> tuple[int, ...]:
    return _ATTRIBUTES.unpack(fcntl.ioctl(handle, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size)))


def _set_limit(handle: int, project: int, most: int) -> None:
    """0 lifts it."""
    blocks, inodes = -(-most // _BLOCK), max(_FEWEST_INODES, most // _BYTES_AN_INODE) if most else 0
    quota = _QUOTA.pack(blocks, blocks, 0, inodes, inodes, 0, 0, 0, _QIF_LIMITS)
    _quotactl(handle, _Q_SETQUOTA, project, bytearray(quota))


def _lift(handle: int) -> None:
    project = _attributes(handle)[3]
    if _is_ours(project):
        _set_limit(handle, project, 0)


def _is_ours(project: int) -> bool:
    return project & 0xFF000000 == _OURS


def _quotactl(handle: int, command: int, project: int, data: bytearray) -> None:
    buffer = (ctypes.c_char * len(data)).from_buffer(data)
    request = ctypes.c_uint(command << 8 | _PRJQUOTA)
    if _libc.syscall(_SYS_QUOTACTL_FD, handle, request, ctypes.c_uint(project), buffer) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    try:
        handle = os.open(folder, _FLAGS | os.O_DIRECTORY)
    except OSError as fault:
        raise LimitsRefused(f"disk_max of {folder}: {fault.strerror}") from fault
    try:
        yield handle
    finally:
        os.close(handle)
