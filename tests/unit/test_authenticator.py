"""Who asks at a client listener: certificates, keys and what is shown beside them."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.authentication.authenticator import Authenticator
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.authentication.principals import Proven
from bridge_agent.authentication.refusal import Refused
from bridge_agent.gateway.config import ListenerKind
from bridge_agent.routing.view import MeshView
from bridge_core.clients import Admin, ApiKey, Client
from bridge_core.http1 import Headers, Request
from bridge_core.identity.api_keys import PEPPER, Pepper, id_of, mint
from bridge_core.identity.principal import Principal
from bridge_core.security_settings import SecuritySettings
from bridge_core.snapshot import MESH_KEY, MeshConfig, Snapshot, Version, encode_entry

SECRET = bytes(range(32))
KEYS = {name: mint(name.encode().ljust(41, b".")) for name in ("alice", "bob", "nobody")}
ALICE, BOB = (f"spiffe://bridge.local/client/{name}" for name in ("alice", "bob"))
TOKEN = "eyJhbGciOiJub25lIn0.e30.x"


def key_of(name: str, expires: float = 0.0, text: str = "") -> ApiKey:
    raw = (text or KEYS[name]).encode()
    return ApiKey(id_of(raw).decode(), Pepper(SECRET).hash(raw).hex(), expires)


class Bed:
    """An authenticator with a clock and a snapshot of the test's."""

    def __init__(self, *, tokens: Any = None, told: bool = True) -> None:
        self.now = 1000.0
        self.clients = {"alice": Client("alice", ("staff",), {"a": "b"}, (key_of("alice"),))}
        self.clients["bob"] = Client("bob", keys=(key_of("bob"),))
        self.admins = {"root": Admin("root", "admin"), "eve": Admin("eve", "viewer")}
        self.security = SecuritySettings()
        self._revision = 0
        self.view = MeshView("node1")
        self.publish()
        self.secrets = MeshSecrets()
        if told:
            self.secrets.take({PEPPER: SECRET})
        self.authenticator = Authenticator(
            self.view, "node1", self.secrets, tokens=tokens, now=lambda: self.now
        )

    def publish(self) -> None:
        self._revision += 1
        entries = {MESH_KEY: encode_entry(MeshConfig(security=self.security))}
        entries |= {f"client/{name}": encode_entry(one) for name, one in self.clients.items()}
        entries |= {f"admin/{name}": encode_entry(one) for name, one in self.admins.items()}
        self.view.publish(Snapshot(Version(1, self._revision), entries))

    def who(
        self, headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None, **more: Any
    ) -> Principal:
        return self.ask(request(headers, **more), more.get("listener", ListenerKind.TLS))

    def ask(self, asked: Request, listener: ListenerKind = ListenerKind.TLS) -> Principal:
        return self.authenticator.caller(asked, listener).who

    def refused(self, headers: Any = None, **more: Any) -> tuple[int, str]:
        with pytest.raises(Refused) as refused:
            self.who(headers, **more)
        return refused.value.status, refused.value.message


def request(headers: Any = None, *, identity: str | None = None, **_: Any) -> Request:
    pairs = headers or []
    if isinstance(pairs, dict):
        pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs.items()]
    made = Request("POST", b"/api/chat", Headers(list(pairs)))
    made.identity = identity
    return made


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        bearer(KEYS["alice"]),
        {"Authorization": f"bearer {KEYS['alice']}"},
        {"Authorization": f"BEARER   {KEYS['alice']}  "},
        {"x-api-key": KEYS["alice"]},
        {"api-key": KEYS["alice"]},
        {**bearer(KEYS["alice"]), "x-api-key": KEYS["alice"]},
        {**bearer("ollama"), "x-api-key": KEYS["alice"]},
        {"Authorization": "Basic eDp5", "api-key": KEYS["alice"]},
    ],
)
def test_a_key_names_its_client_in_every_field_that_clients_send(headers: dict[str, str]) -> None:
    found = Bed().who(headers)
    assert found == Principal("client", "alice", ALICE, ("staff",), {"a": "b"})


