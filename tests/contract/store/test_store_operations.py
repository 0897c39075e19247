"""The store's contract: reads, transactions, leases, and what it says when the server is away."""

from __future__ import annotations

import asyncio
import time

import pytest

from bridge_core.store.api import (
    Delete,
    KeyValue,
    LeaseGone,
    Put,
    Store,
    StoreRefused,
    StoreUnavailable,
    Unchanged,
)
from tests.contract.store.beds import Bed
from tests.support import eventually, kept


async def test_a_key_reads_back_as_written(store: Store, prefix: str) -> None:
    assert await store.get(prefix + "a") is None
    outcome = await store.commit([Put(prefix + "a", b"\x00\xff")])
    assert outcome.committed
    found = await store.get(prefix + "a")
    assert found == KeyValue(prefix + "a", b"\x00\xff", outcome.revision, outcome.revision)


async def test_a_listing_holds_the_prefix_alone_in_key_order(store: Store, prefix: str) -> None:
    outside = prefix.removesuffix("/") + "0"  # sorts right behind everything under the prefix
    await store.commit(
        [Put(prefix + name, name.encode()) for name in ("b", "a", "a/x")] + [Put(outside, b"")]
    )
    listing = await store.list(prefix)
    assert [item.key for item in listing.items] == [prefix + "a", prefix + "a/x", prefix + "b"]
    assert listing.revision >= max(item.mod_revision for item in listing.items)


async def test_a_transaction_is_all_or_nothing(store: Store, prefix: str) -> None:
    first = await store.commit([Put(prefix + "a", b"1"), Put(prefix + "b", b"1")])
    only_new = Unchanged(prefix + "a", mod_revision=0)
    refused = await store.commit([Put(prefix + "b", b"2"), Delete(prefix + "a")], if_=[only_new])
    assert not refused.committed
    assert [item.value for item in (await store.list(prefix)).items] == [b"1", b"1"]
    same = Unchanged(prefix + "a", mod_revision=first.revision)
    done = await store.commit([Put(prefix + "b", b"2"), Delete(prefix + "a")], if_=[same])
    assert done.committed
    (left,) = (await store.list(prefix)).items
    assert left == KeyValue(prefix + "b", b"2", done.revision, first.revision)


async def test_a_prefix_is_deleted_whole(store: Store, prefix: str) -> None:
    await store.commit([Put(f"{prefix}x/{number}", b"") for number in range(5)] + [Put(prefix + "y", b"")])
    await store.commit([Delete(prefix + "x/", prefix=True)])
    assert [item.key for item in (await store.list(prefix)).items] == [prefix + "y"]


async def test_a_transaction_that_writes_a_key_twice_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(StoreRefused):
        await store.commit([Put(prefix + "a", b"1"), Put(prefix + "a", b"2")])
    assert await store.get(prefix + "a") is None


async def test_of_many_writers_with_one_condition_one_wins(store: Store, prefix: str) -> None:
    free = Unchanged(prefix + "a", mod_revision=0)
    outcomes = await asyncio.gather(
        *(store.commit([Put(prefix + "a", b"%d" % number)], if_=[free]) for number in range(20))
    )
    assert sum(outcome.committed for outcome in outcomes) == 1


async def test_a_key_goes_with_its_lease(store: Store, prefix: str) -> None:
    lease = kept(store, 5.0)
    lease_id = await lease.changed(0)
    await store.commit([Put(prefix + "a", b"", lease=lease_id)])
    found = await store.get(prefix + "a")
    assert found is not None
    assert found.lease == lease_id
    await lease.revoke()
    assert lease.id == 0
    await eventually(lambda: _gone(store, prefix + "a"))


async def test_a_lease_is_kept_and_its_end_is_never_too_late(bed: Bed, store: Store, prefix: str) -> None:
    before = time.monotonic()
    lasts_s = 3 * bed.lease_s  # a machine may stall for that long
    lease = kept(store, lasts_s)
    lease_id = await lease.changed(0)
    first_end = lease.expires_at
    assert before < first_end <= time.monotonic() + lasts_s
    await store.commit([Put(prefix + "a", b"", lease=lease_id)])
    await eventually(lambda: lease.expires_at > first_end + bed.lease_s)
    assert lease.id == lease_id
    assert await store.get(prefix + "a") is not None
    await lease.revoke()


async def test_a_write_under_a_lease_that_is_gone_is_refused(store: Store, prefix: str) -> None:
    lease = kept(store, 5.0)
    lease_id = await lease.changed(0)
    await lease.revoke()  # a store that does not answer soon is left to let it expire

    async def refused() -> bool:
        try:
            await store.commit([Put(prefix + "a", b"", lease=lease_id)])
        except LeaseGone:
            return True
        return False

    await eventually(refused)


async def test_a_closed_client_leaves_its_lease_to_expire(bed: Bed, store: Store, prefix: str) -> None:
    other = bed.client()
    lease = kept(other, bed.lease_s)
    await other.commit([Put(prefix + "a", b"", lease=await lease.changed(0))])
    await other.close()
    assert await store.get(prefix + "a") is not None

    await eventually(lambda: _gone(store, prefix + "a"))


async def _gone(store: Store, key: str) -> bool:
    return await store.get(key) is None


async def test_a_lease_lost_while_the_server_was_away_is_replaced(
    bed: Bed, store: Store, prefix: str
) -> None:
    lease = kept(store, bed.lease_s)
    lost = await lease.changed(0)
    await store.commit([Put(prefix + "a", b"", lease=lost)])
    await bed.pause()
    await eventually(lambda: time.monotonic() > lease.expires_at + 0.2)
    await eventually(lambda: store.fault is not None)
    await bed.resume()
    replacement = await asyncio.wait_for(lease.changed(lost), 60)
    assert replacement == lease.id != lost
    assert lease.expires_at > time.monotonic()
    assert await store.get(prefix + "a") is None
    await store.commit([Put(prefix + "a", b"", lease=replacement)])
    await lease.revoke()


async def test_while_the_server_is_away_calls_say_so_and_since_when(
    bed: Bed, store: Store, prefix: str
) -> None:
    await store.commit([Put(prefix + "a", b"1")])
    assert store.fault is None
    before = time.monotonic()
    await bed.pause()
    with pytest.raises(StoreUnavailable):
        await store.get(prefix + "a")
    first = store.fault
    assert first is not None
    assert before <= first.since <= time.monotonic()
    assert first.reason
    with pytest.raises(StoreUnavailable):
        await store.list(prefix)
    assert store.fault is not None
    assert store.fault.since == first.since
    lease = kept(store, bed.lease_s)  # returns at once
    assert lease.id == 0
    await bed.resume()
    assert await lease.changed(0)
    assert await store.get(prefix + "a") is not None
    assert store.fault is None
    await lease.revoke()


async def test_what_was_written_survives_a_restart(bed: Bed, store: Store, prefix: str) -> None:
    written = await store.commit([Put(prefix + "a", b"1")])
    await bed.restart()
    found = await store.get(prefix + "a")
    assert found == KeyValue(prefix + "a", b"1", written.revision, written.revision)
    assert (await store.commit([Put(prefix + "a", b"2")])).revision > written.revision
