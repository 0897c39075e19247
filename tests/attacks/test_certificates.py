"""Certificates that are none, or none for this, shown to every listener of a mesh that runs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest

from bridge_agent.config import StateDir, load_config
from bridge_core.errors import BridgeError
from bridge_core.identity import JoinToken, SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.identity.spiffe import GUARD_SERVER_NAME
from bridge_core.registry_channel import fetch_ca, open_channel
from bridge_core.sealing import open_sealer
from bridge_core.store.api import StoreRefused, StoreUnavailable
from bridge_core.store.etcd import ClientTls, EtcdStore
from bridge_registry.enrolment.pki_files import Pki, open_authority, open_root, read_authorities
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import registry_pb2_grpc as rpc
from tests.cluster.mesh_bed import NODES, Mesh, call, open_mesh
from tests.support import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(400)]

PREDICT = "/bridge.v1.ModelInference/Predict"
DAY = 86_400.0
SOON_S = 1.0  # within which a revocation holds everywhere
HOP = {"X-Bridge-Hop": "1"}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Three nodes. At the end no process may have written a traceback."""
    yield from open_mesh(tmp_path_factory.mktemp("certificates-mesh") / "state")


class Shown:
    """A certificate with its key, in files."""

    def __init__(self, folder: Path, mesh: Mesh, leaf: bytes, chain: bytes, key: x509.PrivateKey) -> None:
        folder.mkdir(exist_ok=True)
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.issuers = StateDir(mesh.state / "node1").issuers
        self.cert.write_bytes(leaf + chain)
        self.key.write_bytes(x509.key_to_pem(key))
        self.ca = Path(mesh.client_files()[0])

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        context.check_hostname = False
        context.load_cert_chain(self.cert, self.key)
        return context

    def store(self, mesh: Mesh) -> EtcdStore:
        guards = load_config(StateDir(mesh.state / "node1")).etcd
        return EtcdStore(guards, ClientTls(self.cert, self.key, self.issuers, GUARD_SERVER_NAME))


def pki_of(mesh: Mesh) -> Pki:
    return Pki(mesh.state / "registry" / "pki", "registry1")


def forged(mesh: Mesh, folder: Path, how: str) -> Shown:
    """A certificate of node1 that is not to be taken, made with more than an attacker has."""
    pki = pki_of(mesh)
    real, now, key = open_authority(pki), time.time(), x509.generate_key()
    sealer = open_sealer(pki.seal)
    domain = load_config(StateDir(mesh.state / "node1")).trust_domain
    identity, signer, chain = SpiffeId(domain, "node", "node1"), real, real.chain
    begins, ttl_s = now, 3_600.0
    match how:
        case "of a foreign CA":
            signer = x509.create_authority(domain, now=now, ttl_s=DAY)
            chain = signer.chain
        case "expired":
            begins = now - DAY
        case "not valid yet":
            begins = now + DAY
        case "of the root itself":
            found = open_root(pki, read_authorities(pki).issuing.root, sealer)
            assert found is not None
            signer, chain = found, found.chain
        case "of an intermediate that nobody announced":
            root = open_root(pki, read_authorities(pki).issuing.root, sealer)
            assert root is not None
            signer = x509.create_intermediate(root, domain, now=now, ttl_s=DAY)
            chain = signer.chain + root.pem
        case "of another node's key":
            files = StateDir(mesh.state / "node2")
            own = x509.key_from_pem(files.key.read_bytes())
            signer = x509.Authority(x509.from_pem(files.certificate.read_bytes()), own)
            chain = files.certificate.read_bytes()
        case "of another mesh":
            identity = SpiffeId("other.mesh", "node", "node1")
        case _:
            kind, _, name = how.partition(" ")
            identity = SpiffeId(domain, kind, name)
    leaf = x509.issue(signer, key.public_key(), identity, now=begins, ttl_s=ttl_s)
    return Shown(folder / "forged", mesh, x509.to_pem(leaf), chain, key)


def status(mesh: Mesh, listener: str, tls: ssl.SSLContext) -> int:
    """What a request gets; 0: not even a handshake, or the connection is cut."""
    path, body = (PREDICT, b"{}") if listener == "grpc" else ("/api/tags", None)
    with contextlib.suppress(OSError, http.client.HTTPException):
        return call(mesh.address("node2", listener), "POST" if body else "GET", path, body, HOP, tls)[0]
    return 0


async def asked_registry(mesh: Mesh, shown: Shown) -> str:
    """What the registry says to a renewal."""
    where = load_config(StateDir(mesh.state / "node1")).registries[0]
    try:
        async with open_channel(
            where,
            shown.ca.read_bytes(),
            cert_pem=shown.cert.read_bytes(),
            key_pem=shown.key.read_bytes(),
        ) as channel:
            await rpc.MeshStub(channel).Renew(pb.RenewRequest(csr_pem=b"x"), timeout=60)
    except grpc.aio.AioRpcError as fault:
        return fault.code().name
    except BridgeError as fault:
        return type(fault).__name__
    return "granted"


async def asked_guard(mesh: Mesh, shown: Shown) -> str:
    store = shown.store(mesh)
    try:
        async with asyncio.timeout(8):
            await store.get("/bridge/v1/members/node1/0")
    except (StoreRefused, StoreUnavailable, TimeoutError) as fault:
        return type(fault).__name__
    finally:
        await store.close()
    return "granted"


NOT_TAKEN = (
    "of a foreign CA",
    "expired",
    "not valid yet",
    "of the root itself",
    "of an intermediate that nobody announced",
    "of another node's key",
)


