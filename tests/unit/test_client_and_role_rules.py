"""What clients may be given, and who of the admins may what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge_core.clients import Admin, ApiKey, Client, Role
from bridge_core.errors import BridgeError
from bridge_core.snapshot import check_entry, encode_entry
from bridge_registry.clients import client_rules, role_rules
from bridge_registry.records import AdminRecord

HASH = "0" * 64


@given(
    st.lists(st.text(max_size=70), max_size=40),
    st.dictionaries(st.text(max_size=130), st.text(max_size=260), max_size=40),
    st.one_of(st.just(0.0), st.floats()),
    st.text(max_size=70),
)
def test_what_a_client_is_made_of_every_agent_can_take(
    groups: list[str], attributes: dict[str, str], expires: float, name: str
) -> None:
    try:
        made = client_rules.new_client(name, groups, attributes, expires, trust_domain="mesh", now=1000.0)
    except BridgeError:
        return
    check_entry(f"client/{name}", encode_entry(made))
    assert all(one == one.strip() and one.isascii() for one in made.groups)


class Rotation(RuleBasedStateMachine):
    """Keys of one client, over time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.client = Client("anna")
        self.made = 0
        self.ends: dict[str, float] = {}  # when each key stops counting at the latest

    @rule(seconds=st.floats(0, 10_000))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(overlap=st.sampled_from([0.0, 1.0, 3600.0, 86_400.0]))
    def rotate(self, overlap: float) -> None:
        key = ApiKey(f"k{self.made}", HASH)
        try:
            self.client = client_rules.with_key(self.client, key, overlap, self.now)
        except BridgeError:
            alive = [one for one in self.client.keys if not client_rules.ended(one, self.now)]
            assert len(alive) == 8
            return
        self.made += 1
        for id_, end in self.ends.items():
            self.ends[id_] = min(end, self.now + overlap)
        self.ends[key.id] = float("inf")

    @invariant()
    def no_key_counts_for_longer_than_it_was_told(self) -> None:
        counting = {one.id for one in self.client.keys if not client_rules.ended(one, self.now)}
        assert counting == {id_ for id_, end in self.ends.items() if self.now < end}
        assert len(self.client.keys) <= 8
        if self.made:
            assert self.client.keys[-1].expires == 0.0


TestRotation = Rotation.TestCase


@pytest.mark.parametrize(
    ("asked", "expires", "lives"), [(0.0, 0.0, 7_776_000.0), (60.0, 0.0, 60.0), (0.0, 1500.0, 500.0)]
)
def test_a_certificate_lives_no_longer_than_its_client(asked: float, expires: float, lives: float) -> None:
    assert client_rules.certificate_ttl_s(asked, Client("a", expires=expires), 1000.0) == lives


@pytest.mark.parametrize(
    ("client", "asked", "says"),
    [
        (Client("a", blocked=True), 0.0, "is blocked"),
        (Client("a", expires=1000.0), 0.0, "has expired"),
        (Client("a"), 1e9, "366 days at most"),
    ],
)
def test_who_gets_no_certificate(client: Client, asked: float, says: str) -> None:
    with pytest.raises(BridgeError, match=says):
        client_rules.certificate_ttl_s(asked, client, 1000.0)


