"""What only a real etcd can show: certificates, permissions, several endpoints, a restored history."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_cli.etcd_ready import ready
from bridge_core.errors import Fatal
from bridge_core.store.api import Changes, KeyListing, Put, StoreRefused, StoreUnavailable
from bridge_core.store.convert import key_range
from bridge_core.store.etcd import ClientTls, EtcdStore
from bridge_wire.etcd.auth_pb2 import Permission, UserAddOptions
from bridge_wire.etcd.rpc_pb2 import (
    AuthEnableRequest,
    AuthRoleAddRequest,
    AuthRoleGrantPermissionRequest,
    AuthUserAddRequest,
    AuthUserGrantRoleRequest,
)
from bridge_wire.etcd.rpc_pb2_grpc import AuthStub
from tests.contract.store.beds import QUICK, Certificates, EtcdBed
from tests.ports import free_port
from tests.support import eventually, kept

pytestmark = pytest.mark.etcd


@contextlib.asynccontextmanager
async def opened(urls: list[str], tls: ClientTls | None) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(urls, tls, timing=QUICK)
    try:
        yield store
    finally:
        await store.close()


async def test_a_foreign_certificate_is_refused(etcd_bed: EtcdBed, tmp_path: Path) -> None:
    foreign = Certificates(tmp_path).client
    mixed = ClientTls(foreign.cert, foreign.key, etcd_bed.certificates.ca)
    async with opened([etcd_bed.url], mixed) as store:
        with pytest.raises((StoreRefused, StoreUnavailable)):
            await store.get("/a")
        assert store.fault is not None


async def test_a_server_of_another_ca_is_refused(etcd_bed: EtcdBed, tmp_path: Path) -> None:
    async with opened([etcd_bed.url], Certificates(tmp_path).client) as store:
        with pytest.raises(StoreRefused, match="CERTIFICATE_VERIFY_FAILED"):
            await store.commit([Put("/a", b"")])
        assert store.fault is not None


async def test_an_unreadable_certificate_is_named(etcd_bed: EtcdBed, tmp_path: Path) -> None:
    missing = ClientTls(tmp_path / "no.pem", tmp_path / "no.key", tmp_path / "ca.pem")
    async with opened([etcd_bed.url], missing) as store:
        with pytest.raises(StoreRefused, match=r"no\.pem"):
            await store.get("/a")


@pytest.mark.parametrize("endpoint", ["ftp://a:1", "https://a:port", "https://"])
async def test_an_endpoint_that_is_no_address_is_named(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="not an address"):
        EtcdStore([endpoint], ClientTls(tmp_path, tmp_path, tmp_path))


async def test_https_without_a_certificate_says_what_is_missing() -> None:
    with pytest.raises(Fatal, match="client certificate"):
        EtcdStore(["https://127.0.0.1:2379"])


async def test_an_etcd_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    bed = EtcdBed(tmp_path, Certificates(tmp_path))
    async with opened([bed.url], bed.certificates.client) as store:
        before = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.commit([Put("/a", b"1")])
        assert store.fault is not None
        assert store.fault.since >= before
        lease = kept(store, 5.0)
        watch = store.watch("/")
        first = asyncio.ensure_future(anext(watch))
        bed.server.start()
        try:
            listing = await asyncio.wait_for(first, 60)
            assert isinstance(listing, KeyListing)
            assert await asyncio.wait_for(lease.changed(0), 60)
            assert store.fault is None
        finally:
            await watch.aclose()
            bed.server.stop()


async def test_a_renewed_certificate_is_used_without_a_restart(own_etcd: EtcdBed, tmp_path: Path) -> None:
    folder = tmp_path / "rotated"
    folder.mkdir()
    foreign = Certificates(folder).client
    tls = ClientTls(foreign.cert, foreign.key, own_etcd.certificates.ca)
    async with opened([own_etcd.url], tls) as store:
        with pytest.raises((StoreRefused, StoreUnavailable)):
            await store.get("/a")
        shutil.copyfile(own_etcd.certificates.client.key, tls.key)
        shutil.copyfile(own_etcd.certificates.client.cert, tls.cert)
        assert await store.get("/a") is None
        assert store.fault is None


async def test_what_its_role_does_not_cover_a_client_is_refused(own_etcd: EtcdBed) -> None:
    """A certificate's common name may touch what its role covers alone."""
    certificates = own_etcd.certificates
    root, node = certificates.client_tls("root"), certificates.client_tls("node1")
    async with own_etcd.channel(root) as channel:
        auth = AuthStub(channel)
        for user in ("root", "node1"):
            await auth.UserAdd(AuthUserAddRequest(name=user, options=UserAddOptions(no_password=True)))
        await auth.RoleAdd(AuthRoleAddRequest(name="root"))
        await auth.RoleAdd(AuthRoleAddRequest(name="node1"))
        key, range_end = key_range("/members/node1/")
        own = Permission(permType=Permission.READWRITE, key=key, range_end=range_end)
        await auth.RoleGrantPermission(AuthRoleGrantPermissionRequest(name="node1", perm=own))
        for name in ("root", "node1"):
            await auth.UserGrantRole(AuthUserGrantRoleRequest(user=name, role=name))
        await auth.AuthEnable(AuthEnableRequest())
    async with opened([own_etcd.url], node) as store:
        lease = kept(store, 5.0)
        await store.commit([Put("/members/node1/0", b"", lease=await lease.changed(0))])
        assert (await store.list("/members/node1/")).items
        for forbidden in (store.get("/members/node2/0"), store.list("/"), store.commit([Put("/ca", b"")])):
            with pytest.raises(StoreRefused, match="permission denied"):
                await forbidden
        assert store.fault is None
        watch = store.watch("/members/")
        with pytest.raises(StoreRefused, match="permission denied"):
            await asyncio.wait_for(anext(watch), 60)
        await lease.revoke()


