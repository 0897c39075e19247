"""What of a file lies in the page cache, and bringing the rest there. Linux alone; all of it blocks.

`cachestat(2)` (Linux 6.5) says how much of a file is cached, and refuses where the file is somebody else's.
Before it there is `mincore(2)`, which then says "all of it" instead (kernel commit 134fca9063ad), so it is
asked only about files that this process owns or may write.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Callable
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_SYS_CACHESTAT: Final = 451  # on all architectures
_SYS_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30, "ppc64le": 273, "riscv64": 30, "s390x": 282}
_IOPRIO_WHO_PROCESS: Final = 1
_IDLE: Final = 3 << 13
_MADV_HUGEPAGE: Final = 14
_MADV_POPULATE_READ: Final = 22  # Linux 5.14
_NOT_MAPPED: Final = ctypes.c_void_p(-1).value
_PAGE: Final = mmap.PAGESIZE
_MAPPED: Final = 1 << 30
PIECE: Final = 4 << 20


_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")
    )


def resident(handle: int) -> float | None:
    """The share of an open file that is in the page cache, between 0 and 1; None: the kernel does not say."""
    status = os.fstat(handle)
    if status.st_size <= 0:
        return 1.0
    pages = -(-status.st_size // _PAGE)
    found = _Cachestat()
    asked = _Range(0, 0)  # from there to the end
    said = _libc.syscall(_SYS_CACHESTAT, handle, ctypes.byref(asked), ctypes.byref(found), 0)
    if said == 0:
        return min(1.0, int(found.cache) / pages)
    if ctypes.get_errno() != errno.ENOSYS or not _ours(handle, status):
        return None
    return _by_mincore(handle, status.st_size) / pages


def _ours(handle: int, status: os.stat_result) -> bool:
    """Whether `mincore` tells the truth about the file."""
    return os.geteuid() in (0, status.st_uid) or os.access(f"/proc/self/fd/{handle}", os.W_OK)


def _by_mincore(handle: int, size: int) -> int:
    """Pages of a file that are in the page cache. Raises OSError."""
    import numpy as np  # an agent on a newer kernel does without it

    count = 0
    for begin in range(0, size, _MAPPED):
        length = min(_MAPPED, size - begin)
        with mmap.mmap(handle, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=begin) as mapped:
            view = np.frombuffer(mapped, dtype=np.uint8)
            told = np.zeros(-(-length // _PAGE), dtype=np.uint8)
            address, where = view.ctypes.data, told.ctypes.data
            failed = _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_void_p(where))
            del view  # it holds the mapping
            if failed:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            count += int(np.count_nonzero(told & 1))
    return count


def bring_in(handle: int, size: int, goes_on: Callable[[int], bool], before: int = 0) -> bool:
    """Reads a file through, so that it is in the page cache; False: it was stopped, or the file is shorter.

    In large pages where the kernel and the file system have them: whoever maps the file afterwards, as a
    loader does, then waits for hundreds of times fewer page faults.

    `goes_on` is told before each piece how many bytes were read, with the `before` ones of other files, and
    may wait: what it waits for goes first.

    Raises:
        OSError: it cannot be read.
    """
    buffer: bytearray | None = None
    at = 0
    while at < size:
        if not goes_on(before + at):
            return False
        length = min(PIECE, size - at)
        if _populated(handle, at, length):
            at += length
            continue
        buffer = buffer or bytearray(PIECE)
        read = os.preadv(handle, [buffer], at)
        if not read:
            return False
        at += read
    return os.fstat(handle).st_size >= size  # a large page is there as a whole where the file ends in it


def _populated(handle: int, at: int, length: int) -> bool:
    """Whether these bytes were read as large pages; False: this kernel cannot, or there is a fault."""
    address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, handle, at)
    if address in (None, _NOT_MAPPED):
        return False
    try:
        # The advice has read-ahead bring in what is one large page (2 MiB on x86); without it a disk's own
        # read-ahead decides, mostly 128 KiB.
        _libc.madvise(address, length, _MADV_HUGEPAGE)
        return bool(_libc.madvise(address, length, _MADV_POPULATE_READ) == 0)
    finally:
        _libc.munmap(address, length)


def yield_the_disk() -> bool:
    """Has the calling thread read only when nobody else wants the disk; False: not to be had here."""
    number = _SYS_IOPRIO_SET.get(platform.machine())
    return number is not None and _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IDLE) == 0
