"""A node that was off for longer than its certificate lives renews it by its old key, or is told why not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.registry_channel import open_channel
from bridge_registry.enrolment.pki_files import open_authority
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc
from tests.fakes.store import FakeEtcd
from tests.registry_bed import MESH, Bed, Node, leading, refused
from tests.support import eventually

DENIED = grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
HOUR = 3_600.0
MESH_DOCUMENT = """
apiVersion: bridge.deepseek.io/v1
kind: Mesh
metadata: {name: mesh}
spec: {security: {renewalGrace: %s}}
"""


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with leading(tmp_path, FakeEtcd()) as found:
        yield found


async def allow(bed: Bed, grace: str) -> None:
    async with bed.admin() as admin:
        file = pb.ConfigFile(name="mesh.yaml", text=MESH_DOCUMENT % grace)
        answer = await admin.Apply(pb.ApplyRequest(files=[file]))
        assert not answer.faults, answer.faults
    await eventually(lambda: bed.registry.publisher.table.mesh_spec is not None)


def ended(bed: Bed, node: Node, ago_s: float, **more: Any) -> bytes:
    """A certificate of the node's key that ended so long ago."""
    key = x509.key_from_pem(node.key_pem)
    values: dict[str, Any] = {
        "authority": open_authority(bed.registry.settings.pki),
        "public_key": key.public_key(),
        "identity": SpiffeId(MESH, "node", node.name),
        "now": time.time() - 86_400 - ago_s,
        "ttl_s": 86_400,
        **more,
    }
    leaf = x509.issue(values.pop("authority"), values.pop("public_key"), values.pop("identity"), **values)
    return x509.to_pem(leaf)


async def nonce(bed: Bed) -> bytes:
    async with open_channel(bed.address, bed.ca_pem) as channel:
        return bytes((await rpc.EnrolmentStub(channel).Hello(pb.HelloRequest())).nonce)


async def request(bed: Bed, node: Node, certificate: bytes, **more: Any) -> pb.RenewExpiredRequest:
    """What the node's agent sends; `more` is what an attacker changes after it was signed."""
    csr = x509.create_csr(x509.generate_key(), SpiffeId(MESH, "node", "any"))
    given = await nonce(bed)
    data = x509.possession(given, csr, certificate)
    fields = {
        "csr_pem": csr,
        "certificate_pem": certificate,
        "nonce": given,
        "signature": x509.sign(x509.key_from_pem(node.key_pem), data),
    }
    return pb.RenewExpiredRequest(**(fields | more))


async def send(bed: Bed, message: pb.RenewExpiredRequest) -> pb.RenewResponse:
    async with open_channel(bed.address, bed.ca_pem) as channel:
        return await rpc.EnrolmentStub(channel).RenewExpired(message)


async def test_within_the_grace_the_old_key_brings_a_new_certificate(bed: Bed) -> None:
    await allow(bed, "2h")
    node = await bed.join("n1")
    with capture_logs() as logs:
        answer = await send(bed, await request(bed, node, ended(bed, node, HOUR)))
    info = x509.describe(answer.identity.certificate_chain_pem)
    assert info.identity == SpiffeId(MESH, "node", "n1")
    assert info.not_after > time.time() + 80_000
    assert [one["node"] for one in logs if one["event"] == "late_renewal_granted"] == ["n1"]
    # The key before it is now worth nothing.
    code, says = await refused(send(bed, await request(bed, node, ended(bed, node, HOUR))))
    assert (code, "not the one that n1 got last" in says) == (DENIED, True)


async def test_by_default_and_after_the_grace_a_token_is_needed_and_said(bed: Bed) -> None:
    node = await bed.join("n1")
    code, says = await refused(send(bed, await request(bed, node, ended(bed, node, 1.0))))
    assert (code, "renewalGrace is 0" in says, "token create --node n1" in says) == (DENIED, True, True)
    await allow(bed, "1h")
    with capture_logs() as logs:
        code, says = await refused(send(bed, await request(bed, node, ended(bed, node, 2 * HOUR))))
    assert (code, "ended 2 h ago" in says, "token create --node n1" in says) == (DENIED, True, True)
    assert [one["event"] for one in logs if "late" in one["event"]] == ["late_renewal_refused"]


