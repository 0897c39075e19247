"""Where lines go: a thread that writes them, so that nobody ever waits for a disk, a pipe or who reads it.

A pipe that nobody empties, a full disk or a file that is gone cost lines, counted by class, and nothing else.
When lines can be written again the first one says how many were lost.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from bridge_core.logs.files import LogFile
from bridge_core.logs.overload_rules import SHARES, Room

_STDERR: Final = 2
_AT_ONCE: Final = 64 << 10  # bytes of one write
_RETRY_S: Final = 1.0
_TELL_S: Final = 5.0
_LOOK_S: Final = 5.0  # between looks whether a file is still the one that has its name


class LogSink:
    """A bounded queue of lines and the thread that empties it.

    Args:
        fd: Where lines go. With `file` it becomes that file, so that what a crash or a library writes by
            itself is beside the rest.
        file: To open, and put aside when it is long; None: `fd` as it is.
        told: Makes the line that says how many were lost, by class.
        shares: Bytes of each class that may wait.
        retry_s: After a write that failed.
        tell_s: Between lines that say how many were lost; also how long an idle thread sleeps.

    Attributes:
        written: Lines, since this began.
    """

    def __init__(
        self,
        *,
        told: Callable[[Mapping[str, int]], bytes],
        fd: int = _STDERR,
        file: LogFile | None = None,
        shares: Mapping[str, int] = SHARES,
        retry_s: float = _RETRY_S,
        tell_s: float = _TELL_S,
    ) -> None:
        self._fd = fd
        self._file = file
        self._told = told
        self._room = Room(shares)
        self._retry_s = retry_s
        self._tell_s = tell_s
        # Reentrant: a finalizer that logs may run while this very thread is in `put`. So is the queue.
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._dropped: Counter[str] = Counter()
        self._said: Counter[str] = Counter()
        self._said_at = float("-inf")
        self._closing = threading.Event()
        self._torn = False
        self._size = 0
        self._inode = -1
        self._looked_at = float("-inf")
        self.written = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        """Begins to write.

        Raises:
            OSError: the file cannot be opened.
        """
        if self._file is not None:
            self._open(self._file)
        self._thread.start()

    @property
    def dropped(self) -> Mapping[str, int]:
        """Lines that came to nothing, by class."""
        with self._lock:
            return dict(self._dropped)

    def put(self, kind: str, line: bytes) -> None:
        """Queues a line of a class. From any thread; never blocks, never raises."""
        with self._lock:
            if not self._room.take(kind, len(line)):
                self._dropped[kind] += 1
                return
        self._queue.put((kind, line))

    def left_out(self, kind: str) -> None:
        """Counts a line that was not even made."""
        with self._lock:
            self._dropped[kind] += 1

    def close(self, within_s: float = 2.0) -> None:
        """Writes what waits, for so long at most; then this process may end."""
        self._closing.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(within_s)

    # -- the thread

    def _run(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                self._say_dropped(at_once=True)
                return
            self._write_batch(batch)
            self._say_dropped()

    def _next(self) -> list[tuple[str, bytes]] | None:
        """What there is to write now, after a while maybe nothing; None: the end."""
        found: list[tuple[str, bytes]] = []
        size = 0
        try:
            one = self._queue.get(timeout=self._tell_s)
            while one is not None:
                found.append(one)
                size += len(one[1])
                if size >= _AT_ONCE:
                    break
                one = self._queue.get_nowait()
            else:
                if not found:
                    return None
                self._queue.put(None)  # seen too early: what came before it goes first
        except queue.Empty:
            pass
        return found

    def _write_batch(self, batch: list[tuple[str, bytes]]) -> None:
        if not batch:
            return
        done = self._write(b"".join(line for _, line in batch))
        with self._lock:
            for kind, line in batch:
                self._room.give(kind, len(line))
                if not done:
                    self._dropped[kind] += 1
        if done:
            self.written += len(batch)
        else:
            self._closing.wait(self._retry_s)

    def _write(self, data: bytes) -> bool:
        """Whether all of it is written. It may take as long as it takes: this thread does nothing else."""
        if self._file is not None:
            self._rotate(self._file, len(data))
        if self._torn:
            data = b"\n" + data
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:  # somebody shares the pipe and made it so
                    select.select([], [self._fd], [], self._retry_s)
                    if self._closing.is_set():
                        raise
        except (OSError, ValueError):
            self._torn = self._torn or len(view) < len(data)
            return False
        self._torn = False
        self._size += len(data)
        return True

    def _say_dropped(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            lost = self._dropped - self._said
        if not lost or (now - self._said_at < self._tell_s and not at_once):
            return
        if self._write(self._told(lost)):
            self._said.update(lost)
            self._said_at = now

    # -- the file

    def _open(self, file: LogFile) -> None:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.dup2(handle, self._fd)
            stat = os.fstat(handle)
        finally:
            os.close(handle)
        self._inode, self._size = stat.st_ino, stat.st_size

    def _rotate(self, file: LogFile, more: int) -> None:
        """Puts a long file aside, and opens a new one where somebody else did."""
        now = time.monotonic()
        gone = False
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            gone = self._is_gone(file)
        full = self._size + more > file.most and self._size > 0
        if not gone and not full:
            return
        with contextlib.suppress(OSError):  # no room, no right: what is open goes on being written
            if full and not gone:
                for index in range(file.kept, 0, -1):
                    older = file.older(index - 1)
                    if older.exists():
                        older.replace(file.older(index))
                if not file.kept:
                    file.path.unlink(missing_ok=True)
            self._open(file)

    def _is_gone(self, file: LogFile) -> bool:
        """Whether the file's name is another one's by now, or nobody's; its size is looked up as well."""
        try:
            stat = file.path.stat()
        except OSError:
            return True
        if stat.st_ino != self._inode:
            return True
        self._size = stat.st_size  # others write to it, or cut it
        return False
