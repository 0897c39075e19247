"""Certificates and TLS contexts, over real handshakes and real files."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest

from bridge_core.identity import IdentityFault, SpiffeId
from bridge_core.identity import certificates as x
from bridge_core.identity.own_certificate import shown_by
from bridge_core.registry_channel import WrongAuthority, fetch_ca
from bridge_core.tls import (
    Peer,
    PeerRefused,
    TlsFault,
    TlsIdentity,
    client_context,
    peer,
    server_context,
    verify_peer,
)

MESH = "test.mesh"
AUTHORITY = x.create_authority(MESH, now=time.time(), ttl_s=86_400)


def write(
    folder: Path, kind: str, name: str, *, authority: x.Authority = AUTHORITY, now: float | None = None
) -> tuple[Path, Path, Path]:
    key = x.generate_key()
    at = time.time() if now is None else now
    leaf = x.issue(authority, key.public_key(), SpiffeId(MESH, kind, name), now=at, ttl_s=600)
    paths = (folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.ca")
    for path, data in zip(
        paths, (x.to_pem(leaf) + authority.pem, x.key_to_pem(key), authority.pem), strict=True
    ):
        path.write_bytes(data)
    return paths


async def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Peer | None, Peer | None]:
    """Who the server sees and who the client sees."""
    seen: asyncio.Future[Peer | None] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(peer(writer.get_extra_info("ssl_object")))
        writer.write(b"x")
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="any")
        try:
            if not await reader.read(1):
                raise ConnectionError("refused")  # a TLS 1.3 server refuses after the client is done
            ssl_object = writer.get_extra_info("ssl_object")
            assert ssl_object.version() == "TLSv1.3"
            return await seen, peer(ssl_object)
        finally:
            writer.close()


async def test_both_sides_see_the_others_identity(tmp_path: Path) -> None:
    one, two = write(tmp_path, "node", "one"), write(tmp_path, "node", "two")
    at_server, at_client = await handshake(server_context(*one, require_client=True), client_context(*two))
    assert at_server is not None
    assert at_client is not None
    assert str(at_server.identity) == "spiffe://test.mesh/node/two"
    assert str(at_client.identity) == "spiffe://test.mesh/node/one"
    assert at_server.serial == x.describe(two[0].read_bytes()).serial


async def test_an_optional_client_certificate_may_be_absent(tmp_path: Path) -> None:
    one = write(tmp_path, "node", "one")
    bare = ssl.create_default_context(cafile=one[2])
    bare.check_hostname = False
    at_server, _ = await handshake(server_context(*one, require_client=False), bare)
    assert at_server is None


@pytest.mark.parametrize("require", [True, False])
async def test_a_foreign_client_certificate_is_refused(tmp_path: Path, require: bool) -> None:
    one = write(tmp_path, "node", "one")
    foreign = x.create_authority(MESH, now=time.time(), ttl_s=3600)
    two = write(tmp_path, "node", "two", authority=foreign)
    two[2].write_bytes(AUTHORITY.pem)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await handshake(server_context(*one, require_client=require), client_context(*two))


async def test_tls_1_2_is_refused(tmp_path: Path) -> None:
    one, two = write(tmp_path, "node", "one"), write(tmp_path, "node", "two")
    client = client_context(*two)
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await handshake(server_context(*one, require_client=True), client)


async def test_reload_renews_contexts_in_place(tmp_path: Path) -> None:
    one = TlsIdentity(*write(tmp_path, "node", "one"))
    two = TlsIdentity(*write(tmp_path, "node", "two"))
    server, client = one.server(require_client=True), two.client()
    before, _ = await handshake(server, client)
    write(tmp_path, "node", "two")
    renewed = two.reload()
    after, _ = await handshake(server, client)
    assert before is not None
    assert after is not None
    assert before.serial != after.serial == renewed.serial


async def test_a_failed_reload_keeps_the_old_certificate(tmp_path: Path) -> None:
    one = TlsIdentity(*write(tmp_path, "node", "one"))
    two = TlsIdentity(*write(tmp_path, "node", "two"))
    server, client = one.server(require_client=True), two.client()
    two.key.write_bytes(x.key_to_pem(x.generate_key()))
    with pytest.raises(TlsFault, match="is not the key of"):
        two.reload()
    seen, _ = await handshake(server, client)
    assert seen is not None


def test_verify_peer_names_who_it_is() -> None:
    class Fake:
        def getpeercert(self) -> dict[str, object]:
            uri = ("URI", "spiffe://test.mesh/node/two")
            return {"subjectAltName": (("DNS", "x"), uri), "serialNumber": "0ABC"}

    assert verify_peer(Fake(), trust_domain=MESH, kind="node") == Peer(SpiffeId(MESH, "node", "two"), "abc")
    assert verify_peer(Fake(), trust_domain=MESH, kind="node", name="two").serial == "abc"
    for wanted in ({"kind": "admin"}, {"kind": "node", "name": "one"}):
        with pytest.raises(PeerRefused, match="node/two"):
            verify_peer(Fake(), trust_domain=MESH, **wanted)
    with pytest.raises(PeerRefused):
        verify_peer(Fake(), trust_domain="other.mesh", kind="node")
    with pytest.raises(PeerRefused, match="no identity"):
        verify_peer(None, trust_domain=MESH, kind="node")


@pytest.mark.parametrize(
    ("index", "content", "says"),
    [
        (0, None, "there is no certificate file"),
        (1, None, "there is no key file"),
        (2, None, "there is no CA file"),
        (0, b"", "is empty"),
        (0, b"rubbish", "holds no certificate"),
        (1, b"rubbish", "is not the key of"),
        (2, b"rubbish", "holds no CA"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, index: int, content: bytes | None, says: str) -> None:
    paths = write(tmp_path, "node", "one")
    if content is None:
        paths[index].unlink()
    else:
        paths[index].write_bytes(content)
    with pytest.raises(TlsFault, match=says) as caught:
        client_context(*paths)
    assert str(paths[index]) in caught.value.message
    assert caught.value.hint


def test_an_unreadable_key_file_is_named(tmp_path: Path) -> None:
    cert, key, ca = write(tmp_path, "node", "one")
    key.unlink()
    key.mkdir()  # unreadable for root, too
    with pytest.raises(TlsFault, match=f"cannot read the key file {key}"):
        client_context(cert, key, ca)


def test_an_expired_certificate_says_since_when(tmp_path: Path) -> None:
    paths = write(tmp_path, "node", "one", now=time.time() - 600 - 7300)
    with pytest.raises(TlsFault, match="expired 2 h ago") as caught:
        server_context(*paths, require_client=True)
    assert "clock" in caught.value.hint
    # Its holder takes it: an agent that was away for longer serves its own clients all the same.
    identity = TlsIdentity(*paths)
    assert identity.info.not_after < time.time()
    assert identity.server(require_client=True) is not identity.client()
    assert identity.reload() == identity.info


def test_a_request_round_trips_and_a_changed_one_is_refused() -> None:
    key = x.generate_key()
    pem = x.create_csr(
        key, SpiffeId(MESH, "node", "a"), dns_names=["a.example"], addresses=["10.0.0.7", "::1"]
    )
    request = x.read_csr(pem)
    assert (request.dns_names, request.addresses) == (("a.example",), ("10.0.0.7", "::1"))
    for bad in (b"", b"x" * 20_000, pem[:-80], AUTHORITY.pem):
        with pytest.raises(IdentityFault):
            x.read_csr(bad)


def test_a_certificate_says_who_and_until_when() -> None:
    key, now = x.generate_key(), 1_800_000_000
    leaf = x.issue(
        x.create_authority(MESH, now=now, ttl_s=864_000),
        key.public_key(),
        SpiffeId(MESH, "node", "a"),
        now=now,
        ttl_s=86_400,
        dns_names=["a"],
        addresses=["127.0.0.1"],
    )
    info = x.describe(x.to_pem(leaf))
    assert info.identity == SpiffeId(MESH, "node", "a")
    assert (info.not_before, info.not_after) == (now - 20, now + 86_400)
    assert (info.dns_names, info.addresses) == (("a",), ("127.0.0.1",))


def test_a_whole_set_is_read_as_a_peer_reads_it(tmp_path: Path) -> None:
    cert, key, ca = tmp_path / "cert", tmp_path / "key", tmp_path / "ca"
    private = x.generate_key()
    leaf = x.issue(
        AUTHORITY,
        private.public_key(),
        SpiffeId(MESH, "node", "a"),
        now=time.time(),
        ttl_s=600,
        dns_names=["a", "b.example"],
        addresses=["10.0.0.7", "::1", "2001:db8::a"],
    )
    for path, pem in (
        (cert, x.to_pem(leaf) + AUTHORITY.pem),
        (key, x.key_to_pem(private)),
        (ca, AUTHORITY.pem),
    ):
        path.write_bytes(pem)
    assert shown_by(cert, key, ca) == x.describe(x.to_pem(leaf))


def test_what_a_peer_would_refuse_is_not_read_as_one(tmp_path: Path) -> None:
    paths = write(tmp_path, "node", "one")
    assert shown_by(*paths) is not None
    foreign = x.create_authority(MESH, now=time.time(), ttl_s=3600)
    other = write(tmp_path, "node", "two", authority=foreign)
    assert shown_by(paths[0], paths[1], other[2]) is None
    assert shown_by(paths[0], other[1], paths[2]) is None
    assert shown_by(paths[0], paths[1], tmp_path / "nothing") is None


def test_a_certificate_is_read_also_while_this_machines_clock_is_behind(tmp_path: Path) -> None:
    ahead = int(time.time()) + 3600
    paths = write(tmp_path, "node", "one", now=ahead)
    assert shown_by(*paths) is None
    assert TlsIdentity(*paths).info.not_before == ahead - 20


async def test_the_ca_is_fetched_by_its_pin_and_no_other(tmp_path: Path) -> None:
    paths = write(tmp_path, "registry", "r1")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = server_context(*paths, require_client=False)
    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as listener:
        address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        assert await fetch_ca(address, AUTHORITY.pin) == AUTHORITY.pem
        with pytest.raises(WrongAuthority):
            await fetch_ca(address, "00" * 32)