async def test_of_several_endpoints_one_that_answers_is_used(etcd_bed: EtcdBed) -> None:
    dead = f"https://127.0.0.1:{free_port()}"
    async with opened([dead, etcd_bed.url], etcd_bed.certificates.client) as store:
        assert (await store.commit([Put("/several/a", b"1")])).committed
        watch = store.watch("/several/")
        assert isinstance(await asyncio.wait_for(anext(watch), 60), KeyListing)
        await store.commit([Put("/several/a", b"2")])
        assert isinstance(await asyncio.wait_for(anext(watch), 60), Changes)
        await watch.aclose()
        assert store.fault is None


async def test_a_silenced_endpoint_is_left_for_one_that_answers(own_etcd: EtcdBed, etcd_bed: EtcdBed) -> None:
    """Two servers stand in for two members; the first is paused with its connections open."""
    async with opened([own_etcd.url], own_etcd.certificates.client) as store:
        await store.get("/a")
        await own_etcd.pause()
        with pytest.raises(StoreUnavailable):
            await store.get("/a")
    certificates = own_etcd.certificates
    bundle = certificates.ca.parent / "both.pem"
    bundle.write_bytes(certificates.ca.read_bytes() + etcd_bed.certificates.ca.read_bytes())
    tls = ClientTls(etcd_bed.certificates.client.cert, etcd_bed.certificates.client.key, bundle)
    async with opened([own_etcd.url, etcd_bed.url], tls) as store:
        assert await store.get("/a") is None
        assert store.fault is None
        assert (await store.commit([Put("/silenced/a", b"")])).committed
    await own_etcd.resume()


async def test_a_store_put_back_to_an_older_state_is_listed_again(own_etcd: EtcdBed, tmp_path: Path) -> None:
    settings = own_etcd.server.settings
    async with opened([own_etcd.url], own_etcd.certificates.client) as store:
        await store.commit([Put("/a", b"old")])
        own_etcd.server.stop()
        shutil.copytree(settings.data_dir, tmp_path / "backup")
        own_etcd.server.start()
        await own_etcd.ready()
        watch = store.watch("/a")
        assert isinstance(await anext(watch), KeyListing)
        for number in range(5):
            await store.commit([Put("/a", b"%d" % number)])
            assert isinstance(await asyncio.wait_for(anext(watch), 60), Changes)
        own_etcd.server.kill()
        shutil.rmtree(settings.data_dir)
        shutil.copytree(tmp_path / "backup", settings.data_dir)
        own_etcd.server.start()
        again = await asyncio.wait_for(anext(watch), 60)
        await watch.aclose()
    assert isinstance(again, KeyListing)
    assert [item.value for item in again.items] == [b"old"]


async def test_readiness_gives_up_with_the_reason(tmp_path: Path) -> None:
    bed = EtcdBed(tmp_path, Certificates(tmp_path))
    with pytest.raises(StoreUnavailable, match=str(bed.server.settings.client_port)):
        await ready([bed.url], bed.certificates.client, 0.3)


async def test_a_large_listing_and_a_large_transaction_pass(etcd_bed: EtcdBed) -> None:
    async with opened([etcd_bed.url], etcd_bed.certificates.client) as store:
        await store.commit([Put(f"/large/{number:04}", b"x" * 2_000) for number in range(2_500)])
        watch = store.watch("/large/")
        listing = await asyncio.wait_for(anext(watch), 60)
        await watch.aclose()
        assert len(listing.items if isinstance(listing, KeyListing) else ()) == 2_500
        await eventually(lambda: store.fault is None)
