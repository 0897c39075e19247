"""Who is taken for a registry: not whoever has its name, only an identity of that kind and mesh."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from bridge_core.errors import BridgeError
from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import create_authority, generate_key, issue, key_to_pem, to_pem
from bridge_core.identity.spiffe import REGISTRY_SERVER_NAME
from bridge_core.registry_channel import CertificateRefused, ClockFault, WrongAuthority, open_channel
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.registry_pb2_grpc import AdminStub
from tests.fakes.store import FakeEtcd
from tests.ports import free_port
from tests.registry_bed import leading

MESH = "bridge.local"
AUTHORITY = create_authority(MESH, now=time.time() - 3600, ttl_s=86_400)


class Impostor:
    """A TLS server with a certificate of the mesh's CA, which keeps what it is sent."""

    def __init__(self, port: int, heard: bytearray) -> None:
        self.address = f"127.0.0.1:{port}"
        self.heard = heard


def named(leaf: x509.Certificate, name: str) -> x509.Certificate:
    """The certificate signed anew with a name that our CA would not put into it for everybody."""
    made = (
        x509.CertificateBuilder()
        .issuer_name(leaf.issuer)
        .subject_name(leaf.subject)
        .public_key(leaf.public_key())
        .serial_number(leaf.serial_number)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    for one in leaf.extensions:
        value = one.value
        if isinstance(value, x509.SubjectAlternativeName):
            value = x509.SubjectAlternativeName([*value, x509.DNSName(name)])
        made = made.add_extension(value, critical=one.critical)
    return made.sign(AUTHORITY.key, hashes.SHA256())


@contextlib.asynccontextmanager
async def impostor(
    folder: Path,
    identity: SpiffeId,
    name: str = REGISTRY_SERVER_NAME,
    *,
    from_now_s: float = 0.0,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> AsyncIterator[Impostor]:
    key = generate_key()
    leaf = named(issue(AUTHORITY, key.public_key(), identity, now=time.time() + from_now_s, ttl_s=600), name)
    (folder / "own.pem").write_bytes(to_pem(leaf) + AUTHORITY.pem)
    (folder / "own.key").write_bytes(key_to_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heard.extend(await reader.read(1 << 16))
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield Impostor(server.sockets[0].getsockname()[1], heard)


async def call(address: str, ca: bytes = AUTHORITY.pem, **identity: bytes) -> pb.StatusResponse:
    async with open_channel(address, ca, **identity) as channel:
        return await AdminStub(channel).Status(pb.StatusRequest(), timeout=60)


@pytest.mark.parametrize(
    "identity",
    [
        SpiffeId(MESH, "node", "registry1"),
        SpiffeId(MESH, "client", "registry"),
        SpiffeId(MESH, "etcd", "registry1"),
        SpiffeId("other.mesh", "registry", "registry1"),
    ],
    ids=str,
)
async def test_the_registrys_name_alone_makes_no_registry(tmp_path: Path, identity: SpiffeId) -> None:
    async with impostor(tmp_path, identity) as there:
        with pytest.raises(WrongAuthority, match="not a registry of this mesh") as caught:
            await call(there.address)
        assert str(identity) in str(caught.value)
        assert not there.heard  # not one byte of a token or an admin's command


async def test_the_kind_alone_makes_no_registry(tmp_path: Path) -> None:
    async with impostor(tmp_path, SpiffeId(MESH, "registry", "r"), "elsewhere.example") as there:
        with pytest.raises(WrongAuthority, match="not a registry of this mesh"):
            await call(there.address)
        assert not there.heard


async def test_tls_1_2_is_not_spoken(tmp_path: Path) -> None:
    identity = SpiffeId(MESH, "registry", "r")
    async with impostor(tmp_path, identity, version=ssl.TLSVersion.TLSv1_2) as there:
        with pytest.raises(BridgeError, match=r"no registry answers at .*hangs up|is no registry"):
            await call(there.address)


@pytest.mark.parametrize(("from_now_s", "word"), [(3000, "not valid yet"), (-3000, "valid no more")])
async def test_a_certificate_of_another_time_is_told_as_a_clocks_fault(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], from_now_s: float, word: str
) -> None:
    async with impostor(tmp_path, SpiffeId(MESH, "registry", "r"), from_now_s=from_now_s) as there:
        with pytest.raises(ClockFault, match=word) as caught:
            await call(there.address)
    assert "clock" in caught.value.hint
    assert capfd.readouterr().err == ""  # gRPC's core writes lines of its own where it does the TLS


async def test_nobody_there_is_said_at_once() -> None:
    with pytest.raises(BridgeError, match=r"no registry answers at .*: Connection refused"):
        await call(f"127.0.0.1:{free_port()}")


async def test_a_registry_that_hangs_up_is_told_apart_from_one_that_is_away(tmp_path: Path) -> None:
    stranger = create_authority(MESH, now=time.time(), ttl_s=600)
    key = generate_key()
    leaf = issue(stranger, key.public_key(), SpiffeId(MESH, "admin", "a"), now=time.time(), ttl_s=600)
    async with leading(tmp_path, FakeEtcd()) as bed:
        async with bed.admin() as admin:
            assert (await admin.Status(pb.StatusRequest(), timeout=60)).trust_domain == MESH
        with pytest.raises(CertificateRefused, match="hung up"):
            await call(bed.address, bed.ca_pem, cert_pem=to_pem(leaf), key_pem=key_to_pem(key))
        # Without one at all it answers, in its own words.
        with pytest.raises(grpc.aio.AioRpcError, match="client certificate"):
            await call(bed.address, bed.ca_pem)


async def test_a_registry_that_is_stopped_is_not_taken_for_one_that_refuses(tmp_path: Path) -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.transport.abort()

    done = asyncio.Event()
    key = generate_key()
    leaf = issue(
        AUTHORITY,
        key.public_key(),
        SpiffeId(MESH, "registry", "r"),
        now=time.time(),
        ttl_s=600,
        dns_names=[REGISTRY_SERVER_NAME],
    )
    (tmp_path / "own.pem").write_bytes(to_pem(leaf) + AUTHORITY.pem)
    (tmp_path / "own.key").write_bytes(key_to_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    async with server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with open_channel(
                f"127.0.0.1:{server.sockets[0].getsockname()[1]}", AUTHORITY.pem
            ) as channel:
                await AdminStub(channel).Status(pb.StatusRequest(), timeout=0.2)
        done.set()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_nobody_else_gets_into_the_socket(tmp_path: Path) -> None:
    """Who reads the socket's name in /proc/net/unix and is quicker is turned away."""
    async with leading(tmp_path, FakeEtcd()) as bed, bed.admin() as admin:
        name = next(line for line in Path("/proc/net/unix").read_text().splitlines() if "@bridge-" in line)
        code = (
            "import socket, sys\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "s.settimeout(5)\n"
            "try:\n"
            "    s.connect('\\0' + sys.argv[1])\n"
            "    sys.exit(len(s.recv(1)))\n"
            "except OSError:\n"
            "    sys.exit(0)\n"
        )
        stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", code, name.rpartition("@")[2])
        assert await stranger.wait() == 0
        assert (await admin.Status(pb.StatusRequest(), timeout=60)).trust_domain == MESH
