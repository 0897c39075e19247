"""Which Joins are granted, and what each refusal says."""

from __future__ import annotations

import os

import msgspec
import pytest

from bridge_core.errors import Fatal
from bridge_core.identity import IdentityFault, JoinToken, SpiffeId
from bridge_core.identity import certificates as x509
from bridge_core.sealing import Sealer
from bridge_core.sealing.keyring import DataKey, Keyring
from bridge_registry.enrolment import join_rules
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal
from bridge_registry.enrolment.key_sealing import seal, unseal
from bridge_registry.records import NodeRecord, TokenRecord

PIN = "ab" * 32
TOKEN = JoinToken.mint(PIN, bytes(range(40)))
RECORD = TokenRecord(TOKEN.id, TOKEN.secret_hash, expires=1000.0, uses_left=1)


def refusal(work: object) -> tuple[JoinRefusal, str]:
    with pytest.raises(EnrolmentRefused) as caught:
        work()  # type: ignore[operator]  # a thunk
    assert TOKEN.secret not in str(caught.value)
    return caught.value.refusal, caught.value.message


def changed(**fields: object) -> TokenRecord:
    return msgspec.structs.replace(RECORD, **fields)


def test_a_good_token_is_taken() -> None:
    assert join_rules.check_token(TOKEN, RECORD, PIN) is RECORD
    join_rules.check_use(RECORD, 999.9)
    join_rules.check_name("a", RECORD, None)


def test_a_foreign_ca_is_told_before_anything_else() -> None:
    kind, says = refusal(lambda: join_rules.check_token(TOKEN, None, "cd" * 32))
    assert (kind, "another mesh" in says) == (JoinRefusal.UNAUTHENTICATED, True)


def test_an_unknown_id_and_a_wrong_secret_are_told_apart_by_nobody() -> None:
    other = JoinToken(TOKEN.id, "00" * 32, PIN)
    unknown = refusal(lambda: join_rules.check_token(TOKEN, None, PIN))
    wrong = refusal(lambda: join_rules.check_token(other, RECORD, PIN))
    assert unknown == wrong
    assert "wrong" in wrong[1]


@pytest.mark.parametrize(
    ("record", "now", "says"),
    [
        (changed(revoked=True, uses_left=0), 2000.0, "revoked"),
        (changed(uses_left=0), 1030.0, "expired 30 s ago"),
        (RECORD, 1000.0, "expired 0 s ago"),
        (changed(uses_left=0), 10.0, "already used"),
    ],
)
def test_a_token_past_its_use_says_why(record: TokenRecord, now: float, says: str) -> None:
    kind, message = refusal(lambda: join_rules.check_use(record, now))
    assert kind is JoinRefusal.UNAUTHENTICATED
    assert says in message


def test_a_name_is_taken_unless_the_token_was_made_for_it() -> None:
    existing = NodeRecord("a")
    assert refusal(lambda: join_rules.check_name("a", RECORD, existing)) == (
        JoinRefusal.TAKEN,
        "the node name a is taken",
    )
    join_rules.check_name("a", changed(node_name="a"), existing)
    kind, says = refusal(lambda: join_rules.check_name("b", changed(node_name="a"), None))
    assert (kind, says) == (JoinRefusal.UNAUTHENTICATED, "the join token is for the node a, not b")


def test_only_the_same_key_with_the_same_token_is_a_repetition() -> None:
    node = NodeRecord("a", token="t", key="k")
    assert join_rules.is_repetition(node, "t", "k")
    assert not join_rules.is_repetition(node, "t", "other")
    assert not join_rules.is_repetition(node, "other", "k")
    assert not join_rules.is_repetition(msgspec.structs.replace(node, state="revoked"), "t", "k")
    assert not join_rules.is_repetition(None, "t", "k")


OTHERS = {
    "a": NodeRecord("a", "10.0.0.1:1"),
    "b": NodeRecord("b", "10.0.0.2:1"),
    "node3": NodeRecord("node3", "Gpu.Example:1"),
    "odd": NodeRecord("odd", "no host:1"),
}


def granted(*asked: str, peer: str = "10.0.0.1:11445", allowed: tuple[str, ...] = ()) -> join_rules.Names:
    return join_rules.grantable_names("a", peer, asked, OTHERS, allowed)


def test_a_certificate_names_its_node_loopback_and_the_advertised_address_and_nothing_else() -> None:
    names = granted("a", "LOCALHOST.", "10.0.0.1", "::1", "google.com", "8.8.8.8", "www.a.example")
    assert names.dns_names == ("a", "localhost")
    assert names.addresses == ("127.0.0.1", "::1", "10.0.0.1")
    assert names.left_out == ("google.com", "8.8.8.8", "www.a.example")


def test_a_host_name_is_granted_where_an_admin_allowed_it() -> None:
    allowed = join_rules.check_dns_names(["A.Example.", "*.RACK.example"])
    assert allowed == ("a.example", "*.rack.example")
    names = granted("A.EXAMPLE", "one.rack.example", "x.one.rack.example", "rack.example", allowed=allowed)
    assert names.dns_names == ("a", "localhost", "a.example", "one.rack.example")
    assert names.left_out == ("x.one.rack.example", "rack.example")
    own = granted(peer="a.example:11445", allowed=allowed)
    assert "a.example" in own.dns_names


@pytest.mark.parametrize(
    "name", ["registry.bridge.internal", "*.bridge.INTERNAL", "10.0.0.1", "*", "a b", ""]
)
def test_an_admin_cannot_allow_what_is_the_bridges_own_or_no_name(name: str) -> None:
    assert refusal(lambda: join_rules.check_dns_names([name]))[0] is JoinRefusal.INVALID


