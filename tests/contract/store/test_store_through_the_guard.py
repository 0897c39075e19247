"""An agent's store client through the guard: leases and records as on etcd itself, and no less long."""

from __future__ import annotations

import asyncio
import random
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge_agent.membership.registration import Registration
from bridge_core import keyspace
from bridge_core.etcd_server import find_etcd, parse_version, trusted_alone, version_of
from bridge_core.snapshot import Instance
from bridge_core.store.api import LeaseGone, Put, StoreUnavailable
from bridge_core.store.etcd import EtcdStore
from bridge_registry.store_guard.guard_rules import MAX_LEASES, MAX_VALUE_BYTES
from bridge_wire.etcd.rpc_pb2 import LeaseRevokeRequest
from bridge_wire.etcd.rpc_pb2_grpc import LeaseStub
from tests.contract.store.beds import QUICK
from tests.guard_bed import GuardBed, Holder, registered
from tests.ports import free_port
from tests.support import eventually, kept

pytestmark = pytest.mark.etcd

KEY = "/bridge/v1/members/one/0"
TTL_S = 6.0  # a machine may stall for some of it


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[GuardBed]:
    bed = GuardBed(tmp_path)
    try:
        await bed.start()
        yield bed
    finally:
        bed.etcd.signal(signal.SIGCONT)
        bed.etcd.stop()


async def keys(bed: GuardBed) -> set[str]:
    return {item.key for item in (await bed.everything()).items if item.key.startswith(keyspace.MEMBERS)}


async def test_an_agents_registration_works_through_it(bed: GuardBed) -> None:
    node = await bed.enrol("one")
    async with bed.guard(), node.store() as store:
        registration = Registration(store, ttl_s=TTL_S, now=time.time, rng=random.Random(1))
        running = asyncio.create_task(registration.run())
        registration.publish([Instance(id="one/0", node="one"), Instance(id="one/1", node="one")])
        await eventually(lambda: _there(bed, {KEY, "/bridge/v1/members/one/1"}))
        registration.publish([Instance(id="one/1", node="one", weight=3)])
        await eventually(lambda: _there(bed, {"/bridge/v1/members/one/1"}))
        await eventually(lambda: registration.report(time.monotonic()).up)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await registration.revoke()
        await eventually(lambda: _there(bed, set()))


async def _there(bed: GuardBed, expected: set[str]) -> bool:
    return await keys(bed) == expected


async def test_a_lease_lives_on_over_a_restart_of_the_guard(bed: GuardBed) -> None:
    node = await bed.enrol("one")
    port = free_port()
    async with bed.guard(port):
        store = EtcdStore([bed.guard_url], node.tls, timing=QUICK)
        lease = await registered(store, KEY, ttl_s=TTL_S * 2)
        held = lease.id
    async with bed.guard(port) as guard:
        before = lease.expires_at
        await eventually(lambda: lease.expires_at > before)
        assert lease.id == held
        assert guard.table.leases == {held: "one"}
        assert await keys(bed) == {KEY}
        await store.close()


async def test_what_one_guard_granted_another_knows(bed: GuardBed, tmp_path: Path) -> None:
    node = await bed.enrol("one")
    async with bed.guard(), node.store() as first:
        lease = await registered(first, KEY)
        bed.folder = tmp_path / "second"  # its sockets
        async with bed.guard() as guard, node.store() as second:
            guard.table.leases.clear()  # as if its news were late: the store is asked
            assert (await second.commit([Put(KEY, b"again", lease=lease.id)])).committed
            with pytest.raises(LeaseGone):
                await second.commit([Put(KEY, b"", lease=lease.id + 1)])


async def test_etcd_away_is_said_and_waited_for(bed: GuardBed) -> None:
    node = await bed.enrol("one")
    async with bed.guard(), node.store() as store:
        lease = await registered(store, KEY, ttl_s=TTL_S)
        bed.etcd.kill()
        with pytest.raises(StoreUnavailable, match=bed.etcd_url):
            await store.commit([Put(KEY, b"2", lease=lease.id)])
        assert store.fault is not None
        bed.etcd.start()
        await bed.answers()
        await eventually(lambda: store.fault is None and lease.expires_at > time.monotonic(), 30)
        seen = await lease.changed(0)
        assert (await store.commit([Put(KEY, b"3", lease=seen)])).committed


async def test_a_guard_that_starts_before_etcd_serves_when_it_comes(bed: GuardBed) -> None:
    node = await bed.enrol("one")
    bed.etcd.stop()
    starting = asyncio.create_task(_use(bed, node))
    await asyncio.sleep(0)
    bed.etcd.start()
    await asyncio.wait_for(starting, 30)


