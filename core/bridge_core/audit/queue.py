"""What goes on record, written beside the work: it never waits, and what is lost is counted and recorded."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from bridge_core.audit import sealed
from bridge_core.audit.entries import (
    BegunRecord,
    Entry,
    LostRecord,
    RemovedRecord,
    decode,
    encode,
    encode_all,
)
from bridge_core.audit.notes import Checkpoint, Signer
from bridge_core.audit.stored import StoredLog
from bridge_core.audit.tiles import WIDTH, Damaged, bundle_path
from bridge_core.audit.writing import LogWriter, NotWritten
from bridge_core.security_settings import AuditSettings

if TYPE_CHECKING:
    from bridge_core.sealing import Sealer

log = structlog.get_logger()

# Between writes: one write carries the records of that time. Rendering them holds the interpreter's
# lock, so a longer pause would hold up the requests of that moment for longer.
_PAUSE_S: Final = 0.05
_SIGN_S: Final = 1.0
_FAILING_S: Final = 1.0
_TIDY_S: Final = 60.0
_MOST_HELD: Final = 128 << 20  # bytes of requests, between two writes
_AT_ONCE: Final = 64  # old bundles removed in one go
_RENDERED: Final = 256  # records made into entries in one go

Reader = Callable[[Any, bytes | None], Sequence[Entry]]


class AuditLog:
    """A bounded queue and the one task that empties it into a log.

    Args:
        folder: The log's.
        origin: What it is called.
        read: Makes the records of what was `put`, and of the bytes that came with it, None where those were
            too many to be kept. It is called in the thread that writes, soon after: the way of a request is
            no place to render records.
        together: Makes those of many at once, in less time, or raises where one cannot be made or gives
            None: then `read` makes those of each. None: `read` always does.
        settings: How it is to be kept, now.
        sealer: Seals records where the settings say so, and opens them; None: nothing is sealed.
        capacity: Records that may wait; more are lost, oldest first.
        most_held: Bytes that may wait with them.
        tidied: Called now and then in that thread with the time before which all is to be forgotten.

    Attributes:
        written: Records in the log since this began.
        head: The newest signed head; None before the first.
    """

    def __init__(
        self,
        folder: Path,
        origin: str,
        read: Reader,
        *,
        together: Callable[[list[tuple[Any, bytes | None]]], list[Entry] | None] | None = None,
        settings: Callable[[], AuditSettings] = AuditSettings,
        sealer: Sealer | None = None,
        capacity: int = 20_000,
        most_held: int = _MOST_HELD,
        tidied: Callable[[float], object] = lambda _before: None,
    ) -> None:
        self.folder = folder
        self.origin = origin
        self._read = read
        self._together = together
        self._settings = settings
        self._sealer = sealer
        self._tidied = tidied
        self._queue: deque[tuple[Any, bytes | None]] = deque()
        self._capacity = capacity
        self._most_held = most_held
        self._held = 0
        self._held_back: list[bytes] = []  # entries that go with the next ones; of the thread that writes
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._working: asyncio.Future[None] | None = None
        self._writer: LogWriter | None = None
        self._failing = ""
        self._overflowed = 0
        self._unwritten = 0
        self._told = False  # of a record of this batch that could not be rendered
        self._told_slow = False  # of a batch that could not be rendered at once
        self._said = 0  # of those lost, how many a record in the log says
        self._last_whole = 0.0  # when last nothing was lost
        self._lost_why = ""
        self._on_refusal: Callable[[str], None] | None = None
        self._signed_at = 0.0
        self._tidied_at = 0.0
        self.written = 0
        self._too_large = 0
        self._unkeyed = 0  # counted by the thread that writes
        self.head: Checkpoint | None = None

    def stored(self) -> StoredLog:
        """The log's files as they lie, for one who reads: one thread at a time each."""
        return StoredLog(self.folder, self._sealer)

    @property
    def lost(self) -> int:
        """Records that came to nothing."""
        return self._overflowed + self._unwritten

    @property
    def refusal(self) -> str:
        """Why nothing may be done that would go unrecorded; empty: it may."""
        if self._failing and self._settings().on_full_disk == "refuse":
            return f"the audit log cannot be written ({self._failing}), and nothing is served unrecorded"
        return ""

    def on_refusal(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with `refusal` after each write, in the loop."""
        self._on_refusal = listener

    @property
    def unhashed(self) -> int:
        """Requests whose bytes were too many to wait, or for whose hash there was no key."""
        return self._too_large + self._unkeyed

    def put(self, record: Any, data: bytes | None = None) -> None:
        """Queues what `read` makes records of. Never blocks, never raises."""
        queue = self._queue
        if not queue:
            self._wake.set()
        elif len(queue) >= self._capacity:
            queue.popleft()
            self._overflowed += 1
        if data:
            held = self._held + len(data)
            if held <= self._most_held:
                self._held = held
            else:
                self._too_large += 1
                data = None
        queue.append((record, data))

    def put_from_thread(self, record: Any) -> None:
        """As `put`, from another thread than the loop's."""
        if self._loop is None:
            self.put(record)
        else:
            self._loop.call_soon_threadsafe(self.put, record)

    @property
    def signer(self) -> Signer | None:
        """The log's key; None while the log could not be opened."""
        return None if self._writer is None else self._writer.signer

    def concerns(self) -> list[str]:
        """What an operator should know of, a sentence each."""
        found = []
        if self.lost:
            failing = f", and it cannot be written now ({self._failing})" if self._failing else ""
            found.append(f"the audit lost {self.lost} records{failing}: {self.folder}")
        if self.unhashed:
            found.append(
                f"what {self.unhashed} requests asked is not hashed in the audit: too large, or no key"
            )
        return found

    async def run(self) -> None:
        """Writes until cancelled, then once more."""
        self._loop = asyncio.get_running_loop()
        self._wake.set()  # the log is opened though nothing came yet: others ask for its key
        try:
            while True:
                await self._turn()
        except BaseException as fault:  # noqa: BLE001 - raised again below, since what waits must not stand here
            ended = fault
        if self._working is not None:
            # A thread goes on when its task is cancelled: there must not be two in the files.
            await asyncio.wait([self._working])
        self._work(self._taken(), last=True)
        raise ended

    async def _turn(self) -> None:
        if not self._dirty():
            try:
                async with asyncio.timeout(_TIDY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()
        self._working = asyncio.ensure_future(asyncio.to_thread(self._work, self._taken()))
        await asyncio.shield(self._working)
        if self._on_refusal is not None:
            self._on_refusal(self.refusal)
        await asyncio.sleep(_FAILING_S if self._failing else _PAUSE_S)

    def _dirty(self) -> bool:
        """Whether there is something to write though nothing new comes."""
        writer = self._writer
        unsigned = writer is not None and (writer.signed is None or writer.signed.size != writer.size)
        return unsigned or bool(self._held_back) or bool(self._failing) or self.lost != self._said

    def _taken(self) -> list[tuple[Any, bytes | None]]:
        batch = list(self._queue)
        self._queue.clear()
        self._held = 0
        return batch

    def _work(self, batch: list[tuple[Any, bytes | None]], *, last: bool = False) -> None:
        """Runs in a thread; nothing else touches the files."""
        entries, now = self._held_back + self._rendered(batch), time.time()
        self._held_back = []
        pending = len(entries)
        signs = last or not 0 <= now - self._signed_at < _SIGN_S
        try:
            writer = self._writer or self._open(now)
            self._say_lost(writer, now)
            if len(entries) > WIDTH and not signs:
                # A rest goes with the next ones: a tail of one turn's life costs more than what is in it.
                rest = (writer.size + len(entries)) % WIDTH
                entries, self._held_back = entries[: len(entries) - rest], entries[len(entries) - rest :]
                pending = len(entries)
            try:
                writer.append(entries)
            except NotWritten as part:
                pending -= part.written
                raise
            pending = 0
            if signs:
                self._signed_at = now
                writer.checkpoint()
                self.head = writer.signed
            if not 0 <= now - self._tidied_at < _TIDY_S:
                self._tidied_at = now
                self._tidy(writer, now)
        except OSError as fault:
            self._fail(fault.strerror or str(fault), pending, now)
        except BaseException:  # not foreseen: what it left behind is looked at anew
            self._writer = None
            self._fail("see the program's own log", pending, now)
            raise
        else:
            if self._failing:
                log.info("audit_written_again", lost=self.lost)
            self._failing = ""
        self.written += len(entries) - pending

    def _open(self, now: float) -> LogWriter:
        """Takes the log up. Raises OSError."""
        made = LogWriter(
            self.folder,
            self.origin,
            lambda former: encode(BegunRecord(now, self.origin, former)),
            sealer=self._sealer,
            wanted=lambda: self._settings().sealed,
        )
        self._writer, self.head = made, made.signed
        return made

    def _rendered(self, batch: list[tuple[Any, bytes | None]]) -> list[bytes]:
        """The entries of a batch; a record that cannot be made into one is lost alone."""
        found: list[bytes] = []
        self._told = False
        for first in range(0, len(batch), _RENDERED):  # few enough for a processor's caches
            part = batch[first : first + _RENDERED]
            made = self._read_together(part)
            if made is None:
                made = self._read_each(part)
            try:
                found += encode_all(made)
            except ValueError:
                self._encode_each(made, found)
        return found

    def _read_together(self, batch: list[tuple[Any, bytes | None]]) -> list[Entry] | None:
        if self._together is None:
            return None
        try:
            return self._together(batch)
        except OSError:  # of the key: what has no hash is counted when each is read by itself
            return None
        except Exception:  # which of them it was shows when each is read by itself, if it was one of them
            if not self._told_slow:
                log.warning("audit_batch_not_rendered", exc_info=True)
            self._told_slow = True
            return None

    def _read_each(self, batch: list[tuple[Any, bytes | None]]) -> list[Entry]:
        made: list[Entry] = []
        for one, data in batch:
            try:
                made += self._read(one, data)
            except OSError:
                self._read_unhashed(one, made)
            except Exception as fault:  # noqa: BLE001 - the record's root: it was made from what clients sent
                self._not_rendered(fault)
        return made

    def _read_unhashed(self, record: Any, made: list[Entry]) -> None:
        """The key of the hash cannot be written: the record is worth more than it."""
        self._unkeyed += 1
        try:
            made += self._read(record, None)
        except Exception as fault:  # noqa: BLE001 - as above
            self._not_rendered(fault)

    def _encode_each(self, made: list[Entry], found: list[bytes]) -> None:
        """One of these cannot be written."""
        for entry in made:
            try:
                found.append(encode(entry))
            except ValueError as fault:
                self._not_rendered(fault)

    def _not_rendered(self, fault: Exception) -> None:
        if not self._told:  # once a batch
            log.error("audit_record_not_rendered", lost=self.lost + 1, exc_info=fault)
        self._told = True
        self._unwritten += 1
        self._lost_why = self._lost_why or type(fault).__name__

    def _say_lost(self, writer: LogWriter, now: float) -> None:
        """Puts on record what is not. Raises OSError."""
        lost = self.lost
        if lost == self._said:
            self._last_whole = now
            return
        why = self._lost_why or "more at once than can wait"
        writer.append([encode(LostRecord(now, lost - self._said, self._last_whole or now, why))])
        self._said, self._lost_why, self._last_whole = lost, "", now

    def _fail(self, reason: str, pending: int, now: float) -> None:
        known = self._failing
        self._failing = reason  # first: whoever sees that some are lost is to see why
        self._unwritten += pending
        self._lost_why = reason
        if not known:
            log.warning("audit_not_written", path=str(self.folder), reason=reason)
        self._signed_at = min(self._signed_at, now - _SIGN_S)

    def _tidy(self, writer: LogWriter, now: float) -> None:
        """Removes what is too old: whole bundles, and says so before. Raises OSError."""
        before = now - self._settings().retention_s
        first, end = writer.oldest, min(writer.size // WIDTH, writer.oldest + _AT_ONCE)
        index = first
        while index < end and _ended(writer, index) < before:
            index += 1
        if index > first:
            writer.append([encode(RemovedRecord(now, index * WIDTH))])
            writer.checkpoint()
            while writer.oldest < index:
                writer.forget_bundle()
            self._tidied_at = 0.0 if index == end else now  # there may be more
        self._tidied(before)


def _ended(writer: LogWriter, index: int) -> float:
    """When the last record of a bundle was made; of one that cannot be read, when its file was."""
    try:
        found = decode(writer.stored.bundle(index)[0][-1])
        if found is not None:
            return found.at
    except FileNotFoundError:
        return 0.0
    except Damaged:
        pass
    try:
        return (writer.folder / bundle_path(index)).stat().st_mtime
    except FileNotFoundError:
        return (writer.folder / sealed.bundle_path(index)).stat().st_mtime
