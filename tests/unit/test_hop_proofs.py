"""What a node has to show of whom it forwards for: nobody can be invented."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.authentication.authenticator import Authenticator
from bridge_agent.authentication.hop_proofs import HopProofs, of_certificate, of_key
from bridge_agent.authentication.keyring import Keyrings
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.authentication.principals import NotToldYet, UnknownPrincipal
from bridge_agent.authentication.token_book import HOP_GRACE_S, TokenBook
from bridge_agent.gateway.config import ListenerKind
from bridge_agent.routing.view import MeshView
from bridge_core.clients import Admin, ApiKey, Client
from bridge_core.http1 import Headers, Request
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.identity.api_keys import PEPPER, Pepper, id_of, mint
from bridge_core.identity.certificate_info import CertifiedName
from bridge_core.identity.principal import Principal
from bridge_core.security_settings import Trust
from bridge_core.snapshot import MESH_KEY, MeshConfig, Snapshot, Version, encode_entry

NOW, DAY = 1_800_000_000.0, 86_400.0
DOMAIN = "bridge.local"
SECRET = bytes(range(32))
PEPPERED = Pepper(SECRET)
KEYS = {name: mint(name.encode().ljust(41, b".")).encode() for name in ("alice", "bob", "late")}
ALICE, BOB, ROOT, NODE2 = (
    f"spiffe://{DOMAIN}/{one}" for one in ("client/alice", "client/bob", "admin/root", "node/node2")
)
CA = x509.create_authority(DOMAIN, now=NOW, ttl_s=30 * DAY)
OTHER_CA = x509.create_authority(DOMAIN, now=NOW, ttl_s=30 * DAY)


def key_of(name: str, expires: float = 0.0) -> ApiKey:
    return ApiKey(id_of(KEYS[name]).decode(), PEPPERED.hash(KEYS[name]).hex(), expires)


def certificate(kind: str, name: str, ca: x509.Authority = CA, *, begins: float = NOW) -> bytes:
    leaf = x509.issue(
        ca, x509.generate_key().public_key(), SpiffeId(DOMAIN, kind, name), now=begins, ttl_s=DAY
    )
    return _der(leaf)


def _der(leaf: x509.x509.Certificate) -> bytes:
    return leaf.public_bytes(x509.serialization.Encoding.DER)


def snapshot(
    *, revoked: tuple[str, ...] = (), trusted: tuple[x509.Authority, ...] = (CA,), revision: int = 1
) -> Snapshot:
    trust = Trust(issuers=tuple(one.pem.decode() for one in trusted))
    mesh = MeshConfig(trust_domain=DOMAIN, revoked_serials=revoked, trust=trust)
    clients = (
        Client("alice", ("staff",), keys=(key_of("alice"),)),
        Client("bob", keys=(key_of("bob", expires=NOW + 10),)),
        Client("carl", blocked=True),
    )
    entries = {MESH_KEY: encode_entry(mesh), "admin/root": encode_entry(Admin("root", "admin"))}
    entries |= {f"client/{one.name}": encode_entry(one) for one in clients}
    return Snapshot(Version(1, revision), entries)


MESH = snapshot()


def proofs(*, told: bool = True) -> HopProofs:
    secrets = MeshSecrets()
    if told:
        secrets.take({PEPPER: SECRET})
    return HopProofs(secrets, Keyrings(), TokenBook())


def named(text: str, proof: bytes = b"", *, mesh: Snapshot = MESH, now: float = NOW) -> Principal:
    return proofs().principal(text, "node1", proof, mesh, now)


def shown(name: str) -> bytes:
    return of_key(id_of(KEYS[name]), PEPPERED.proof(KEYS[name]))


def test_what_was_shown_proves_it() -> None:
    assert named(ALICE, shown("alice")).groups == ("staff",)
    assert named(ALICE, of_certificate(certificate("client", "alice"))).groups == ("staff",)
    assert named(ROOT, of_certificate(certificate("admin", "root"))).attributes == {"role": "admin"}
    assert named(NODE2, of_certificate(certificate("node", "node2"))).name == "node2"


def test_the_link_proves_the_node_at_its_other_end_and_the_programs_on_it() -> None:
    assert named("local") == Principal("local", "node1", "local")
    assert named(f"spiffe://{DOMAIN}/node/node1").kind == "node"
    with pytest.raises(UnknownPrincipal, match="not proven"):
        named(NODE2)


FORGED = {
    "nothing": b"",
    "the hash that every node has": b"key %b %b" % (id_of(KEYS["alice"]), key_of("alice").hash.encode()),
    "another's key": shown("bob"),
    "another's key under this one's id": of_key(id_of(KEYS["alice"]), PEPPERED.proof(KEYS["bob"])),
    "the key itself": b"key " + KEYS["alice"],
    "half a proof": shown("alice")[:-2],
    "no hexadecimal": shown("alice")[:-2] + b"zz",
    "more than a proof": shown("alice") + b"00",
    "another's certificate": of_certificate(certificate("client", "bob")),
    "a certificate of another kind": of_certificate(certificate("node", "alice")),
    "one of a foreign CA": of_certificate(certificate("client", "alice", OTHER_CA)),
    "one of another node's making": of_certificate(
        certificate(
            "client",
            "alice",
            x509.Authority(
                x509.issue(
                    CA, OTHER_CA.key.public_key(), SpiffeId(DOMAIN, "node", "node1"), now=NOW, ttl_s=DAY
                ),
                OTHER_CA.key,
            ),
        )
    ),
    "the CA's own": of_certificate(_der(CA.certificate)),
    "one that has ended": of_certificate(certificate("client", "alice", begins=NOW - DAY - HOP_GRACE_S - 1)),
    "one that has not begun": of_certificate(certificate("client", "alice", begins=NOW + DAY)),
    "half a certificate": of_certificate(certificate("client", "alice")[:-40]),
    "no base64": b"cert ####",
    "a long one": b"cert " + b"A" * 100_000,
    "a token": b"eyJ.eyJ.eyJ",
}


@pytest.mark.parametrize("proof", FORGED.values(), ids=FORGED.keys())
def test_a_node_cannot_invent_a_client(proof: bytes) -> None:
    with pytest.raises(UnknownPrincipal) as refused:
        named(ALICE, proof)
    assert not isinstance(refused.value, NotToldYet)


def test_a_node_cannot_invent_an_admin_by_a_clients_key() -> None:
    with pytest.raises(UnknownPrincipal, match="another client's"):
        named(ROOT, shown("alice"))
    with pytest.raises(UnknownPrincipal, match="missing"):
        named(ROOT)


def test_a_revoked_certificate_proves_nothing_and_one_that_ended_in_the_queue_does() -> None:
    der = certificate("client", "alice")
    proof, serial = of_certificate(der), x509.describe(_pem(der)).serial
    asked = proofs()
    assert asked.principal(ALICE, "node1", proof, MESH, NOW).name == "alice"
    late = NOW + DAY + HOP_GRACE_S
    assert asked.principal(ALICE, "node1", proof, MESH, late - 1).name == "alice"
    with pytest.raises(UnknownPrincipal, match="not valid now"):
        asked.principal(ALICE, "node1", proof, MESH, late)
    with pytest.raises(UnknownPrincipal, match="revoked"):
        asked.principal(ALICE, "node1", proof, snapshot(revoked=(serial,), revision=2), NOW)
    with pytest.raises(UnknownPrincipal, match="no CA"):
        asked.principal(ALICE, "node1", proof, snapshot(trusted=(OTHER_CA,), revision=3), NOW)


def _pem(der: bytes) -> bytes:
    return x509.to_pem(x509.x509.load_der_x509_certificate(der))


def test_a_key_may_end_while_its_request_waits_at_the_entry() -> None:
    late = NOW + 10 + HOP_GRACE_S
    assert named(BOB, shown("bob"), now=late - 1).name == "bob"
    with pytest.raises(UnknownPrincipal, match="expired"):
        named(BOB, shown("bob"), now=late)


def test_who_is_blocked_is_refused_whatever_proves_it() -> None:
    with pytest.raises(UnknownPrincipal, match="blocked"):
        named(f"spiffe://{DOMAIN}/client/carl", of_certificate(certificate("client", "carl")))


def test_a_key_that_is_newer_than_the_snapshot_is_asked_about_again() -> None:
    with pytest.raises(NotToldYet):
        named(ALICE, shown("late"))
    with pytest.raises(NotToldYet):
        proofs(told=False).principal(ALICE, "node1", shown("alice"), MESH, NOW)


def test_the_form_of_a_proof_is_frozen() -> None:
    assert of_key(b"0IuH7Vnb31HN", Pepper(SECRET).proof(b"brk_x")) == (
        b"key 0IuH7Vnb31HN cb5b53a3808d576ba2312a3f02cfc20fc1646eb7ed3b37c76f78ae7459491eff"
    )
    assert of_certificate(b"\x30\x03abc") == b"cert MANhYmM="


def test_a_proof_is_what_the_kept_hash_is_made_of_and_not_that_hash() -> None:
    proof = PEPPERED.proof(KEYS["alice"])
    assert PEPPERED.seal(proof) == PEPPERED.hash(KEYS["alice"])
    assert PEPPERED.seal(PEPPERED.hash(KEYS["alice"])) != PEPPERED.hash(KEYS["alice"])


def entry(identity: str | None = None, key: bytes = b"") -> bytes:
    """What the entry node says of a caller who shows this."""
    view = MeshView("node1")
    view.publish(MESH)
    secrets = MeshSecrets()
    secrets.take({PEPPER: SECRET})
    authenticator = Authenticator(view, "node1", secrets, now=lambda: NOW)
    request = Request("POST", b"/api/chat", Headers([(b"x-api-key", key)] if key else []))
    request.identity = identity
    caller = authenticator.caller(request, ListenerKind.TLS)
    assert type(caller.principal) is str  # a record of it is encoded
    assert msgspec.json.encode(caller.who)
    return caller.proof


def test_what_an_entry_node_shows_is_what_an_owner_believes() -> None:
    assert entry(key=KEYS["alice"]) == shown("alice")
    der = certificate("client", "alice")
    assert named(ALICE, entry(CertifiedName(ALICE, der))).name == "alice"
    assert named(ALICE, entry(CertifiedName(ALICE, der), KEYS["alice"])).name == "alice"
    assert entry(ALICE) == b""  # of a listener that keeps no certificates


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([ALICE, BOB, ROOT, NODE2, f"spiffe://{DOMAIN}/client/carl", "", "#", "corp#x"]),
    st.binary(max_size=200)
    | st.builds(
        lambda start, rest: start + rest, st.sampled_from([b"key ", b"cert "]), st.binary(max_size=200)
    ),
)
def test_whatever_a_node_says_nobody_comes_of_it(text: str, proof: bytes) -> None:
    with pytest.raises(UnknownPrincipal):
        named(text, proof)
