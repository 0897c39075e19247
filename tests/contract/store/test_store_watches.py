"""The store's contract: a watch misses nothing and invents nothing, whatever happens to the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bridge_core.store.api import (
    Changes,
    Delete,
    Deleted,
    KeyListing,
    KeyValue,
    Put,
    Store,
    StoreUnavailable,
    Unchanged,
    WatchEvent,
)
from tests.contract.store.beds import Bed
from tests.support import eventually, kept


class Follower:
    """Reads a watch and keeps what it should know, failing on any breach of the watch's rules."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self.events: list[WatchEvent] = []
        self.items: dict[str, KeyValue] = {}
        self.revision = 0

    @property
    def listings(self) -> int:
        return sum(isinstance(event, KeyListing) for event in self.events)

    def values(self) -> dict[str, bytes]:
        return {key.removeprefix(self._prefix): item.value for key, item in self.items.items()}

    async def run(self) -> None:
        async with contextlib.aclosing(self._store.watch(self._prefix)) as events:
            async for event in events:
                self._take(event)

    def _take(self, event: WatchEvent) -> None:
        assert self.events or isinstance(event, KeyListing), "the first event is a listing"
        self.events.append(event)
        if isinstance(event, KeyListing):
            self.items = {item.key: item for item in event.items}
        else:
            assert event.revision > self.revision, "a repeated or reordered event"
            for change in event.events:
                assert change.key.startswith(self._prefix)
                assert change.mod_revision == event.revision
                if isinstance(change, Deleted):
                    assert change.key in self.items, "a delete of what never was: an event was missed"
                    del self.items[change.key]
                else:
                    self.items[change.key] = change
        self.revision = event.revision


@contextlib.asynccontextmanager
async def following(store: Store, prefix: str) -> AsyncIterator[Follower]:
    follower = Follower(store, prefix)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
        assert not task.done() or task.exception() is None, task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def insist(store: Store, prefix: str, value: bytes) -> None:
    """Writes until it is written: reads before every new attempt, as the contract asks."""
    while True:
        try:
            found = await store.get(prefix)
            if found is not None and found.value == value:
                return
            await store.commit(
                [Put(prefix, value)], if_=[Unchanged(prefix, 0 if found is None else found.mod_revision)]
            )
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def test_a_watch_lists_first_then_tells_each_revision_once(store: Store, prefix: str) -> None:
    await store.commit([Put(prefix + "a", b"1")])
    async with following(store, prefix) as follower:
        await eventually(lambda: follower.events)
        (first,) = follower.events
        assert isinstance(first, KeyListing)
        assert [item.value for item in first.items] == [b"1"]
        both = await store.commit([Put(prefix + "b", b"2"), Delete(prefix + "a")])
        await store.commit([Put(prefix.removesuffix("/") + "0", b"not ours")])
        again = await store.commit([Put(prefix + "b", b"3")])
        await eventually(lambda: len(follower.events) == 3)
    assert follower.events[1] == Changes(
        (
            KeyValue(prefix + "b", b"2", both.revision, both.revision),
            Deleted(prefix + "a", both.revision),
        ),
        both.revision,
    )
    assert follower.events[2] == Changes(
        (KeyValue(prefix + "b", b"3", again.revision, both.revision),), again.revision
    )


async def test_an_expired_lease_is_told_as_a_delete(bed: Bed, store: Store, prefix: str) -> None:
    other = bed.client()
    lease = kept(other, bed.lease_s)
    await other.commit([Put(prefix + "a", b"", lease=await lease.changed(0))])
    async with following(store, prefix) as follower:
        await eventually(lambda: follower.items)
        await other.close()
        await eventually(lambda: not follower.items)
        assert follower.listings == 1


