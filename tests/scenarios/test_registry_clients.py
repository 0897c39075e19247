"""Clients and admins at a registry: made, rotated, blocked, deleted; and what agents are told of them."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from bridge_agent.authentication.authenticator import Authenticator
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.authentication.refusal import Refused
from bridge_agent.config import StateDir
from bridge_agent.gateway.config import ListenerKind
from bridge_agent.membership.registry_client import RegistryClient
from bridge_agent.membership.subscription import SnapshotSubscription
from bridge_agent.routing.view import MeshView
from bridge_core import keyspace
from bridge_core.files import write_atomically
from bridge_core.http1 import Headers, Request
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.identity.api_keys import PEPPER, Pepper, damage, id_of
from bridge_core.sealing import open_sealer
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.store.api import Put
from bridge_registry.enrolment.key_sealing import unseal_secret
from bridge_registry.rpc.admin_service import AdminService
from bridge_wire.v1 import clients_pb2 as pb
from bridge_wire.v1 import registry_pb2 as registry_pb
from bridge_wire.v1.clients_pb2_grpc import ClientsStub
from bridge_wire.v1.registry_pb2_grpc import AdminStub
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import MESH, Bed, Follower, following, leading, make_settings, refused, running
from tests.sealing_bed import SEALER
from tests.support import eventually

DENIED = grpc.StatusCode.PERMISSION_DENIED
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def bed(tmp_path: Path, etcd: FakeEtcd) -> AsyncIterator[Bed]:
    async with leading(tmp_path, etcd) as found:
        await eventually(lambda: PEPPER in found.registry.publisher.hub.secrets)
        yield found


async def create(bed: Bed, name: str = "anna", **more: Any) -> pb.CreateClientResponse:
    async with bed.clients() as clients:
        return await clients.CreateClient(pb.CreateClientRequest(name=name, **more))


async def show(bed: Bed, name: str = "") -> list[pb.ClientInfo]:
    async with bed.clients() as clients:
        return list((await clients.ListClients(pb.ListClientsRequest(name=name))).clients)


def published(bed: Bed, name: str) -> Any:
    return bed.registry.publisher.hub.current.clients.get(name)


class Holder:
    """Somebody with a key of its own."""

    def __init__(self, kind: str, name: str) -> None:
        self.key = x509.generate_key()
        self.csr = x509.create_csr(self.key, SpiffeId(MESH, kind, name))
        self.chain = b""

    @property
    def pair(self) -> tuple[bytes, bytes]:
        return self.chain, x509.key_to_pem(self.key)


async def make_admin(bed: Bed, name: str, role: str) -> Holder:
    holder = Holder("admin", name)
    async with bed.clients() as clients:
        made = await clients.CreateAdmin(pb.CreateAdminRequest(name=name, role=role, csr_pem=holder.csr))
    holder.chain = made.certificate_chain_pem
    await eventually(lambda: name in bed.registry.publisher.table.admins)
    return holder


async def test_a_key_is_shown_once_and_everywhere_else_is_only_its_hash(bed: Bed, etcd: FakeEtcd) -> None:
    with capture_logs() as logs:
        made = await create(bed, groups=["staff"], attributes={"department": "finance"})
    assert damage(made.key.encode()) == ""
    node = await bed.join("n1")
    async with following(node, Follower()) as follower:
        await eventually(lambda: "anna" in follower.snapshot.clients)
        client = follower.snapshot.clients["anna"]
        pepper = Pepper(next(one for one in follower.secrets if one)[PEPPER])
    assert (client.groups, client.attributes) == (("staff",), {"department": "finance"})
    (key,) = client.keys
    assert key.id == id_of(made.key.encode()).decode()
    assert bytes.fromhex(key.hash) == pepper.hash(made.key.encode())
    secret = made.key[17:]
    store = FakeStore(etcd)
    listing = await store.list("/")
    assert all(secret.encode() not in item.value for item in listing.items)
    assert secret not in repr(logs)
    assert secret not in repr(await show(bed))
    (said,) = [one for one in logs if one["event"] == "client_created"]
    assert (said["client"], said["by"]) == ("anna", f"spiffe://{MESH}/admin/admin")


async def test_the_pepper_is_sealed_in_the_store_and_told_once_a_stream(bed: Bed, etcd: FakeEtcd) -> None:
    store = FakeStore(etcd)
    sealed = await store.get(keyspace.SECRETS + PEPPER)
    assert sealed is not None
    pepper = unseal_secret(PEPPER, sealed.value, open_sealer(bed.registry.settings.pki.seal))
    assert len(pepper) == 32
    assert pepper not in sealed.value
    node = await bed.join("n1")
    follower = Follower()
    async with following(node, follower):
        await eventually(lambda: "n1" in follower.snapshot.nodes)
        await create(bed)
        await eventually(lambda: "anna" in follower.snapshot.clients)
    assert follower.secrets[0] == {PEPPER: pepper}
    assert not any(follower.secrets[1:])
    # One that has the snapshot already, and may have lost its secrets, is told them all the same.
    again = Follower(follower.snapshot)
    async with following(node, again):
        await eventually(lambda: bool(again.secrets))
        assert again.secrets == [{PEPPER: pepper}]
        assert again.updates[0] == (follower.snapshot.version, False)
    assert pepper not in bed.registry.publisher.hub.current.digest
    assert all(pepper.hex().encode() not in raw for raw in again.snapshot.entries.values())


async def test_a_registry_that_begins_anew_has_the_same_pepper(tmp_path: Path, etcd: FakeEtcd) -> None:
    found = []
    for _ in range(2):
        async with leading(tmp_path, etcd) as bed:
            await eventually(lambda bed=bed: PEPPER in bed.registry.publisher.hub.secrets)
            found.append(bed.registry.publisher.hub.secrets[PEPPER])
    assert found[0] == found[1]


async def test_a_registry_with_another_keyring_says_so_and_makes_no_keys(
    tmp_path: Path, etcd: FakeEtcd
) -> None:
    async with leading(tmp_path, etcd) as bed:
        await eventually(lambda: PEPPER in bed.registry.publisher.hub.secrets)
    store = FakeStore(etcd)
    await store.commit([Put(keyspace.SECRETS + PEPPER, b"BRK1" + bytes(80))])
    async with leading(tmp_path, etcd) as bed:
        async with bed.admin() as admin:
            concerns = (await admin.Status(registry_pb.StatusRequest())).concerns
        assert any("does not open with this registry's keyring" in one for one in concerns)
        async with bed.clients() as clients:
            code, says = await refused(clients.CreateClient(pb.CreateClientRequest(name="x")))
        assert (code, "keyring" in says) == (INVALID, True)
        await create(bed, "y", without_key=True)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "Anna"}, "cannot be the name of a client"),
        ({"name": ""}, "cannot be the name"),
        ({"name": "a/b"}, "cannot be the name"),
        ({"name": "a" * 58}, "cannot be the name"),
        ({"name": "änna"}, "cannot be the name"),
        ({"name": "a", "groups": [""]}, "cannot be a group"),
        ({"name": "a", "groups": ["x" * 65]}, "cannot be a group"),
        ({"name": "a", "groups": ["a b"]}, "cannot be a group"),
        ({"name": "a", "groups": [f"g{n}" for n in range(33)]}, "32 groups"),
        ({"name": "a", "attributes": {f"a{n}": "" for n in range(33)}}, "32 attributes"),
        ({"name": "a", "attributes": {"a b": "c"}}, "cannot be a label"),
        ({"name": "a", "attributes": {"a": "c\n"}}, "cannot be a label"),
        ({"name": "a", "expires_unix": 1}, "in the future"),
        ({"name": "a", "expires_unix": 1 << 63}, "in the future"),
    ],
)
async def test_what_cannot_be_of_a_client_is_refused(bed: Bed, fields: dict[str, Any], says: str) -> None:
    async with bed.clients() as clients:
        code, message = await refused(clients.CreateClient(pb.CreateClientRequest(**fields)))
    assert code is INVALID
    assert says in message


async def test_a_name_is_given_once(bed: Bed) -> None:
    await create(bed)
    async with bed.clients() as clients:
        code, says = await refused(clients.CreateClient(pb.CreateClientRequest(name="anna")))
        assert (code, "anna already" in says) == (grpc.StatusCode.ALREADY_EXISTS, True)
        for call in (
            clients.RotateClient(pb.RotateClientRequest(name="otto")),
            clients.BlockClient(pb.BlockClientRequest(name="otto", blocked=True)),
            clients.DeleteClient(pb.DeleteClientRequest(name="otto")),
            clients.ListClients(pb.ListClientsRequest(name="otto")),
            clients.CertifyClient(pb.CertifyClientRequest(name="otto")),
        ):
            assert await refused(call) == (
                INVALID,
                "there is no client 'otto' (`bridgectl client list` shows them)",
            )


async def test_rotation_ends_the_keys_before_after_the_overlap(bed: Bed) -> None:
    first = await create(bed)
    async with bed.clients() as clients:
        second = await clients.RotateClient(pb.RotateClientRequest(name="anna", overlap_seconds=3600))
        assert second.key != first.key
        older, newer = second.client.keys
        assert 3500 < older.expires_unix - time.time() <= 3600
        assert newer.expires_unix == 0
        # A longer overlap does not let a key live longer than it would have.
        third = await clients.RotateClient(pb.RotateClientRequest(name="anna", overlap_seconds=86_400))
        assert third.client.keys[0].expires_unix == older.expires_unix
        alone = await clients.RotateClient(pb.RotateClientRequest(name="anna"))
        assert [one.id for one in alone.client.keys] == [id_of(alone.key.encode()).decode()]
        for _ in range(7):
            await clients.RotateClient(pb.RotateClientRequest(name="anna", overlap_seconds=60))
        code, says = await refused(
            clients.RotateClient(pb.RotateClientRequest(name="anna", overlap_seconds=60))
        )
        assert (code, "8 is the most" in says) == (INVALID, True)
        too_long = pb.RotateClientRequest(name="anna", overlap_seconds=1 << 60)
        assert (await refused(clients.RotateClient(too_long)))[0] is INVALID


async def test_blocking_and_deleting_reach_the_snapshot(bed: Bed) -> None:
    await create(bed)
    await eventually(lambda: published(bed, "anna") is not None)
    async with bed.clients() as clients:
        await clients.BlockClient(pb.BlockClientRequest(name="anna", blocked=True))
        await eventually(lambda: published(bed, "anna").blocked)
        assert [one.blocked for one in await show(bed)] == [True]
        await clients.BlockClient(pb.BlockClientRequest(name="anna", blocked=False))
        await eventually(lambda: not published(bed, "anna").blocked)
        await clients.DeleteClient(pb.DeleteClientRequest(name="anna"))
    await eventually(lambda: published(bed, "anna") is None)
    assert await show(bed) == []


async def test_a_certificate_is_of_the_client_whatever_its_request_says_and_ends_with_it(bed: Bed) -> None:
    await create(bed, without_key=True, expires_unix=int(time.time()) + 600)
    holder = Holder("admin", "root")
    async with bed.clients() as clients:
        made = await clients.CertifyClient(pb.CertifyClientRequest(name="anna", csr_pem=holder.csr))
        info = x509.describe(made.certificate_chain_pem)
        assert str(info.identity) == f"spiffe://{MESH}/client/anna"
        assert (info.dns_names, info.addresses) == ((), ())
        assert info.not_after - time.time() <= 600  # no longer than the client
        holder.chain = made.certificate_chain_pem
        await clients.BlockClient(pb.BlockClientRequest(name="anna", blocked=True))
        code, says = await refused(
            clients.CertifyClient(pb.CertifyClientRequest(name="anna", csr_pem=holder.csr))
        )
        assert (code, "is blocked" in says) == (INVALID, True)
        assert (await refused(clients.CertifyClient(pb.CertifyClientRequest(name="anna", csr_pem=b"x"))))[
            0
        ] is INVALID
        await clients.DeleteClient(pb.DeleteClientRequest(name="anna"))
    await eventually(lambda: info.serial in bed.registry.publisher.hub.current.mesh.revoked_serials)
    async with bed.called_by(*holder.pair) as channel:
        for call in (ClientsStub(channel).ListClients(pb.ListClientsRequest()),):
            assert (await refused(call))[0] is DENIED


async def test_when_a_client_last_called_is_what_agents_said(bed: Bed) -> None:
    await create(bed)
    node = await bed.join("n1")
    await eventually(lambda: published(bed, "anna") is not None)
    now = int(time.time())
    async with node.mesh() as stub:
        reports = stub.ReportLoad()
        for used in ({"anna": now, "nobody": now}, {"anna": 1 << 60}):
            await reports.write(registry_pb.LoadReport(began_unix_ms=1, clients_used_unix=used))
        await reports.done_writing()
        await reports
    (anna,) = await show(bed, "anna")
    assert now <= anna.last_used_unix <= time.time() + 1  # nobody can have called in the future
    async with bed.clients() as clients:
        await clients.DeleteClient(pb.DeleteClientRequest(name="anna"))


async def test_an_agent_that_follows_knows_keys_at_once_and_after_a_restart_alone(
    bed: Bed, tmp_path: Path
) -> None:
    node = await bed.join("n1")
    state = StateDir(tmp_path / "agent")
    state.identity.mkdir(parents=True)
    for path, pem in ((state.key, node.key_pem), (state.certificate, node.cert_pem), (state.ca, bed.ca_pem)):
        write_atomically(path, pem)
    file = SnapshotFile(state.snapshot, SEALER, now=time.time)

    def agent() -> tuple[SnapshotSubscription, Authenticator]:
        secrets = MeshSecrets((state.secrets, SEALER))
        view = MeshView("n1")
        subscription = SnapshotSubscription(
            [RegistryClient(bed.address, state)],
            file,
            on_snapshot=view.publish,
            on_secrets=secrets.take,
            now=time.time,
            rng=random.Random(1),
        )
        view.publish(subscription.snapshot)
        return subscription, Authenticator(view, "n1", secrets)

    def who(authenticator: Authenticator, key: str) -> str:
        request = Request("GET", b"/", Headers([(b"x-api-key", key.encode())]))
        try:
            return authenticator.caller(request, ListenerKind.TLS).who.name
        except Refused as refused:
            return refused.message

    made = await create(bed)
    subscription, authenticator = agent()
    following = asyncio.create_task(subscription.run())
    await eventually(lambda: who(authenticator, made.key) == "anna")
    async with bed.clients() as clients:
        await clients.BlockClient(pb.BlockClientRequest(name="anna", blocked=True))
        await eventually(lambda: who(authenticator, made.key) == "client anna is blocked")
        await clients.BlockClient(pb.BlockClientRequest(name="anna", blocked=False))
        await eventually(lambda: who(authenticator, made.key) == "anna")
        rotated = await clients.RotateClient(pb.RotateClientRequest(name="anna"))
        await eventually(lambda: who(authenticator, rotated.key) == "anna")
        assert who(authenticator, made.key) == "this API key is not known"
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    _, alone = agent()  # follows nobody
    assert who(alone, rotated.key) == "anna"
    assert state.secrets.stat().st_mode & 0o777 == 0o600


# -- admins and roles

ROLES = {
    "viewer": {
        "ListTokens",
        "Diff",
        "GetConfig",
        "History",
        "Rollouts",
        "Status",
        "ListClients",
        "ListAdmins",
    },
    "operator": {
        "CreateToken",
        "RevokeToken",
        "Apply",
        "Rollback",
        "Drain",
        "Revoke",
        "CommandRollout",
        "CreateClient",
        "RotateClient",
        "BlockClient",
        "DeleteClient",
        "CertifyClient",
    },
    "admin": {"Restore", "CreateAdmin", "DeleteAdmin"},
}


def calls() -> list[tuple[type, str, Any]]:
    """Every call that admins have, with an empty request of it."""
    found: list[tuple[type, str, Any]] = []
    for stub, module, service in ((AdminStub, registry_pb, "Admin"), (ClientsStub, pb, "Clients")):
        for method in module.DESCRIPTOR.services_by_name[service].methods:
            request = getattr(module, method.input_type.name)
            found.append((stub, method.name, request))
    return found


def test_every_call_of_an_admin_has_a_role() -> None:
    named = set().union(*ROLES.values())
    assert {name for _, name, _ in calls()} == named
    assert len(named) == sum(map(len, ROLES.values()))
    services = Path(inspect.getfile(AdminService)).parent.glob("*.py")
    assert [one.name for one in services if 'admit(context, "admin")' in one.read_text()] == []


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_a_role_may_what_it_is_for_and_nothing_else(bed: Bed, role: str) -> None:
    holder = await make_admin(bed, "eve", role)
    order = list(ROLES)
    allowed = set().union(*(ROLES[one] for one in order[: order.index(role) + 1]))
    async with bed.called_by(*holder.pair) as channel:
        for stub, name, request in calls():
            if name == "Restore" and role == "admin":
                continue
            try:
                await getattr(stub(channel), name)(request())
                code, says = None, ""
            except grpc.aio.AioRpcError as fault:
                code, says = fault.code(), fault.details() or ""
            if name in allowed:
                assert code is not DENIED, (name, says)
            else:
                assert code is DENIED, name
                assert f"and eve has the role {role}" in says


async def test_the_founder_is_an_admin_until_somebody_else_deletes_it(bed: Bed) -> None:
    async with bed.clients() as clients:
        listed = (await clients.ListAdmins(pb.ListAdminsRequest())).admins
        assert [(one.name, one.role) for one in listed] == [("admin", "admin")]
        code, says = await refused(clients.DeleteAdmin(pb.DeleteAdminRequest(name="admin")))
        assert (code, "the only one with the role admin" in says) == (INVALID, True)
    root = await make_admin(bed, "root", "admin")
    await make_admin(bed, "eve", "viewer")
    async with bed.called_by(*root.pair) as channel:
        clients = ClientsStub(channel)
        listed = (await clients.ListAdmins(pb.ListAdminsRequest())).admins
        assert [(one.name, one.role) for one in listed] == [
            ("admin", "admin"),
            ("eve", "viewer"),
            ("root", "admin"),
        ]
        await clients.DeleteAdmin(pb.DeleteAdminRequest(name="admin"))
        code, _ = await refused(clients.DeleteAdmin(pb.DeleteAdminRequest(name="root")))
        assert code is INVALID
    await eventually(lambda: bool(bed.registry.publisher.table.admins["admin"].deleted))
    async with bed.clients() as clients:
        code, says = await refused(clients.ListAdmins(pb.ListAdminsRequest()))
        assert (code, "is no admin of this mesh, or not any more" in says) == (DENIED, True)
    await eventually(lambda: set(bed.registry.publisher.hub.current.admins) == {"eve", "root"})


async def test_a_deleted_admin_may_nothing_and_its_name_is_not_given_again(bed: Bed) -> None:
    eve = await make_admin(bed, "eve", "operator")
    serial = x509.describe(eve.chain).serial
    async with bed.clients() as clients:
        await clients.DeleteAdmin(pb.DeleteAdminRequest(name="eve"))
        await eventually(lambda: bed.registry.publisher.table.is_revoked(serial))
        for request in (
            pb.CreateAdminRequest(name="eve", role="operator", csr_pem=eve.csr),
            pb.CreateAdminRequest(name="eve", role="admin", csr_pem=eve.csr),
        ):
            code, says = await refused(clients.CreateAdmin(request))
            assert (code, "not given again" in says) == (INVALID, True)
    async with bed.called_by(*eve.pair) as channel:
        assert (await refused(AdminStub(channel).Status(registry_pb.StatusRequest())))[0] is DENIED


async def test_an_admins_role_is_not_changed_by_making_it_again(bed: Bed) -> None:
    eve = await make_admin(bed, "eve", "viewer")
    async with bed.clients() as clients:
        code, says = await refused(
            clients.CreateAdmin(pb.CreateAdminRequest(name="eve", role="admin", csr_pem=eve.csr))
        )
        assert (code, "with the role viewer" in says) == (INVALID, True)
        again = await clients.CreateAdmin(pb.CreateAdminRequest(name="eve", role="viewer", csr_pem=eve.csr))
        assert x509.describe(again.certificate_chain_pem).serial != x509.describe(eve.chain).serial
        for name, role in (("Eve", "viewer"), ("x", "root"), ("x", ""), ("x", "Admin")):
            request = pb.CreateAdminRequest(name=name, role=role, csr_pem=eve.csr)
            assert (await refused(clients.CreateAdmin(request)))[0] is INVALID


async def test_clients_and_nodes_are_no_admins(bed: Bed) -> None:
    node = await bed.join("n1")
    await create(bed, without_key=True)
    holder = Holder("client", "anna")
    async with bed.clients() as clients:
        made = await clients.CertifyClient(pb.CertifyClientRequest(name="anna", csr_pem=holder.csr))
    holder.chain = made.certificate_chain_pem
    for pair in (holder.pair, (node.cert_pem, node.key_pem)):
        async with bed.called_by(*pair) as channel:
            for stub, name, request in calls():
                assert (await refused(getattr(stub(channel), name)(request())))[0] is DENIED, name


async def test_who_does_not_lead_writes_nothing(tmp_path: Path, etcd: FakeEtcd) -> None:
    async with leading(tmp_path / "r1", etcd) as first:
        state = tmp_path / "r2" / "pki"
        state.mkdir(parents=True)
        for one in ("authorities.json", "keyring", "kek", "etcd-ca.pem", "etcd-ca.key"):
            write_atomically(state / one, (tmp_path / "r1" / "pki" / one).read_bytes())
        store = FakeStore(etcd)
        async with running(make_settings(tmp_path / "r2", "r2"), store) as second:
            await eventually(lambda: PEPPER in second.registry.publisher.hub.secrets)
            async with second.clients() as clients:
                code, says = await refused(clients.CreateClient(pb.CreateClientRequest(name="a")))
            assert (code, "leads" in says) == (grpc.StatusCode.UNAVAILABLE, True)
        await store.close()
        assert await show(first) == []


def test_records_say_nothing_that_is_secret() -> None:
    assert "hash" not in json.dumps([field.name for field in pb.KeyInfo.DESCRIPTOR.fields])