async def test_a_request_counts_once_and_for_what_was_signed(bed: Bed) -> None:
    await allow(bed, "2h")
    node, thief = await bed.join("n1"), await bed.join("n2")
    certificate = ended(bed, node, HOUR)
    other_csr = x509.create_csr(x509.generate_key(), SpiffeId(MESH, "node", "n1"))
    forged = {
        "another request": {"csr_pem": other_csr},
        "another nonce": {"nonce": await nonce(bed)},
        "another certificate": {"certificate_pem": ended(bed, thief, HOUR)},
        "no signature": {"signature": b""},
        "a broken one": {"signature": b"\x30\x06\x02\x01\x01\x02\x01\x01"},
    }
    for what, changed in forged.items():
        code, _ = await refused(send(bed, await request(bed, node, certificate, **changed)))
        assert code is UNAUTHENTICATED, what
    # Another node's key does not speak for n1.
    code, _ = await refused(send(bed, await request(bed, thief, certificate)))
    assert code is UNAUTHENTICATED
    once = await request(bed, node, certificate)
    await send(bed, once)
    code, _ = await refused(send(bed, once))
    assert code in {UNAUTHENTICATED, DENIED}


@pytest.mark.parametrize("made_up", [b"", b"x" * 40, b"\0" * 40, b"y" * 1000])
async def test_a_nonce_that_this_registry_did_not_give_is_refused(bed: Bed, made_up: bytes) -> None:
    await allow(bed, "2h")
    node = await bed.join("n1")
    certificate = ended(bed, node, HOUR)
    csr = x509.create_csr(x509.generate_key(), SpiffeId(MESH, "node", "any"))
    signature = x509.sign(x509.key_from_pem(node.key_pem), x509.possession(made_up, csr, certificate))
    message = pb.RenewExpiredRequest(
        csr_pem=csr, certificate_pem=certificate, nonce=made_up, signature=signature
    )
    code, says = await refused(send(bed, message))
    assert (code, "what was signed" in says) == (UNAUTHENTICATED, True)


async def test_nobody_elses_certificate_renews_itself(bed: Bed) -> None:
    await allow(bed, "2h")
    node = await bed.join("n1")
    foreign = x509.create_authority(MESH, now=time.time() - 200_000, ttl_s=864_000)
    certificates = {
        "another CA": ended(bed, node, HOUR, authority=foreign),
        "an admin": ended(bed, node, HOUR, identity=SpiffeId(MESH, "admin", "admin")),
        "a registry": ended(bed, node, HOUR, identity=SpiffeId(MESH, "registry", "r1")),
        "another mesh": ended(bed, node, HOUR, identity=SpiffeId("other.mesh", "node", "n1")),
    }
    for what, certificate in certificates.items():
        code, _ = await refused(send(bed, await request(bed, node, certificate)))
        assert code is UNAUTHENTICATED, what
    unknown = ended(bed, node, HOUR, identity=SpiffeId(MESH, "node", "n9"))
    code, _ = await refused(send(bed, await request(bed, node, unknown)))
    assert code is DENIED
    for rubbish in (b"", b"rubbish", b"x" * 100_000):
        message = pb.RenewExpiredRequest(certificate_pem=rubbish)
        code, _ = await refused(send(bed, message))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_revoked_node_stays_out(bed: Bed) -> None:
    await allow(bed, "2h")
    node = await bed.join("n1")
    message = await request(bed, node, ended(bed, node, HOUR))
    async with bed.admin() as admin:
        await admin.Revoke(pb.RevokeRequest(node_name="n1"))
    code, says = await refused(send(bed, message))
    assert (code, "not a node of this mesh any more" in says) == (DENIED, True)


async def test_nobody_asks_without_end(bed: Bed) -> None:
    node = await bed.join("n1")
    message = await request(bed, node, ended(bed, node, HOUR))
    codes = [(await refused(send(bed, message)))[0] for _ in range(12)]
    assert codes[0] is DENIED
    assert codes[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED
    csr = x509.create_csr(x509.generate_key(), SpiffeId(MESH, "node", "any"))
    async with node.mesh() as stub:
        for _ in range(10):
            await stub.Renew(pb.RenewRequest(csr_pem=csr))
        code, says = await refused(stub.Renew(pb.RenewRequest(csr_pem=csr)))
    assert (code, "n1 renews its certificate too often" in says) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
