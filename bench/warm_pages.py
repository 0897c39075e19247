"""What a file that was read ahead costs whoever maps it afterwards, by how it was read.

    python -m bench.warm_pages FOLDER

Writes a GiB into FOLDER, which lies on a disk, reads it in each way in turns, and maps it as a loader does
(MAP_POPULATE). Prints what it measures.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bridge_agent.models import page_cache

SIZE = 1 << 30
PIECE = page_cache.PIECE
TURNS = 4
_MAP_POPULATE = 0x8000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def plain_reads(handle: int) -> None:
    """The disk's own read-ahead decides."""
    buffer = bytearray(PIECE)
    for at in range(0, SIZE, PIECE):
        os.preadv(handle, [buffer], at)


def announced_reads(handle: int) -> None:
    """Four pieces ahead are asked for by WILLNEED."""
    buffer = bytearray(PIECE)
    for at in range(0, SIZE, PIECE):
        os.posix_fadvise(handle, at, 4 * PIECE, os.POSIX_FADV_WILLNEED)
        os.preadv(handle, [buffer], at)


def large_pages(handle: int) -> None:
    """As an agent warms a model."""
    page_cache.bring_in(handle, SIZE, lambda _: True)


def main() -> None:
    path = Path(sys.argv[1]) / "warm-pages"
    ways: tuple[Callable[[int], None], ...] = (plain_reads, announced_reads, large_pages)
    try:
        with path.open("wb") as file:
            piece = os.urandom(PIECE)
            for _ in range(SIZE // PIECE):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        for _ in range(TURNS):
            for way in ways:
                with path.open("rb") as file:
                    _measure(way, file.fileno())
    finally:
        path.unlink()


def _measure(way: Callable[[int], None], handle: int) -> None:
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.monotonic()
    way(handle)
    read, cpu = time.monotonic() - began, time.process_time()
    address = _libc.mmap(None, SIZE, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_POPULATE, handle, 0)
    cpu = time.process_time() - cpu
    _libc.munmap(address, SIZE)
    print(f"{way.__name__}: read in {read:.2f} s; mapped for {cpu * 1e3:.1f} ms of CPU", flush=True)


if __name__ == "__main__":
    main()