async def _use(bed: GuardBed, node: Holder) -> None:
    async with bed.guard(), node.store() as store:
        await registered(store, KEY)


async def test_a_lost_lease_is_told_as_etcd_tells_it(bed: GuardBed) -> None:
    node = await bed.enrol("one")
    async with bed.guard(), node.store() as store:
        lease = await registered(store, KEY, ttl_s=TTL_S)
        lost = lease.id
        registry = Holder(bed, node.identity, "", bed.pki.etcd_client("registry"))
        async with registry.channel(bed.etcd_url) as channel:
            await LeaseStub(channel).LeaseRevoke(LeaseRevokeRequest(ID=lost), timeout=60)
        again = await asyncio.wait_for(lease.changed(lost), 60)
        assert again not in {0, lost}
        assert (await store.commit([Put(KEY, b"{}", lease=again)])).committed


async def test_the_largest_records_pass_and_leases_are_counted(bed: GuardBed) -> None:
    node = await bed.enrol("one")
    async with bed.guard() as guard, node.store() as store:
        lease = await registered(store, KEY)
        large = [Put(f"/bridge/v1/members/one/{n}", b"x" * MAX_VALUE_BYTES, lease=lease.id) for n in range(7)]
        assert (await store.commit(large)).committed
        leases = [kept(store, 30.0) for _ in range(MAX_LEASES - 1)]
        await asyncio.gather(*(one.changed(0) for one in leases))
        await eventually(lambda: guard.table.leases_of("one") == MAX_LEASES)
        more = kept(store, 30.0)
        await eventually(lambda: sum(guard.service.refused.values()) > 0)
        assert more.id == 0
        await leases[0].revoke()
        await asyncio.wait_for(more.changed(0), 60)


async def test_its_figures_say_what_it_let_through_and_what_not(bed: GuardBed) -> None:
    node = await bed.enrol("one")
    async with bed.guard() as guard, node.store() as store:
        await registered(store, KEY)

        def asked(path: str) -> str:
            try:
                url = f"http://127.0.0.1:{guard.admin_port}{path}"
                return str(urllib.request.urlopen(url, timeout=60).read().decode())
            except OSError as fault:
                return str(fault)

        async def ready() -> bool:
            return await asyncio.to_thread(asked, "/readyz") == "guarding\n"

        await eventually(ready)
        await eventually(lambda: bool(guard.table.leases))
        said = await asyncio.to_thread(asked, "/metrics")
        assert 'bridge_store_guard_allowed_total{method="Txn"} 1.0' in said
        assert "bridge_store_guard_leases 1.0" in said
        assert "bridge_store_guard_store_up 1.0" in said


async def test_it_says_whether_this_etcd_could_be_trusted_alone(bed: GuardBed) -> None:
    version = version_of(find_etcd())
    assert version is not None
    trusted = trusted_alone(version)
    with capture_logs() as logs:
        async with bed.guard():
            events = {"etcd_version", "etcd_needs_its_guard"}
            (told,) = await eventually(lambda: [one for one in logs if one["event"] in events])
    assert told["event"] == ("etcd_version" if trusted else "etcd_needs_its_guard")
    assert trusted or "3.5.31 and 3.6.9" in told["hint"]


@pytest.mark.parametrize(
    ("text", "trusted"),
    [
        ("etcd Version: 3.4.23\nGit SHA: x", False),
        ("3.5.1", False),
        ("3.5.30", False),
        ("3.5.31", True),
        ("3.6.0", False),
        ("3.6.8", False),
        ("3.6.9", True),
        ("3.6.9-rc.1", True),
        ("3.7.0", True),
        ("4.0.0", True),
    ],
)
def test_only_versions_that_look_into_transactions_are_trusted_alone(text: str, trusted: bool) -> None:
    version = parse_version(text)
    assert version is not None
    assert trusted_alone(version) is trusted


def test_the_newest_etcd_that_there_is_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    wheel = find_etcd()
    script = tmp_path / "etcd"
    script.write_text("#!/bin/sh\necho etcd Version: 9.9.9\n")  # as the wheel's wrapper is one
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/nowhere")
    there = [path for path in (wheel, Path("/usr/bin/etcd")) if path.exists()]
    assert version_of(find_etcd()) == max(version_of(path) or (0, 0, 0) for path in there)
    assert version_of(tmp_path / "none") is None