def test_who_shows_nothing_is_told_what_is_needed() -> None:
    bed = Bed()
    with pytest.raises(Refused, match="a client certificate or API key is needed") as refused:
        bed.who()
    assert refused.value.status == 401
    assert bed.authenticator.challenge(refused.value) == b'Bearer realm="bridge.local"'
    for word in (bearer("ollama"), bearer(""), {"x-api-key": "sk-123"}, {"Authorization": "Basic eDp5"}):
        assert bed.refused(word)[0] == 401


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (KEYS["nobody"], "this API key is not known"),
        (KEYS["alice"][:16] + KEYS["bob"][16:], "no whole API key"),
        (KEYS["alice"][:-1], "it has 65 characters"),
        (KEYS["alice"] + "A", "it has 67 characters"),
        (KEYS["alice"][:-1] + ("A" if KEYS["alice"][-1] != "A" else "B"), "last six characters"),
        ("brk_" + "é" * 62, "12 letters and digits"),
        ("brk_" + "A" * 60_000, "it has 60004 characters"),
        ("brk_", "it has 4 characters"),
    ],
)
def test_a_key_that_is_none_is_refused_and_not_repeated(text: str, says: str) -> None:
    status, message = Bed().refused(bearer(text))
    assert status == 401
    assert says in message
    assert text[4:] not in message or len(text) == 4


def test_a_damaged_key_is_challenged_as_one_that_was_shown() -> None:
    bed = Bed()
    with pytest.raises(Refused) as refused:
        bed.who(bearer(KEYS["nobody"]))
    assert b'error="invalid_token"' in bed.authenticator.challenge(refused.value)


def test_a_right_key_with_another_secret_under_its_id_is_not_known() -> None:
    other = mint(b"alice".ljust(9, b".") + b"x" * 32)
    assert other[:16] == KEYS["alice"][:16]
    assert Bed().refused(bearer(other)) == (401, "this API key is not known")


def test_a_blocked_client_is_refused_whatever_it_brings_and_let_in_again() -> None:
    bed = Bed()
    asked = request(bearer(KEYS["alice"]))
    assert bed.ask(asked).name == "alice"
    whole = bed.clients["alice"]
    bed.clients["alice"] = Client("alice", keys=whole.keys, blocked=True)
    bed.publish()
    for _ in range(2):
        with pytest.raises(Refused, match="client alice is blocked") as refused:
            bed.ask(asked)  # the very head that was good a moment ago
        assert refused.value.status == 403
    assert bed.refused(identity=ALICE) == (403, "client alice is blocked")
    bed.clients["alice"] = whole
    bed.publish()
    assert bed.ask(asked).groups == ("staff",)


def test_a_deleted_client_is_nobody() -> None:
    bed = Bed()
    asked = request(bearer(KEYS["alice"]))
    bed.ask(asked)
    del bed.clients["alice"]
    bed.publish()
    with pytest.raises(Refused, match="not known"):
        bed.ask(asked)
    assert bed.refused(identity=ALICE) == (403, "there is no client alice in this mesh")


def test_a_head_that_comes_again_ends_with_the_key_the_client_and_the_second() -> None:
    bed = Bed()
    bed.clients["alice"] = Client("alice", keys=(key_of("alice", expires=2000.0),))
    bed.clients["bob"] = Client("bob", keys=(key_of("bob"),), expires=3000.0)
    bed.publish()
    alice, bob = request(bearer(KEYS["alice"])), request(bearer(KEYS["bob"]))
    certified = request(identity=BOB)
    for bed.now in (1000.0, 1999.999):
        assert [bed.ask(one).name for one in (alice, bob, certified)] == ["alice", "bob", "bob"]
    bed.now = 2000.0
    with pytest.raises(Refused, match="this API key of client alice has expired"):
        bed.ask(alice)
    assert bed.ask(bob).name == "bob"
    bed.now = 3000.0
    for one in (bob, certified):
        with pytest.raises(Refused, match="client bob has expired"):
            bed.ask(one)


def test_several_credentials_have_to_name_one_principal() -> None:
    bed = Bed()
    assert bed.who(bearer(KEYS["alice"]), identity=ALICE).name == "alice"
    for headers, identity in (
        ({**bearer(KEYS["alice"]), "x-api-key": KEYS["bob"]}, None),
        (bearer(KEYS["bob"]), ALICE),
        ({"api-key": KEYS["alice"]}, "spiffe://bridge.local/admin/root"),
        ({"api-key": KEYS["alice"]}, "spiffe://bridge.local/node/node2"),
    ):
        status, message = bed.refused(headers, identity=identity)
        assert (status, message[:26]) == (401, "this shows credentials of ")


def test_a_key_that_is_none_spoils_the_certificate_beside_it() -> None:
    assert Bed().refused(bearer(KEYS["nobody"]), identity=ALICE)[0] == 401
    assert Bed().who(bearer("any word"), identity=ALICE).name == "alice"


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key"])
def test_a_field_that_comes_twice_is_nobodys(name: bytes) -> None:
    value = (b"Bearer " if name == b"authorization" else b"") + KEYS["alice"].encode()
    other = value.replace(KEYS["alice"].encode(), KEYS["bob"].encode())
    for second in (value, other, b""):
        for pairs in ([(name, value), (name, second)], [(name, second), (name, value)]):
            assert Bed().refused(pairs)[0] == 401


