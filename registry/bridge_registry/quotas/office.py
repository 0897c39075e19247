"""What the leading registry keeps of quotas: who has how much of which bucket, and what was used by day.

While this registry leads, one task (`run`'s) loads what is stored, lets time pass for the leases, and stores
what was used. Streams feed it on the same loop. What another registry knew of leases is not handed over:
`lease_rules` says how that is made good.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import structlog

from bridge_core import keyspace
from bridge_core.errors import Unavailable
from bridge_core.quotas import CellLimit, CellUse
from bridge_core.snapshot import Snapshot
from bridge_core.store.api import Delete, KeyValue, Op, Put, Store
from bridge_registry.complaint import Complaint
from bridge_registry.leadership import Leadership
from bridge_registry.quotas.lease_rules import BucketUse, LeaseBook
from bridge_registry.quotas.usage_rules import DayUse, UsageDays, UsageKey, UsageRecord, Used
from bridge_registry.records import RecordFault, pack, unpack

log = structlog.get_logger()

_TICK_S: Final = 1.0
_LOOK_S: Final = 0.2  # while it does not lead
_SAVE_S: Final = 10.0  # each time rewrites a node's whole day
_BATCH: Final = 100  # operations of one etcd transaction
_BATCH_BYTES: Final = 1 << 20
_DAY_S: Final = 86_400


class QuotaStanding:
    """One node's open stream; `wake` is set when there is something to say to it.

    Attributes:
        node: Whose.
        wake: See there.
        ended: Another stream of the node has begun, or this registry leads no more.
        answered: The last report that was taken in.
        first: No report has come yet.
    """

    __slots__ = ("answered", "ended", "first", "node", "wake")

    def __init__(self, node: str) -> None:
        self.node = node
        self.wake = asyncio.Event()
        self.ended = False
        self.answered = 0
        self.first = True

    def end(self) -> None:
        """It is not to go on."""
        self.ended = True
        self.wake.set()


class QuotaOffice:
    """See the module.

    Args:
        store: etcd.
        leadership: Only the leader lends and stores.
        snapshot: The published one.
        save_s: How often what was used is stored.
    """

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        snapshot: Callable[[], Snapshot],
        *,
        save_s: float = _SAVE_S,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._snapshot = snapshot
        self._save_s = save_s
        self._book: LeaseBook | None = None
        self._usage = UsageDays()
        self._term = ""
        self._followed: Snapshot | None = None
        self._streams: dict[str, QuotaStanding] = {}
        self._saving = asyncio.Lock()
        self._saved_at = 0.0

    async def run(self) -> None:
        """Works until cancelled. What was not stored by then agents tell whoever leads next."""
        complaint = Complaint("usage_not_stored")
        try:
            while True:
                with complaint.of_failure():
                    await self._step()
                await asyncio.sleep(_LOOK_S if self._book is None else _TICK_S)
        finally:
            self._end_term()

    async def save(self) -> None:
        """Stores what was used since the last time.

        Raises:
            BridgeError: the store did not take it; it is kept for the next time.
        """
        async with self._saving:
            today = _today()
            ops: list[Op] = [Delete(_key(day, node)) for day, node in self._usage.over(today)]
            changed = sorted(self._usage.changed)
            ops += [Put(_key(*place), pack(self._usage.record(*place))) for place in changed]
            self._usage.changed.difference_update(changed)
            try:
                for batch in _batches(ops):
                    await self._commit(batch)
            except BaseException:
                self._usage.changed.update(changed)
                raise

    async def _commit(self, batch: list[Op]) -> None:
        if not (await self._store.commit(batch, if_=[self._leadership.fence()])).committed:
            raise Unavailable("another registry leads")

    # -- streams

    def open(self, node: str) -> QuotaStanding:
        """A node's stream begins, in place of any that it had.

        Raises:
            Unavailable: this registry does not lead, or not yet.
        """
        self._leadership.check_serving()
        if self._book is None:
            raise Unavailable("quotas are not lent yet", hint="try again in some seconds")
        self._follow(self._book)
        before = self._streams.get(node)
        if before is not None:
            before.end()
        stream = self._streams[node] = QuotaStanding(node)
        self._book.opened(node, time.monotonic())
        return stream

    def close(self, stream: QuotaStanding) -> None:
        """A stream has ended."""
        if self._streams.get(stream.node) is stream:
            del self._streams[stream.node]
            if self._book is not None:
                self._book.closed(stream.node)

    def take(
        self,
        stream: QuotaStanding,
        cells: Iterable[CellUse],
        uses: Iterable[tuple[int, UsageKey, Used]],
        *,
        sequence: int,
        acknowledged: int,
        began: int,
    ) -> None:
        """A report came."""
        book = self._book
        if book is None or stream.ended:
            return
        self._follow(book)
        book.report(
            stream.node,
            cells,
            began=began,
            acknowledged=acknowledged,
            first=stream.first,
            now=time.monotonic(),
            now_ms=_now_ms(),
        )
        self._usage.take(stream.node, began, uses, _today())
        stream.first = False
        stream.answered = sequence
        stream.wake.set()
        self._wake(book)

    def grants(self, stream: QuotaStanding) -> tuple[int, list[CellLimit]]:
        """What the stream is told now; it has to be sent."""
        book = self._book
        return (0, []) if book is None or stream.ended else book.grants(stream.node)

    # -- what admins ask

    def uses(self) -> Iterator[BucketUse]:
        """How every bucket stands.

        Raises:
            Unavailable: this registry does not lead, or not yet.
        """
        return self._leading().uses()

    def usage(self, *, principal: str, group: str, model: str, days: tuple[int, int]) -> list[DayUse]:
        """What was used.

        Raises:
            Unavailable: this registry does not lead, or not yet.
        """
        self._leading()
        return self._usage.uses(principal=principal, group=group, model=model, days=days)

    def _leading(self) -> LeaseBook:
        self._leadership.check_serving()
        if self._book is None:
            raise Unavailable("no registry leads at present", hint="try again in some seconds")
        return self._book

    # -- one step

    async def _step(self) -> None:
        if not self._leadership.leads():
            self._end_term()
            return
        term = self._leadership.fence().key
        if self._book is None or term != self._term:
            self._end_term()
            usage = UsageDays()
            for item in (await self._store.list(keyspace.USAGE)).items:
                _restore(usage, item)
            self._usage, self._term = usage, term
            self._book = LeaseBook(time.monotonic())
            self._followed = None
        book = self._book
        self._follow(book)
        book.tick(time.monotonic(), _now_ms())
        self._wake(book)
        if time.monotonic() - self._saved_at >= self._save_s:
            await self.save()
            self._saved_at = time.monotonic()

    def _end_term(self) -> None:
        self._book = None
        for stream in self._streams.values():
            stream.end()
        self._streams = {}

    def _follow(self, book: LeaseBook) -> None:
        snapshot = self._snapshot()
        if snapshot is not self._followed:
            self._followed = snapshot
            book.follow(
                snapshot.quotas, [node.name for node in snapshot.nodes.values() if node.state == "active"]
            )

    def _wake(self, book: LeaseBook) -> None:
        for node, stream in self._streams.items():
            if not stream.first and book.due(node):
                stream.wake.set()


def _restore(usage: UsageDays, item: KeyValue) -> None:
    day, _, node = item.key.removeprefix(keyspace.USAGE).partition("/")
    try:
        record = unpack(item, UsageRecord)
        usage.restore(int(day), node, record)
    except (RecordFault, ValueError) as fault:
        log.warning("usage_record_ignored", key=item.key, reason=str(fault))


def _batches(ops: list[Op]) -> Iterator[list[Op]]:
    batch: list[Op] = []
    size = 0
    for op in ops:
        more = len(op.value) if isinstance(op, Put) else 0
        if batch and (len(batch) >= _BATCH or size + more > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(op)
        size += more
    if batch:
        yield batch


def _key(day: int, node: str) -> str:
    return f"{keyspace.USAGE}{day:06d}/{node}"


def _now_ms() -> int:
    return int(time.time() * 1000)


def _today() -> int:
    return int(time.time()) // _DAY_S