class Admins(RuleBasedStateMachine):
    """The admins of a mesh: made and deleted in any order."""

    names = st.sampled_from(["admin", "a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, AdminRecord] = {}
        self.gone: set[str] = set()

    @rule(name=names, role=st.sampled_from(role_rules.ROLES))
    def make(self, name: str, role: Role) -> None:
        there = role_rules.present(self.records)
        try:
            role_rules.check_new(name, role, self.records)
        except BridgeError:
            assert name in self.gone or there[name].admin.role != role
            return
        assert name not in self.gone
        if name not in role_rules.on_record(self.records):
            self.records = {**role_rules.on_record(self.records), name: AdminRecord(Admin(name, role))}

    @rule(name=names)
    def delete(self, name: str) -> None:
        try:
            found = role_rules.check_deletion(name, self.records)
        except BridgeError:
            there = role_rules.present(self.records)
            assert name not in there or role_rules.deciding(self.records) == [name]
            return
        self.gone.add(name)
        self.records = {**self.records, name: AdminRecord(found.admin, deleted=1.0)}

    @invariant()
    def somebody_may_everything(self) -> None:
        assert role_rules.deciding(self.records)
        assert all(role_rules.role_of(name, self.records) is None for name in self.gone)


TestAdmins = Admins.TestCase


def test_a_role_suffices_for_those_below_it() -> None:
    table = {
        (have, need): role_rules.suffices(have, need)
        for have in role_rules.ROLES
        for need in role_rules.ROLES
    }
    assert {pair for pair, enough in table.items() if not enough} == {
        ("viewer", "operator"),
        ("viewer", "admin"),
        ("operator", "admin"),
    }


@pytest.mark.parametrize("text", ["", "Admin", "root", "admin ", "viewer\n"])
def test_a_role_is_one_of_three(text: str) -> None:
    with pytest.raises(BridgeError, match="is no role"):
        role_rules.checked_role(text)


def test_so_many_have_the_role_admin_that_a_transaction_looks_at_each() -> None:
    records = {f"a{n}": AdminRecord(Admin(f"a{n}", "admin")) for n in range(64)}
    with pytest.raises(BridgeError, match="64 at most"):
        role_rules.check_new("one-more", "admin", records)
    role_rules.check_new("one-more", "operator", records)


def new(groups: int = 0, attributes: int = 0, expires: float = 0.0) -> Client:
    return client_rules.new_client(
        "ann",
        [f"g{n}" for n in range(groups)],
        {f"a{n}": "x" for n in range(attributes)},
        expires,
        trust_domain="mesh",
        now=1000.0,
    )


def test_how_much_a_client_is_given() -> None:
    made = new(32, 32, 1000.5)
    assert (len(made.groups), len(made.attributes), made.expires) == (32, 32, 1000.5)
    assert new(expires=1e11).expires == 1e11
    assert new().expires == 0.0, "0 is never"
    for many in ((33, 0), (0, 33)):
        with pytest.raises(BridgeError, match="32 groups and 32 attributes at most"):
            new(*many)
    for expires in (1000.0, 1.0, 1e11 + 1):
        with pytest.raises(BridgeError, match="in the future"):
            new(expires=expires)


def test_of_a_group_that_cannot_be_no_more_is_repeated_than_fits_a_line() -> None:
    with pytest.raises(BridgeError, match=f"^'{'!' * 80}' cannot be a group"):
        client_rules.new_client("ann", ["!" * 81], {}, 0.0, trust_domain="mesh", now=0.0)
    with pytest.raises(BridgeError, match=f"^'{'!' * 80}' is no role"):
        role_rules.checked_role("!" * 81)
    with pytest.raises(BridgeError, match=f"no admin '{'!' * 80}'"):
        role_rules.check_deletion("!" * 81, {})


def test_keys_overlap_for_ninety_days_at_most_and_eight_count_at_a_time() -> None:
    one = Client("ann", keys=(ApiKey("k0", HASH),))
    found = client_rules.with_key(one, ApiKey("k1", HASH), 90 * 86_400.0, 1000.0)
    assert [key.expires for key in found.keys] == [1000.0 + 90 * 86_400, 0.0]
    with pytest.raises(BridgeError, match="for 90 days at most"):
        client_rules.with_key(one, ApiKey("k1", HASH), 90 * 86_400 + 1.0, 1000.0)
    sooner = Client("ann", keys=(ApiKey("k0", HASH, expires=1001.0), ApiKey("gone", HASH, expires=1000.0)))
    assert [
        (key.id, key.expires) for key in client_rules.with_key(sooner, ApiKey("k1", HASH), 50.0, 1000.0).keys
    ] == [("k0", 1001.0), ("k1", 0.0)]
    seven = Client("ann", keys=tuple(ApiKey(f"k{n}", HASH) for n in range(7)))
    eight = client_rules.with_key(seven, ApiKey("k7", HASH), 60.0, 1000.0)
    assert len(eight.keys) == 8
    with pytest.raises(BridgeError, match="8 keys that still count"):
        client_rules.with_key(eight, ApiKey("k8", HASH), 60.0, 1000.0)
    assert [key.id for key in client_rules.with_key(eight, ApiKey("k8", HASH), 0.0, 1000.0).keys] == ["k8"]


def test_a_certificate_lives_a_leap_year_at_most() -> None:
    assert client_rules.certificate_ttl_s(366 * 86_400, Client("a"), 0.0) == 366 * 86_400
    with pytest.raises(BridgeError, match="366 days at most"):
        client_rules.certificate_ttl_s(366 * 86_400 + 1, Client("a"), 0.0)
    assert client_rules.certificate_ttl_s(0.0, Client("a", expires=1000.1), 1000.0) == pytest.approx(0.1)


def test_a_mesh_has_a_thousand_admins_at_most() -> None:
    records = {f"a{n}": AdminRecord(Admin(f"a{n}", "viewer"), deleted=1.0) for n in range(999)}
    role_rules.check_new("one-more", "viewer", records)
    records["last"] = AdminRecord(Admin("last", "admin"))
    with pytest.raises(BridgeError, match="1000 admins at most"):
        role_rules.check_new("one-more", "viewer", records)


def test_sixty_four_have_the_role_admin() -> None:
    records = {f"a{n}": AdminRecord(Admin(f"a{n}", "admin")) for n in range(63)}
    role_rules.check_new("one-more", "admin", records)


def test_the_role_of_whom_there_is() -> None:
    assert role_rules.role_of("admin", {}) == "admin"
    assert role_rules.role_of("nobody", {}) is None
    assert role_rules.role_of("gone", {"gone": AdminRecord(Admin("gone", "viewer"), deleted=1.0)}) is None