def test_without_the_pepper_a_key_is_not_called_wrong() -> None:
    bed = Bed(told=False)
    with pytest.raises(Refused) as refused:
        bed.who(bearer(KEYS["alice"]))
    assert (refused.value.status, refused.value.retry_after) == (503, 5)
    assert bed.who(identity=ALICE).name == "alice"
    assert "no API key can be checked here" in bed.secrets.concerns(bed.view.current)[0]
    bed.secrets.take({PEPPER: SECRET})
    assert bed.who(bearer(KEYS["alice"])).name == "alice"
    assert bed.secrets.concerns(bed.view.current) == []


def test_another_pepper_ends_what_was_found_out_under_the_one_before() -> None:
    bed = Bed()
    asked = request(bearer(KEYS["alice"]))
    bed.ask(asked)
    bed.secrets.take({PEPPER: bytes(32)})
    with pytest.raises(Refused, match="not known"):
        bed.ask(asked)


@pytest.mark.parametrize(
    ("identity", "says"),
    [
        ("spiffe://bridge.local/client/carol", "there is no client carol"),
        ("spiffe://bridge.local/admin/mallory", "no admin of this mesh"),
        ("spiffe://other.local/client/alice", "nobody of this mesh"),
        ("spiffe://bridge.local/registry/r1", "nobody of this mesh"),
        ("spiffe://bridge.local/client/Alice", "names nobody"),
        ("local", "names nobody"),
        ("", "names nobody"),
    ],
)
def test_a_certificate_of_nobody_is_refused(identity: str, says: str) -> None:
    status, message = Bed().refused(identity=identity)
    assert status == 403
    assert says in message


def test_admins_come_with_their_roles() -> None:
    assert Bed().who(identity="spiffe://bridge.local/admin/eve").attributes == {"role": "viewer"}


class TestTheLocalListener:
    """Loopback: whoever shows nothing is `local`."""

    def test_it_is_local_whatever_word_stands_in_the_place_of_a_key(self) -> None:
        bed = Bed()
        for headers in ({}, bearer("ollama"), bearer(TOKEN), {"x-api-key": "sk-1"}):
            found = bed.who(headers, listener=ListenerKind.LOCAL)
            assert (found.kind, found.name, found.text) == ("local", "node1", "local")

    def test_a_key_counts_there_too(self) -> None:
        bed = Bed()
        assert bed.who(bearer(KEYS["alice"]), listener=ListenerKind.LOCAL).name == "alice"
        assert bed.refused(bearer(KEYS["nobody"]), listener=ListenerKind.LOCAL)[0] == 401

    def test_off_refuses_it_and_takes_keys(self) -> None:
        bed = Bed()
        asked = request()
        assert bed.ask(asked, ListenerKind.LOCAL).kind == "local"
        bed.security = SecuritySettings(local_listener="off")
        bed.publish()
        with pytest.raises(Refused, match="its open listener is off"):
            bed.ask(asked, ListenerKind.LOCAL)
        assert bed.who(bearer(KEYS["bob"]), listener=ListenerKind.LOCAL).name == "bob"


class Issuer:
    """Knows one token."""

    def __init__(self) -> None:
        self.until = inf

    def verify(self, token: bytes, snapshot: Snapshot, now: float) -> Proven | None:
        if token == TOKEN.encode():
            return Proven(Principal("user", "u", "idp#u"), self.until)
        if token.endswith(b".bad"):
            raise Refused(401, "the token is not signed by its issuer")
        return None


def test_tokens_are_asked_of_who_knows_them_and_end_with_their_time() -> None:
    issuer = Issuer()
    bed = Bed(tokens=issuer)
    issuer.until = 1500.0
    asked = request(bearer(TOKEN))
    assert bed.ask(asked).text == "idp#u"
    issuer.until = 0.0
    bed.now = 1499.0
    assert bed.ask(asked).text == "idp#u"
    bed.now = 1500.0
    issuer.until = 1600.0
    assert bed.ask(asked).text == "idp#u"  # looked at anew
    assert bed.refused(bearer("eyJ.a.bad")) == (401, "the token is not signed by its issuer")
    assert bed.refused(bearer("eyJ.a.b"))[0] == 401
    assert bed.refused({"x-api-key": KEYS["alice"], **bearer(TOKEN)})[1].startswith("this shows credentials")


@given(
    st.lists(
        st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"api-key"]), st.binary()), max_size=4
    )
)
def test_whatever_is_shown_is_somebody_or_refused(pairs: list[tuple[bytes, bytes]]) -> None:
    bed = Bed(tokens=Issuer())
    with pytest.raises(Refused):
        bed.ask(request(pairs))
