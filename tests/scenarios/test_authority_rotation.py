"""Rotating the CAs of a running registry, and what may go wrong meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.identity import JoinToken, SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.registry_channel import CertificateRefused, fetch_ca, open_channel
from bridge_registry.enrolment import pki_files
from bridge_wire.v1 import authority_pb2 as pb
from bridge_wire.v1 import registry_pb2 as mesh_pb
from bridge_wire.v1.authority_pb2_grpc import AuthorityStub
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import MESH, Bed, Follower, Node, following, leading, make_settings, refused, running
from tests.support import eventually

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
async def bed(tmp_path: Path, etcd: FakeEtcd) -> AsyncIterator[Bed]:
    async with leading(tmp_path / "r1", etcd) as found:
        yield found


@contextlib.asynccontextmanager
async def authority(bed: Bed) -> AsyncIterator[AuthorityStub]:
    """The service as the first admin calls it, with the certificate that lies in the folder now."""
    pki = bed.registry.settings.pki
    cert, key = (path.read_bytes() for path in pki.pair("admin"))
    async with open_channel(bed.address, bed.ca_pem, cert_pem=cert, key_pem=key) as channel:
        yield AuthorityStub(channel)


async def step(bed: Bed, name: str, **more: object) -> pb.GetAuthoritiesResponse:
    async with authority(bed) as stub:
        return await stub.RotateAuthority(pb.RotateAuthorityRequest(step=name, **more))  # type: ignore[arg-type]


async def status(bed: Bed) -> pb.GetAuthoritiesResponse:
    async with authority(bed) as stub:
        return await stub.GetAuthorities(pb.GetAuthoritiesRequest())


@contextlib.asynccontextmanager
async def trusting(node: Node, *pins: str) -> AsyncIterator[None]:
    """The node says, as its agent would, that it trusts these."""
    async with node.mesh() as stub:
        call = stub.ReportLoad()
        await call.write(mesh_pb.LoadReport(began_unix_ms=1, trusts=pins))
        try:
            yield
        finally:
            call.cancel()


async def said_so(bed: Bed) -> None:
    """Returns once the registry has heard of a node that trusts the announced CA."""

    async def heard() -> bool:
        found = await status(bed)
        return any(one.trusted_by for one in found.authorities if one.state == "announced")

    await eventually(heard)


def intermediates(answer: pb.GetAuthoritiesResponse) -> dict[str, str]:
    return {one.state: one.pin for one in answer.authorities if one.kind == "intermediate"}


async def renewed(node: Node) -> Node:
    key = x509.generate_key()
    csr = x509.create_csr(key, SpiffeId(MESH, "node", "any"))
    async with node.mesh() as stub:
        answer = await stub.Renew(mesh_pb.RenewRequest(csr_pem=csr))
    joined = mesh_pb.JoinResponse(identity=answer.identity)
    return Node(node.bed, node.name, x509.key_to_pem(key), joined)


async def rotated(bed: Bed, node: Node, **begin: object) -> Node:
    """The whole rotation with one node; the node as it is afterwards."""
    found = intermediates(await step(bed, "begin", **begin))
    async with trusting(node, *found.values()):
        await said_so(bed)
        await step(bed, "issue")
    node = await renewed(node)
    await step(bed, "finish")
    return node


@pytest.mark.parametrize("new_root", [False, True])
async def test_a_ca_takes_anothers_place_and_the_former_one_is_worth_nothing(
    bed: Bed, new_root: bool
) -> None:
    node, before = await bed.join("n1"), intermediates(await status(bed))
    answer = await step(bed, "begin", new_root=new_root)
    announced = intermediates(answer)
    assert announced["issuing"] == before["issuing"]
    assert "wait for n1" in answer.next
    # Nobody shows a certificate of it yet.
    assert (await renewed(node)).joined.identity.issuers_pem.count(b"BEGIN") == 2
    code, says = await refused(step(bed, "issue"))
    assert (code, "n1 did not say yet" in says) == (PRECONDITION, True)
    old = await renewed(node)
    async with trusting(node, *announced.values()):
        await said_so(bed)
        answer = await step(bed, "issue")
    assert intermediates(answer) == {"issuing": announced["announced"], "retired": announced["issuing"]}
    code, says = await refused(step(bed, "finish"))
    assert (code, "n1 still hold" in says) == (PRECONDITION, True)
    new = await renewed(node)
    async with new.mesh() as stub:  # and with the retired one's, until the end
        await refused(stub.Renew(mesh_pb.RenewRequest()))
    answer = await step(bed, "finish")
    assert intermediates(answer) == {"issuing": announced["announced"]}
    assert len([one for one in answer.authorities if one.kind == "root"]) == 1
    with pytest.raises(CertificateRefused):
        async with old.mesh() as stub:
            await stub.Renew(mesh_pb.RenewRequest())
    await renewed(new)


async def test_tokens_of_either_root_join_while_roots_change_and_the_former_ones_end_it(bed: Bed) -> None:
    node, early = await bed.join("n1"), await bed.token(uses=3)
    await bed.join("n2", early)
    async with bed.admin() as admin:
        await admin.Revoke(mesh_pb.RevokeRequest(node_name="n2"))
    found = intermediates(await step(bed, "begin", new_root=True))
    async with trusting(node, *found.values()):
        await said_so(bed)
        await step(bed, "issue")
    await renewed(node)
    late = await bed.token(uses=3)
    assert JoinToken.parse(early).ca_pin != JoinToken.parse(late).ca_pin
    await bed.join("n3", early)
    await bed.join("n4", late)
    # Who knows only the root before, as clients from outside do, still knows the registry.
    async with open_channel(bed.address, bed.ca_pem):
        pass
    code, says = await refused(step(bed, "finish"))
    assert (code, f"the token {JoinToken.parse(early).id}" in says) == (PRECONDITION, True)
    async with bed.admin() as admin:
        await admin.RevokeToken(mesh_pb.RevokeTokenRequest(id=JoinToken.parse(early).id))
    await step(bed, "finish")
    await bed.join("n5", late)
    async with open_channel(bed.address, bed.ca_pem):
        pass


async def test_an_announced_ca_is_taken_back_and_one_that_issues_gives_way(bed: Bed) -> None:
    node, before = await bed.join("n1"), intermediates(await status(bed))
    await step(bed, "begin")
    assert intermediates(await step(bed, "abort")) == before
    found = intermediates(await step(bed, "begin"))
    async with trusting(node, *found.values()):
        await said_so(bed)
        await step(bed, "issue")
    await renewed(node)
    answer = await step(bed, "abort")
    assert intermediates(answer) == {"issuing": before["issuing"], "retired": found["announced"]}
    await renewed(node)
    assert intermediates(await step(bed, "finish")) == before


async def test_agents_are_told_by_the_snapshot(bed: Bed) -> None:
    node = await bed.join("n1")
    async with following(node, Follower()) as follower:
        await eventually(lambda: len(follower.snapshot.mesh.trust.issuers) == 1)
        found = intermediates(await step(bed, "begin", new_root=True))
        await eventually(lambda: len(follower.snapshot.mesh.trust.issuers) == 2)
        trust = follower.snapshot.mesh.trust
        assert (len(trust.roots), trust.issuing) == (2, found["issuing"])


async def test_the_root_may_be_offline_and_an_intermediate_of_its_is_brought(
    bed: Bed, tmp_path: Path
) -> None:
    node, pki, out = await bed.join("n1"), bed.registry.settings.pki, tmp_path / "root.pem"
    pki_files.take_root_away(pki, out)
    assert not list(pki.folder.glob("root-*"))
    code, says = await refused(step(bed, "begin"))
    assert (code, "does not have the root's key" in says) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    root = x509.Authority(x509.from_pem(bed.ca_pem), x509.key_from_pem(out.read_bytes()))
    made = x509.create_intermediate(root, MESH, now=time.time(), ttl_s=86_400)
    await rotated(bed, node, certificate_chain_pem=made.chain + root.pem, key_pem=x509.key_to_pem(made.key))
    assert intermediates(await status(bed))["issuing"] == made.pin
    assert out.stat().st_mode & 0o777 == 0o600


async def test_a_rotation_asks_for_the_keyrings_key_no_more(bed: Bed) -> None:
    node, pki = await bed.join("n1"), bed.registry.settings.pki
    (pki.folder / "kek").rename(pki.folder / "moved")  # as `seal rotate --to` has it until the next start
    await rotated(bed, node, new_root=True)
    with pytest.raises(Fatal, match="cannot be read"):
        pki_files.open_authority(pki)
    (pki.folder / "moved").rename(pki.folder / "kek")
    assert pki_files.open_authority(pki).pin == intermediates(await status(bed))["issuing"]


async def test_what_is_no_intermediate_of_this_mesh_is_refused(bed: Bed) -> None:
    now = time.time()
    root = x509.create_root(MESH, now=now, ttl_s=864_000)
    made = x509.create_intermediate(root, MESH, now=now, ttl_s=86_400)
    other = x509.create_intermediate(root, "other.mesh", now=now, ttl_s=86_400)
    old = x509.create_intermediate(root, MESH, now=now - 90_000, ttl_s=86_400)
    flat = x509.create_authority(MESH, now=now, ttl_s=86_400)
    stranger = x509.create_root(MESH, now=now, ttl_s=86_400)
    cases = {
        "not a chain": (b"rubbish", made.key),
        "intermediate first and its root last": (made.pem, made.key),
        "not the intermediate's": (made.chain + root.pem, other.key),
        "name the mesh": (other.chain + root.pem, other.key),
        "not valid now": (old.chain + root.pem, old.key),
        "did not sign the intermediate": (made.chain + stranger.pem, made.key),
        "may not sign": (made.chain + flat.pem, made.key),
        "path length of 0": (root.pem + root.pem, root.key),
        "leads from the new root": (made.chain + root.pem, made.key),
    }
    for says, (chain, key) in cases.items():
        fields = {"certificate_chain_pem": chain, "key_pem": x509.key_to_pem(key)}
        _, said = await refused(step(bed, "begin", **fields))
        assert says in said, (says, said)
    assert len(intermediates(await status(bed))) == 1


async def test_a_rotation_outlives_its_registry_and_reaches_the_others(
    bed: Bed, etcd: FakeEtcd, tmp_path: Path
) -> None:
    node, pki = await bed.join("n1"), bed.registry.settings.pki
    second = tmp_path / "r2" / "pki"
    second.mkdir(parents=True)
    for name in ("authorities.json", "keyring", "kek", "etcd-ca.pem", "etcd-ca.key"):
        write_atomically(second / name, (pki.folder / name).read_bytes())
    store = FakeStore(etcd)
    async with running(make_settings(tmp_path / "r2", "r2"), store) as other:
        await rotated(bed, node, new_root=True)
        wanted = bed.registry.settings.pki.authorities.read_bytes()
        await eventually(lambda: other.registry.settings.pki.authorities.read_bytes() == wanted)
        pin = intermediates(await status(bed))["issuing"]
        shown = await fetch_ca(other.address, pin)  # in the chain that it shows
        assert shown
    await store.close()
    again = pki_files.ensure(make_settings(tmp_path / "r2", "r2").pki, None, [], now=time.time())
    assert again.authority.pin == pin


async def test_only_admins_rotate(bed: Bed) -> None:
    node = await bed.join("n1")
    channel = open_channel(bed.address, bed.ca_pem, cert_pem=node.cert_pem, key_pem=node.key_pem)
    async with channel as opened, open_channel(bed.address, bed.ca_pem) as nobody:
        for stub in (AuthorityStub(opened), AuthorityStub(nobody)):
            code, _ = await refused(stub.RotateAuthority(pb.RotateAuthorityRequest(step="begin")))
            assert code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
            code, _ = await refused(stub.GetAuthorities(pb.GetAuthoritiesRequest()))
            assert code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}


async def test_of_two_admins_at_once_one_begins(bed: Bed) -> None:
    answers = await asyncio.gather(*(step(bed, "begin") for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, pb.GetAuthoritiesResponse) for one in answers) == 1
    assert len(intermediates(await status(bed))) == 2