@pytest.mark.parametrize("outage", ["paused", "killed"])
async def test_an_outage_hides_and_repeats_no_event(bed: Bed, store: Store, prefix: str, outage: str) -> None:
    """Eight writers go on through two outages; every committed write is told exactly once."""
    committed: dict[int, str] = {}
    stopping = asyncio.Event()

    async def write(number: int) -> None:
        client = bed.client()
        count = 0
        while not stopping.is_set():
            count += 1
            key, value = f"{prefix}{number}/{count}", b"%d" % count
            with contextlib.suppress(StoreUnavailable):
                outcome = await client.commit([Put(key, value)])
                committed[outcome.revision] = key
            await asyncio.sleep(0.005)
        await client.close()

    async with following(store, prefix) as follower:
        await eventually(lambda: follower.events)
        start = follower.revision
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(write(number))
            for _ in range(2):
                before = len(committed)
                await eventually(lambda before=before: len(committed) > before + 40)
                if outage == "paused":
                    await bed.pause()
                    await eventually(lambda: store.fault is not None)
                    await bed.resume()
                else:
                    await bed.restart()
                await eventually(lambda before=before: len(committed) > before + 80)
            stopping.set()
        final = {item.key: item for item in (await store.list(prefix)).items}
        await eventually(lambda: follower.items == final)
        assert follower.listings == 1, "history was there all the time: nothing had to be listed again"
    assert min(committed) > start
    told = {event.revision: event for event in follower.events if isinstance(event, Changes)}
    for revision, key in committed.items():
        assert [change.key for change in told[revision].events] == [key]
    assert {item.mod_revision for item in final.values()} == told.keys(), "an event of a write that never was"


async def test_a_reader_behind_a_compaction_gets_a_new_listing(bed: Bed, store: Store, prefix: str) -> None:
    """Paused, written to and compacted before the watch is back: it cannot resume and must not guess."""
    writer = bed.client()
    await writer.commit([Put(prefix + "gone", b""), Put(prefix + "kept", b"1")])
    watch = store.watch(prefix)
    first = await anext(watch)
    assert isinstance(first, KeyListing)
    # Not reading: the position stays here while history goes.
    await writer.commit([Delete(prefix + "gone")])
    for number in range(5):
        last = await writer.commit([Put(prefix + "kept", b"%d" % number)])
    await bed.compact(last.revision)
    second = await asyncio.wait_for(anext(watch), 60)
    await watch.aclose()
    await writer.close()
    assert isinstance(second, KeyListing)
    assert [(item.key, item.value) for item in second.items] == [(prefix + "kept", b"4")]


async def test_a_compaction_does_not_disturb_a_reader_that_keeps_up(
    bed: Bed, store: Store, prefix: str
) -> None:
    async with following(store, prefix) as follower:
        for number in range(5):
            outcome = await store.commit([Put(prefix + "a", b"%d" % number)])
            await eventually(lambda revision=outcome.revision: follower.revision == revision)
            await bed.compact(outcome.revision)
        assert follower.listings == 1


async def test_a_watch_waits_for_a_server_that_is_not_there_yet(bed: Bed, store: Store, prefix: str) -> None:
    await bed.pause()
    async with following(store, prefix) as follower:
        await eventually(lambda: store.fault is not None)
        assert not follower.events
        await bed.resume()
        await eventually(lambda: follower.events)
        assert store.fault is None
        await store.commit([Put(prefix + "a", b"1")])
        await eventually(lambda: follower.values() == {"a": b"1"})


async def test_many_watches_and_writers_end_in_the_same_state(bed: Bed, store: Store, prefix: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(following(store, prefix)) for _ in range(5)]
        await asyncio.gather(
            *(insist(store, f"{prefix}{key}", b"%d" % round_) for round_ in range(10) for key in range(10))
        )
        final = {item.key: item for item in (await store.list(prefix)).items}
        for follower in followers:
            await eventually(lambda follower=follower: follower.items == final)
            assert follower.listings == 1


async def test_closing_the_store_ends_its_watches(bed: Bed, prefix: str) -> None:
    client = bed.client()
    follower = Follower(client, prefix)
    task = asyncio.create_task(follower.run())
    await eventually(lambda: follower.events)
    await client.close()
    await asyncio.wait_for(task, 60)
