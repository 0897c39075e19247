"""One line of JSON a request, written beside the serving: it never waits, and counts what it lost."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

log = structlog.get_logger()

# Between writes: one write carries the records of that time. Rendering them holds the interpreter's
# lock, so a longer pause would hold up the requests of that moment for longer.
_PAUSE_S = 0.05
_encode = msgspec.json.Encoder().encode


class AuditRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of one request. Times in Unix seconds and milliseconds; never a prompt or an answer."""

    at: float
    request_id: str
    principal: str
    listener: str
    method: str
    path: str
    status: int
    outcome: str
    duration_ms: float
    bytes_in: int
    bytes_out: int
    model: str = ""
    instance: str = ""
    via: str = ""
    failed_attempts: tuple[str, ...] = ()
    route: str = ""
    backend: str = ""  # the route's, that was chosen
    key: str = ""  # what the choice of the instance hung on: a digest, hexadecimal
    address: str = ""  # of whoever was turned away
    reason: str = ""  # why, in a word


class AuditLog:
    """A bounded queue and the one task that empties it into a file.

    Args:
        path: The file; grown past `rotate_bytes` it is renamed to `.1` and so on.
        read: Makes the record of what was `put`. It is called in the thread that writes, soon after:
            the way of a request is no place to render records.
        capacity: Records that may wait; more are lost, oldest first.
        rotate_bytes: Size at which a new file is begun.
        keep: Old files kept.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[Any], AuditRecord] = lambda record: record,
        *,
        capacity: int = 20_000,
        rotate_bytes: int = 64 << 20,
        keep: int = 4,
    ) -> None:
        self._path = path
        self._read = read
        self._queue: deque[Any] = deque()
        self._capacity = capacity
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._wake = asyncio.Event()
        self._writing: asyncio.Future[None] | None = None
        self._failing = False
        self.written = 0
        self.lost = 0

    def put(self, record: Any) -> None:
        """Queues what `read` makes a record of. Never blocks, never raises."""
        queue = self._queue
        if not queue:
            self._wake.set()
        elif len(queue) >= self._capacity:
            queue.popleft()
            self.lost += 1
        queue.append(record)

    def concerns(self) -> list[str]:
        """What an operator should know of, a sentence each."""
        failing = ", and it cannot be written now" if self._failing else ""
        return [f"the audit lost {self.lost} records{failing}: {self._path}"] if self.lost else []

    async def run(self) -> None:
        """Writes until cancelled, then once more."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._write()
                await asyncio.sleep(_PAUSE_S)
        finally:
            if self._writing is not None:
                # A thread goes on when its task is cancelled: there must not be two in the file.
                await asyncio.wait([self._writing])
            self._append(self._taken())

    async def _write(self) -> None:
        batch = self._taken()
        if batch:
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._append, batch))
            await asyncio.shield(self._writing)

    def _taken(self) -> list[Any]:
        batch = list(self._queue)
        self._queue.clear()
        return batch

    def _append(self, batch: list[Any]) -> None:
        """Runs in a thread; nothing else touches the file."""
        if not batch:
            return
        rendered = self._rendered(batch)
        if not rendered:
            return
        data = b"\n".join(rendered) + b"\n"
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._rotate()
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _write_whole(handle, data)
            finally:
                os.close(handle)
        except OSError as fault:
            self.lost += len(rendered)
            if not self._failing:
                log.warning("audit_not_written", path=str(self._path), reason=fault.strerror)
            self._failing = True
        else:
            if self._failing:
                log.info("audit_written_again", lost=self.lost)
            self._failing = False
            self.written += len(rendered)

    def _rendered(self, batch: list[Any]) -> list[bytes]:
        """The lines of a batch; a record that cannot be made into one is lost alone."""
        found, lost = [], self.lost
        for one in batch:
            try:
                found.append(_encode(self._read(one)))
            except Exception:  # the record's root: it was made from what clients sent
                if self.lost == lost:  # once a batch
                    log.exception("audit_record_not_rendered", lost=self.lost + 1)
                self.lost += 1
        return found

    def _rotate(self) -> None:
        try:
            if self._path.stat().st_size < self._rotate_bytes:
                return
        except FileNotFoundError:
            return
        for number in range(self._keep, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _write_whole(handle: int, data: bytes) -> None:
    """All of it or none: a record cut by a full disk would make the next one unreadable too."""
    before = os.fstat(handle).st_size
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(handle, view) :]
    except OSError:
        os.ftruncate(handle, before)
        raise