TAKEN = [
    *("b", "B", "node3", "NODE3", "Node3.", "ｎｏｄｅ3", "node\u00ad3", "gpu.example", "GPU.EXAMPLE."),
    *("10.0.0.2", "::ffff:10.0.0.2", "::FFFF:0a00:0002"),
    *("registry.bridge.internal", "registry.Bridge.internal", "REGISTRY.BRIDGE.INTERNAL."),
    *("bridge.internal", "x.bridge.internal", "registry．bridge。internal"),
]


@pytest.mark.parametrize("asked", TAKEN)
def test_a_certificate_never_names_somebody_else_in_any_spelling(asked: str) -> None:
    everything = ("*.internal", "*.example", "node3", "b")
    assert refusal(lambda: granted(asked, allowed=everything))[0] is JoinRefusal.DENIED


# Nodes of one machine share its address and its host name.
SHARED = {"10.0.0.2", "::ffff:10.0.0.2", "::FFFF:0a00:0002", "gpu.example", "GPU.EXAMPLE."}


@pytest.mark.parametrize("asked", [one for one in TAKEN if one not in SHARED])
def test_nor_by_way_of_the_peer_address(asked: str) -> None:
    assert refusal(lambda: granted(peer=f"{asked}:1"))[0] is JoinRefusal.DENIED


@pytest.mark.parametrize(
    "asked",
    ["*.example", "a b", "x" * 254, "127.1", "0x7f.1", "1.2.3", "a..b", "-a", "a-", "fe80::1%eth0", "\ud800"],
)
def test_what_is_no_host_is_refused(asked: str) -> None:
    assert refusal(lambda: granted(asked))[0] is JoinRefusal.INVALID


def test_nodes_of_one_machine_share_its_address() -> None:
    assert "10.0.0.2" in granted("10.0.0.2", peer="10.0.0.2:2").addresses
    assert "10.0.0.2" in granted(peer="[::ffff:10.0.0.2]:2").addresses


@pytest.mark.parametrize(
    ("address", "canonical"),
    [
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("GPU-1.Lan.:11445", "gpu-1.lan:11445"),
        ("[0:0::1]:2", "[::1]:2"),
        ("[::ffff:10.0.0.1]:3", "10.0.0.1:3"),
    ],
)
def test_peer_addresses_are_kept_in_one_spelling(address: str, canonical: str) -> None:
    assert join_rules.check_peer_address(address) == canonical


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "::1:1", "a:٣", "a:" + "9" * 5000])
def test_nobody_is_reached_there(address: str) -> None:
    assert refusal(lambda: join_rules.check_peer_address(address))[0] is JoinRefusal.INVALID


@pytest.mark.parametrize("kind", ["node", "admin", "client"])
def test_the_ca_itself_gives_the_bridges_own_names_to_nobody_outside(kind: str) -> None:
    authority, key = x509.create_authority("m", now=1e9, ttl_s=1e6), x509.generate_key()

    def issue(kind: str) -> object:
        name = "REGISTRY.Bridge.internal."
        identity = SpiffeId("m", kind, "x")
        return x509.issue(authority, key.public_key(), identity, now=1e9, ttl_s=1e3, dns_names=[name])

    with pytest.raises(IdentityFault, match="own is not for"):
        issue(kind)
    issue("registry")


@pytest.mark.parametrize("address", ["", "a", "a:", ":1", "a:0", "a:65536", "a:b", "http://a:1", "a b:1"])
def test_bad_peer_addresses(address: str) -> None:
    assert refusal(lambda: join_rules.check_peer_address(address))[0] is JoinRefusal.INVALID


def test_labels_are_bounded() -> None:
    join_rules.check_labels({"gpu": "h200"})
    for labels in (
        {"": "x"},
        {"k" * 129: ""},
        {"k": "v" * 257},
        {str(at): "" for at in range(65)},
        {"zone ": "a"},
        {"zоne": "a"},
        {"zone": " a"},
        {"zone": "a\u200b"},
        {"zone": "a\nb"},
    ):
        assert refusal(lambda labels=labels: join_rules.check_labels(labels))[0] is JoinRefusal.INVALID


def test_the_cas_key_opens_with_its_own_keyring_and_certificate_alone() -> None:
    one, two = (x509.create_authority("m", now=1e9, ttl_s=1e6) for _ in range(2))
    mine, other = (Sealer(Keyring((DataKey(os.urandom(8), os.urandom(32), 0.0),))) for _ in range(2))
    sealed = seal(one, mine)
    assert x509.key_to_pem(unseal(one.pem, sealed, mine).key) == x509.key_to_pem(one.key)
    assert b"PRIVATE KEY" not in sealed
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for pem, box, sealer in (
        (two.pem, sealed, mine),
        (one.pem, sealed, other),
        (one.pem, damaged, mine),
        (one.pem, b"", mine),
    ):
        with pytest.raises(Fatal, match="does not open"):
            unseal(pem, box, sealer)


def test_a_cas_key_of_an_earlier_version_is_refused_in_words_of_its_own() -> None:
    ca = x509.create_authority("m", now=1e9, ttl_s=1e6)
    sealer = Sealer(Keyring((DataKey(os.urandom(8), os.urandom(32), 0.0),)))
    with pytest.raises(Fatal, match="sealed by an earlier version"):
        unseal(ca.pem, b"BRK1" + os.urandom(60), sealer)