@pytest.mark.parametrize("how", NOT_TAKEN)
async def test_what_the_mesh_did_not_sign_or_not_for_now_gets_in_nowhere(
    mesh: Mesh, tmp_path: Path, how: str
) -> None:
    shown = forged(mesh, tmp_path, how)
    for listener in ("https", "peer", "grpc"):
        assert await asyncio.to_thread(status, mesh, listener, shown.tls()) in {0, 401}, listener
    assert await asked_registry(mesh, shown) == "CertificateRefused"
    assert await asked_guard(mesh, shown) != "granted"


@pytest.mark.parametrize("who", ["client mallory", "admin admin", "registry registry1", "guard registry1"])
async def test_who_is_no_node_is_no_peer_and_reaches_no_store(mesh: Mesh, tmp_path: Path, who: str) -> None:
    shown = forged(mesh, tmp_path, who)
    assert await asyncio.to_thread(status, mesh, "peer", shown.tls()) in {0, 401, 403}
    assert await asked_registry(mesh, shown) == "PERMISSION_DENIED"
    assert await asked_guard(mesh, shown) == "StoreRefused"


async def test_a_node_of_another_mesh_is_none_of_this_one(mesh: Mesh, tmp_path: Path) -> None:
    shown = forged(mesh, tmp_path, "of another mesh")
    for listener in ("https", "peer", "grpc"):
        found = await asyncio.to_thread(status, mesh, listener, shown.tls())
        assert found in {0, 401, 403}, listener
    assert await asked_registry(mesh, shown) == "PERMISSION_DENIED"
    assert await asked_guard(mesh, shown) == "StoreRefused"


@pytest.mark.parametrize("listener", ["peer", "grpc"])
async def test_without_any_certificate_nobody_is_served(mesh: Mesh, listener: str) -> None:
    context = ssl.create_default_context(cafile=mesh.client_files()[0])
    context.check_hostname = False
    assert await asyncio.to_thread(status, mesh, listener, context) in {0, 401}


async def test_of_two_that_join_at_once_with_one_use_one_is_let_in(mesh: Mesh) -> None:
    made = await asyncio.to_thread(mesh.run, "token", "create", "--uses", "1")
    answers = await asyncio.gather(
        *(joined(mesh, made.stdout.strip(), f"twin{at}") for at in range(4)), return_exceptions=True
    )
    assert sum(isinstance(one, bytes) for one in answers) == 1
    for at in range(4):
        await asyncio.to_thread(mesh.run, "revoke", f"twin{at}", check=False)


async def joined(mesh: Mesh, token: str, name: str, key: x509.PrivateKey | None = None) -> bytes:
    """Enrols a node as an agent does; its chain."""
    config = load_config(StateDir(mesh.state / "node1"))
    where = config.registries[0]
    ca_pem = await fetch_ca(where, JoinToken.parse(token).ca_pin)
    csr = x509.create_csr(key or x509.generate_key(), SpiffeId(config.trust_domain, "node", name))
    async with open_channel(where, ca_pem) as channel:
        request = pb.JoinRequest(token=token, node_name=name, csr_pem=csr)
        answer = await rpc.EnrolmentStub(channel).Join(request, timeout=60)
    return bytes(answer.identity.certificate_chain_pem)


async def test_a_revocation_holds_on_every_listener_within_a_second(mesh: Mesh, tmp_path: Path) -> None:
    made = await asyncio.to_thread(mesh.run, "token", "create")
    key = x509.generate_key()
    shown = Shown(tmp_path / "n", mesh, await joined(mesh, made.stdout.strip(), "mallory", key), b"", key)
    await eventually(lambda: status(mesh, "https", shown.tls()) == 200)
    context = shown.tls()
    opened = [
        await asyncio.open_connection(*mesh.address(node, listener), ssl=context, server_hostname=node)
        for node in NODES
        for listener in ("https", "peer")
    ]
    await asyncio.to_thread(mesh.run, "revoke", "mallory")
    began = time.monotonic()
    for reader, _ in opened:  # cut, though nothing was asked on them
        with contextlib.suppress(OSError):
            assert await asyncio.wait_for(reader.read(1), 10) == b""
    took: dict[str, float] = {"open connections": time.monotonic() - began}
    for listener in ("https", "peer", "grpc"):
        await eventually(lambda at=listener: status(mesh, at, shown.tls()) in {0, 401, 403})  # type: ignore[misc]  # the default binds it
        took[listener] = time.monotonic() - began
    assert await asked_registry(mesh, shown) == "PERMISSION_DENIED"
    assert await asked_guard(mesh, shown) == "StoreRefused"
    for _, writer in opened:
        writer.transport.abort()
    print({what: f"{seconds * 1000:.0f} ms" for what, seconds in took.items()})


async def test_a_stolen_node_certificate_gets_nothing_but_its_own_records(mesh: Mesh) -> None:
    files = StateDir(mesh.state / "node1")
    tls = ClientTls(files.certificate, files.key, files.issuers, GUARD_SERVER_NAME)
    store = EtcdStore(load_config(files).etcd, tls)
    try:
        for prefix in ("ca/", "tokens/", "clients/", "secrets/", "keysets/", "admins/", "usage/", "config"):
            with pytest.raises(StoreRefused):
                await store.list(f"/bridge/v1/{prefix}")
            with pytest.raises(StoreRefused):
                await store.get(f"/bridge/v1/{prefix}x")
    finally:
        await store.close()
