"""Joining, renewing and leaving, and every way to abuse a token."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import msgspec
import pytest
from structlog.testing import capture_logs

from bridge_core.files import write_atomically
from bridge_core.identity import JoinToken, SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.identity.certificates import create_csr, describe, generate_key
from bridge_core.registry_channel import WrongAuthority, open_channel
from bridge_core.store.api import Put
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import (
    MESH,
    Bed,
    Follower,
    Node,
    following,
    make_settings,
    refused,
    running,
)
from tests.support import eventually

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


async def test_a_node_joins_and_is_in_everybodys_snapshot(bed: Bed, etcd: FakeEtcd) -> None:
    node = await bed.join("n1")
    info = describe(node.cert_pem)
    assert str(info.identity) == "spiffe://bridge.local/node/n1"
    assert 86_300 < info.not_after - time.time() <= 86_400
    assert node.joined.identity.trust_bundle_pem == bed.ca_pem
    assert list(node.joined.etcd.endpoints) == ["https://guard.example:11404"]
    store = FakeStore(etcd)
    async with following(node, Follower()) as follower:
        await eventually(lambda: "n1" in follower.snapshot.nodes)
        await node.register(store)
        await eventually(lambda: "n1/0" in follower.snapshot.instances)
    assert follower.snapshot.nodes["n1"].peer == "127.0.0.1:11445"
    assert follower.snapshot.nodes["n1"].serial == info.serial
    await store.close()


async def test_the_csr_decides_nothing_but_the_key(bed: Bed) -> None:
    key = generate_key()
    csr = create_csr(key, SpiffeId(MESH, "admin", "root"), dns_names=["a.example", "google.com"])
    token = await bed.token(dns_names=["*.Example"])
    node = await bed.join("n1", token, key=key, csr_pem=csr)
    info = describe(node.cert_pem)
    assert info.identity == SpiffeId(MESH, "node", "n1")
    assert info.dns_names == ("n1", "localhost", "a.example")
    async with node.mesh() as stub:
        renewed = await stub.Renew(pb.RenewRequest(csr_pem=csr))
    assert describe(renewed.identity.certificate_chain_pem).dns_names == info.dns_names


async def test_no_request_makes_a_node_the_registry_or_another_node(bed: Bed) -> None:
    node = await bed.join("n1")
    await bed.join("node3")
    await eventually(lambda: "node3" in bed.registry.publisher.table.nodes)
    key = generate_key()
    identity = SpiffeId(MESH, "node", "n1")
    async with node.mesh() as stub:
        for name in ("registry.Bridge.internal", "REGISTRY.BRIDGE.INTERNAL.", "NODE3", "node3."):
            csr = create_csr(key, identity, dns_names=[name])
            code, says = await refused(stub.Renew(pb.RenewRequest(csr_pem=csr)))
            assert (code, "asks for" in says) == (grpc.StatusCode.PERMISSION_DENIED, True), name
            facts = pb.NodeFacts(peer_address=f"{name}:11445")
            plain = create_csr(key, identity)
            code, says = await refused(stub.Renew(pb.RenewRequest(csr_pem=plain, facts=facts)))
            assert code is grpc.StatusCode.PERMISSION_DENIED, name


async def test_anybody_is_told_the_registrys_time_before_a_token_is_sent(bed: Bed) -> None:
    async with open_channel(bed.address, bed.ca_pem) as channel:
        hello = await rpc.EnrolmentStub(channel).Hello(pb.HelloRequest())
    assert abs(hello.server_time_unix_ms / 1000 - time.time()) < 60
    assert hello.trust_domain == MESH


async def test_a_token_is_spent_after_its_uses(bed: Bed) -> None:
    token = await bed.token(uses=2)
    await bed.join("n1", token)
    await bed.join("n2", token)
    code, says = await refused(bed.join("n3", token))
    assert (code, "already used" in says) == (UNAUTHENTICATED, True)


async def test_many_at_once_cannot_use_a_token_more_often(bed: Bed) -> None:
    token = await bed.token(uses=3)
    results = await asyncio.gather(*(bed.join(f"n{at}", token) for at in range(6)), return_exceptions=True)
    assert sum(isinstance(result, Node) for result in results) == 3
    await eventually(lambda: len(bed.registry.publisher.table.nodes) == 3)


async def test_a_join_whose_answer_was_lost_may_be_repeated(bed: Bed) -> None:
    token, key = await bed.token(), generate_key()
    first = await bed.join("n1", token, key=key)
    again = await bed.join("n1", token, key=key)
    assert describe(again.cert_pem).serial != describe(first.cert_pem).serial
    code, says = await refused(bed.join("n1", token))  # another key: not the same node
    assert (code, "already used" in says) == (UNAUTHENTICATED, True)


async def test_an_expired_token_says_so(bed: Bed, etcd: FakeEtcd) -> None:
    token = await bed.token(ttl_seconds=60)
    expire(etcd, JoinToken.parse(token).id)
    code, says = await refused(bed.join("n1", token))
    assert (code, "expired" in says) == (UNAUTHENTICATED, True)


async def test_a_revoked_token_says_so(bed: Bed) -> None:
    token = await bed.token()
    async with bed.admin() as admin:
        assert len((await admin.ListTokens(pb.ListTokensRequest())).tokens) == 1
        await admin.RevokeToken(pb.RevokeTokenRequest(id=JoinToken.parse(token).id))
        assert not (await admin.ListTokens(pb.ListTokensRequest())).tokens
        code, says = await refused(admin.RevokeToken(pb.RevokeTokenRequest(id="nope")))
        assert (code, "there is no token" in says) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    code, says = await refused(bed.join("n1", token))
    assert (code, "was revoked" in says) == (UNAUTHENTICATED, True)


async def test_a_wrong_secret_a_truncated_token_and_rubbish_say_so(bed: Bed) -> None:
    token = JoinToken.parse(await bed.token())
    wrong = str(JoinToken(token.id, "00" * 32, token.ca_pin))
    key = generate_key()
    csr = create_csr(key, SpiffeId(MESH, "node", "n1"))
    async with open_channel(bed.address, bed.ca_pem) as channel:
        stub = rpc.EnrolmentStub(channel)
        for text, says in (
            (wrong, "is wrong"),
            (str(token)[:60], "truncated"),
            ("hello", "not a join token"),
            ("", "not a join token"),
        ):
            code, message = await refused(stub.Join(pb.JoinRequest(token=text, node_name="n1", csr_pem=csr)))
            assert (code, says in message) == (UNAUTHENTICATED, True), message
    await bed.join("n1", str(token))  # none of that used it up


async def test_a_token_of_another_mesh_is_refused_on_both_sides(bed: Bed) -> None:
    token = JoinToken.parse(await bed.token())
    foreign = str(JoinToken(token.id, token.secret, "00" * 32))
    with pytest.raises(WrongAuthority):
        await bed.join("n1", foreign)
    async with open_channel(bed.address, bed.ca_pem) as channel:
        code, says = await refused(
            rpc.EnrolmentStub(channel).Join(
                pb.JoinRequest(
                    token=foreign,
                    node_name="n1",
                    csr_pem=create_csr(generate_key(), SpiffeId(MESH, "node", "n1")),
                )
            )
        )
    assert (code, "another mesh" in says) == (UNAUTHENTICATED, True)


async def test_bad_names_and_requests_are_refused_and_cost_no_use(bed: Bed) -> None:
    token = await bed.token()
    for name, more in (
        ("Bad Name", {}),
        ("../x", {}),
        ("n1", {"csr_pem": b"rubbish"}),
        ("n1", {"csr_pem": b"x" * 20_000}),
    ):
        code, _ = await refused(bed.join(name, token, **more))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    await bed.join("n1", token)


async def test_a_taken_name_is_refused_and_a_token_for_it_replaces_the_node(bed: Bed) -> None:
    old = await bed.join("n1")
    token = await bed.token()
    code, says = await refused(bed.join("n1", token))
    assert (code, "n1 is taken" in says) == (grpc.StatusCode.ALREADY_EXISTS, True)
    bound = await bed.token(node_name="n1", labels={"zone": "a"})
    code, says = await refused(bed.join("n2", bound))
    assert (code, "for the node n1" in says) == (UNAUTHENTICATED, True)
    await bed.join("n1", bound)
    await eventually(lambda: bool(bed.registry.publisher.table.revoked))
    async with old.mesh() as stub:
        code, says = await refused(stub.Renew(pb.RenewRequest(csr_pem=b"x")))
    assert (code, "revoked" in says) == (grpc.StatusCode.PERMISSION_DENIED, True)
    hub = bed.registry.publisher.hub
    await eventually(lambda: "n1" in hub.current.nodes and hub.current.nodes["n1"].labels == {"zone": "a"})


async def test_a_node_renews_for_a_new_key(bed: Bed) -> None:
    node = await bed.join("n1")
    key = generate_key()
    async with node.mesh() as stub:
        csr = create_csr(key, SpiffeId(MESH, "node", "another"))
        renewed = await stub.Renew(
            pb.RenewRequest(csr_pem=csr, facts=pb.NodeFacts(peer_address="10.0.0.9:1"))
        )
    info = describe(renewed.identity.certificate_chain_pem)
    assert info.identity == SpiffeId(MESH, "node", "n1")
    assert "10.0.0.9" in info.addresses
    hub = bed.registry.publisher.hub
    await eventually(lambda: "n1" in hub.current.nodes and hub.current.nodes["n1"].serial == info.serial)
    assert hub.current.nodes["n1"].peer == "10.0.0.9:1"


async def test_a_node_that_leaves_frees_its_name_and_loses_its_stream(bed: Bed, etcd: FakeEtcd) -> None:
    node, other = await bed.join("n1"), await bed.join("n2")
    store = FakeStore(etcd)
    await node.register(store, state="draining")
    async with following(node, Follower()) as own, following(other, Follower()) as follower:
        await eventually(lambda: "n1/0" in follower.snapshot.instances and own.updates)
        async with node.mesh() as stub:
            await stub.Leave(pb.LeaveRequest())
        await eventually(lambda: "n1" not in follower.snapshot.nodes)
        assert describe(node.cert_pem).serial in follower.snapshot.mesh.revoked_serials
        assert "n1/0" not in follower.snapshot.instances
        await eventually(lambda: own.updates and not_served(bed, "n1"))
        async with node.mesh() as stub:
            code, _ = await refused(stub.Leave(pb.LeaveRequest()))
            assert code is grpc.StatusCode.PERMISSION_DENIED
    await bed.join("n1")
    await store.close()


def not_served(bed: Bed, node: str) -> bool:
    return node not in bed.registry.publisher.hub.acknowledged


async def test_nobody_calls_what_is_not_theirs(bed: Bed) -> None:
    node = await bed.join("n1")
    async with open_channel(bed.address, bed.ca_pem) as channel:
        for call in (
            rpc.MeshStub(channel).Renew(pb.RenewRequest()),
            rpc.AdminStub(channel).Status(pb.StatusRequest()),
        ):
            assert (await refused(call))[0] is UNAUTHENTICATED
    async with open_channel(bed.address, bed.ca_pem, cert_pem=node.cert_pem, key_pem=node.key_pem) as channel:
        code, says = await refused(rpc.AdminStub(channel).CreateToken(pb.CreateTokenRequest()))
        assert (code, "kind admin" in says) == (grpc.StatusCode.PERMISSION_DENIED, True)
    admin = bed.registry.settings.pki.pair("admin")
    cert, key = (path.read_bytes() for path in admin)
    async with open_channel(bed.address, bed.ca_pem, cert_pem=cert, key_pem=key) as channel:
        assert (await refused(rpc.MeshStub(channel).Leave(pb.LeaveRequest())))[0] is (
            grpc.StatusCode.PERMISSION_DENIED
        )


async def test_a_foreign_certificate_does_not_get_in(bed: Bed) -> None:
    foreign = x509.create_authority(MESH, now=time.time(), ttl_s=60)
    key = generate_key()
    leaf = x509.issue(foreign, key.public_key(), SpiffeId(MESH, "admin", "admin"), now=time.time(), ttl_s=60)
    async with open_channel(
        bed.address, bed.ca_pem, cert_pem=x509.to_pem(leaf), key_pem=x509.key_to_pem(key)
    ) as channel:
        code, _ = await refused(rpc.AdminStub(channel).Status(pb.StatusRequest(), timeout=60))
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_every_attempt_is_audited_and_no_secret_is_logged(bed: Bed) -> None:
    with capture_logs() as logs:
        token = await bed.token()
        await bed.join("n1", token)
        await refused(bed.join("n2", token))
    events = [(entry["event"], entry.get("node"), entry.get("token")) for entry in logs]
    token_id = JoinToken.parse(token).id
    assert ("join_granted", "n1", token_id) in events
    assert ("join_refused", "n2", token_id) in events
    assert JoinToken.parse(token).secret not in str(logs)


async def test_a_join_fails_clearly_without_the_store_and_passes_when_repeated(
    bed: Bed, etcd: FakeEtcd
) -> None:
    token, key = await bed.token(), generate_key()
    etcd.pause()
    code, says = await refused(bed.join("n1", token, key=key))
    assert (code, bool(says)) == (grpc.StatusCode.UNAVAILABLE, True)
    etcd.resume()
    await eventually(lambda: joined(bed, token, key))


async def joined(bed: Bed, token: str, key: object) -> bool:
    try:
        await bed.join("n1", token, key=key)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_leave_that_cannot_be_committed_takes_nothing(tmp_path: Path, etcd: FakeEtcd) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    stores = (FakeStore(etcd), FakeStore(etcd))
    async with running(make_settings(one), stores[0]) as leader:
        await leader.leads()
        node = await leader.join("n1")
        (two / "pki").mkdir(parents=True)
        for name in ("authorities.json", "keyring", "kek"):
            write_atomically(two / "pki" / name, (one / "pki" / name).read_bytes())
        async with running(make_settings(two, "r2"), stores[1]) as follower:
            await eventually(lambda: "n1" in follower.registry.publisher.table.nodes)
            async with node.mesh(follower) as stub:
                code, says = await refused(stub.Leave(pb.LeaveRequest()))
        assert (code, "leads" in says) == (grpc.StatusCode.UNAVAILABLE, True)
        assert "/bridge/v1/nodes/n1" in etcd.items
    for store in stores:
        await store.close()


def expire(etcd: FakeEtcd, token: str) -> None:
    """Moves a token's end into the past."""
    key = f"/bridge/v1/tokens/{token}"
    record = msgspec.json.decode(etcd.items[key].value)
    etcd.apply([Put(key, msgspec.json.encode({**record, "expires": time.time() - 1}))])
