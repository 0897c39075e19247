"""The registry's rules at their limits: joins, names, members, updates, certificates, the store's watch."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge_core.config import load
from bridge_core.identity import JoinToken
from bridge_core.identity.rotation_rules import CertificateState, certificate_state, renew_at
from bridge_core.snapshot import Instance, MemberModel, Node, Snapshot, Version, encode_entry
from bridge_core.store.api import KeyValue
from bridge_core.store.watch_rules import (
    Response,
    WatchHeader,
    WatchLost,
    WatchPosition,
    WatchRefused,
    listed,
    received,
    resumed,
)
from bridge_registry.enrolment import join_rules
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal, Names
from bridge_registry.membership.drain_rules import reports, safe_to_stop
from bridge_registry.membership.load_book import NodeLoad
from bridge_registry.membership.membership_rules import Membership
from bridge_registry.publication.subscription_rules import Send, Subscription, acknowledged, next_send
from bridge_registry.records import NodeRecord, TokenRecord
from bridge_registry.traffic.config_rules import StoredDocument, change, stored
from bridge_registry.traffic.warning_rules import unserved

PIN = "ab" * 32
TOKEN = JoinToken.mint(PIN, bytes(range(40)))
RECORD = TokenRecord(TOKEN.id, TOKEN.secret_hash, expires=1000.0, uses_left=1)


def refusal(work: Any, *arguments: Any) -> JoinRefusal | None:
    try:
        work(*arguments)
    except EnrolmentRefused as fault:
        return fault.refusal
    return None


# -- joins


def test_a_token_has_to_name_this_ca_and_to_prove_its_secret() -> None:
    check = join_rules.check_token
    other = JoinToken(TOKEN.id, "00" * 32, PIN)
    assert refusal(check, TOKEN, RECORD, PIN) is None
    for token, record, pin in ((TOKEN, RECORD, "cd" * 32), (TOKEN, None, PIN), (other, RECORD, PIN)):
        assert refusal(check, token, record, pin) is JoinRefusal.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("fields", "now", "says"),
    [
        ({}, 999.9, ""),
        ({}, 1000.0, "expired 0 s ago"),
        ({}, 1001.9, "expired 1 s ago"),
        ({"uses_left": 0}, 0.0, "already used"),
        ({"uses_left": 2}, 0.0, ""),
        ({"revoked": True}, 0.0, "revoked"),
        ({"revoked": True, "uses_left": 0}, 2000.0, "revoked"),
        ({"uses_left": 0}, 2000.0, "expired"),
    ],
)
def test_when_a_token_can_be_used(fields: dict[str, Any], now: float, says: str) -> None:
    record = msgspec.structs.replace(RECORD, **fields)
    if not says:
        join_rules.check_use(record, now)
        return
    with pytest.raises(EnrolmentRefused, match=says):
        join_rules.check_use(record, now)


@pytest.mark.parametrize(
    ("existing", "again"),
    [
        (None, False),
        (NodeRecord("a", token="t", key="k"), True),
        (NodeRecord("a", token="t", key="k", state="drained"), True),
        (NodeRecord("a", token="t", key="k", state="revoked"), False),
        (NodeRecord("a", token="u", key="k"), False),
        (NodeRecord("a", token="t", key="l"), False),
    ],
)
def test_the_same_token_and_key_are_a_repetition(existing: NodeRecord | None, again: bool) -> None:
    assert join_rules.is_repetition(existing, "t", "k") is again


@pytest.mark.parametrize(
    ("made_for", "existing", "refused"),
    [
        ("", False, None),
        ("a", False, None),
        ("a", True, None),
        ("", True, JoinRefusal.TAKEN),
        ("b", False, JoinRefusal.UNAUTHENTICATED),
        ("b", True, JoinRefusal.UNAUTHENTICATED),
    ],
)
def test_which_name_a_token_enrols(made_for: str, existing: bool, refused: JoinRefusal | None) -> None:
    record = msgspec.structs.replace(RECORD, node_name=made_for)
    assert refusal(join_rules.check_name, "a", record, NodeRecord("a") if existing else None) is refused


OTHERS = {
    "a": NodeRecord("a", peer="mine:1"),
    "b": NodeRecord("b", peer="10.0.0.2:1"),
    "c": NodeRecord("c", peer="[fd00::3]:1"),
    "d": NodeRecord("d"),
    "e": NodeRecord("e", peer="localhost:1"),
}


def test_what_a_certificate_names() -> None:
    names = join_rules.grantable_names
    assert names("a", "10.0.0.9:1", ["x.example", "10.0.0.9", "10.0.0.8"], OTHERS, ["x.example"]) == Names(
        ("a", "localhost", "x.example"), ("127.0.0.1", "::1", "10.0.0.9"), ("10.0.0.8",)
    )
    assert names("a", "", ["z"], {}, []) == Names(("a", "localhost"), ("127.0.0.1", "::1"), ("z",))
    wild = names("a", "", ["x.example", "y.x.example", "example"], {}, ["*.example"])
    assert wild.dns_names == ("a", "localhost", "x.example")
    assert names("a", "mine:1", [], OTHERS, ["mine"]).dns_names == ("a", "localhost", "mine")


@pytest.mark.parametrize(
    ("peer", "asked", "refused"),
    [
        ("h:1", ["b"], JoinRefusal.DENIED),
        ("h:1", ["10.0.0.2"], JoinRefusal.DENIED),
        ("h:1", ["fd00::3"], JoinRefusal.DENIED),
        ("10.0.0.2:1", ["10.0.0.2"], None),  # two nodes of one machine
        ("b:1", ["b"], JoinRefusal.DENIED),  # but never another's name
        ("h:1", ["localhost", "a", "127.0.0.1"], None),
        ("h:1", ["mine"], None),  # its own record is nobody else's
        ("h:1", ["x.bridge.internal"], JoinRefusal.DENIED),
        ("h:1", ["*.example"], JoinRefusal.INVALID),
    ],
)
def test_a_certificate_names_nobody_else(peer: str, asked: list[str], refused: JoinRefusal | None) -> None:
    assert refusal(join_rules.grantable_names, "a", peer, asked, OTHERS, ()) is refused


@pytest.mark.parametrize(("count", "good"), [(64, True), (65, False)])
def test_an_admin_gives_64_names_at_most(count: int, good: bool) -> None:
    names = [f"n{at}.example" for at in range(count)]
    assert refusal(join_rules.check_dns_names, names) is (None if good else JoinRefusal.INVALID)
    assert join_rules.check_dns_names(["X.example", "*.Y.example", "x.example"]) == (
        "x.example",
        "*.y.example",
    )
    for bad in ("10.0.0.1", "x.bridge.internal", "*.", "a b"):
        assert refusal(join_rules.check_dns_names, [bad]) is JoinRefusal.INVALID


@pytest.mark.parametrize(("length", "good"), [(64, True), (65, False)])
def test_a_version_is_short_and_printable(length: int, good: bool) -> None:
    assert refusal(join_rules.check_version, "v" * length) is (None if good else JoinRefusal.INVALID)
    assert refusal(join_rules.check_version, "v" * (length - 1) + "\n") is JoinRefusal.INVALID


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("h:1", True),
        ("h:65535", True),
        ("h:65536", False),
        ("h:0", False),
        ("h:", False),
        (":1", False),
        ("h", False),
        ("h:x", False),
        ("[::1]:5", True),
        ("a b:1", False),
        ("a/b:1", False),
        ("a@b:1", False),
        ("a,b:1", False),
        ("h:00001", True),
        ("h:000001", False),
        ("h:\u0661", False),
        ("0.0.0.0:1", False),
        ("224.0.0.1:1", False),
        ("::1:5", False),
        ("[h]:5", False),
        ("[::1:5", False),
        ("[::]:5", False),
    ],
)
def test_what_others_can_dial(address: str, good: bool) -> None:
    assert refusal(join_rules.check_peer_address, address) is (None if good else JoinRefusal.INVALID)


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        ({}, True),
        ({f"k{at}": "" for at in range(64)}, True),
        ({f"k{at}": "" for at in range(65)}, False),
        ({"k" * 128: "v" * 256}, True),
        ({"k" * 129: "v"}, False),
        ({"k": "v" * 257}, False),
        ({"": "v"}, False),
        ({"k": "v "}, False),
        ({"k": "v\n"}, False),
    ],
)
def test_labels_are_few_and_short(labels: dict[str, str], good: bool) -> None:
    assert refusal(join_rules.check_labels, labels) is (None if good else JoinRefusal.INVALID)


@pytest.mark.parametrize(("address", "host"), [("h:1", "h"), ("[::1]:1", "::1"), ("", ""), ("h", "")])
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert join_rules.host_of(address) == host


# -- drained nodes


def published(state: str, *members: str) -> Snapshot:
    entries = {"node/n": encode_entry(Node("n", "n:1", state=state))}  # type: ignore[arg-type]  # one of its states
    entries |= {f"instance/{name}/0": encode_entry(Instance(f"{name}/0", name)) for name in members}
    return Snapshot(Version(1, 1), entries)


OLD, DRAINED = Version(1, 1), Version(1, 2)
KNOWN = {OLD: published("active", "n"), DRAINED: published("drained", "n")}


@pytest.mark.parametrize(("now", "fresh"), [(14.9, True), (15.0, False)])
def test_a_report_is_of_now_for_five_seconds(now: float, fresh: bool) -> None:
    assert reports(NodeLoad(10.0, 1, 0, DRAINED), now) is fresh
    assert not reports(None, now)


@pytest.mark.parametrize(
    ("acks", "load", "safe"),
    [
        ([DRAINED], NodeLoad(10.0, 1, 0, DRAINED), True),
        ([], NodeLoad(10.0, 1, 0, DRAINED), True),
        ([DRAINED, OLD], NodeLoad(10.0, 1, 0, DRAINED), False),
        ([None], NodeLoad(10.0, 1, 0, DRAINED), False),
        ([Version(9, 9)], NodeLoad(10.0, 1, 0, DRAINED), False),
        ([DRAINED], NodeLoad(10.0, 1, 1, DRAINED), False),
        ([DRAINED], NodeLoad(10.0, 1, 0, OLD), False),
        ([DRAINED], NodeLoad(0.0, 1, 0, DRAINED), False),  # it has an instance yet
        ([DRAINED], None, False),
    ],
)
def test_when_a_drained_node_may_be_stopped(acks: list[Any], load: NodeLoad | None, safe: bool) -> None:
    assert safe_to_stop("n", KNOWN, acks, load, 10.0) is safe


def test_a_node_without_an_instance_that_does_not_report_is_stopped_already() -> None:
    for state, members, safe in (
        ("drained", ("m",), True),
        ("drained", ("n",), False),
        ("active", (), False),
    ):
        newest = KNOWN | {Version(1, 3): published(state, *members)}
        assert safe_to_stop("n", newest, [], None, 10.0) is safe
    undrained = {DRAINED: published("drained"), Version(1, 3): published("active")}
    assert not safe_to_stop("n", undrained, [DRAINED], NodeLoad(10.0, 1, 0, DRAINED), 10.0)
    assert not safe_to_stop("gone", KNOWN | {Version(1, 3): published("drained")}, [], None, 10.0)


# -- members


TTL = 5.0


def an(name: str, state: Any = "ready") -> Instance:
    return Instance(name, name, state=state)


def members(*names: str, gone: str = "", at: float = 100.0) -> Membership:
    found = Membership(TTL, ())
    found.replace([an(name) for name in names], 0.0)
    for name in gone:
        found.delete(name, at)
    found.validate()
    return found


@pytest.mark.parametrize(
    ("there", "gone", "held"),
    [
        ("a", "a", ""),
        ("ab", "ab", "ab"),
        ("abc", "a", ""),
        ("abc", "ab", "ab"),
        ("abcd", "ab", ""),  # half is not more than half
        ("abcde", "ab", ""),
        ("abcde", "abc", "abc"),
    ],
)
def test_more_than_half_at_once_and_two_at_least_is_the_stores_fault(
    there: str, gone: str, held: str
) -> None:
    assert members(*there, gone=gone).missing == set(held)


def test_what_went_a_ttl_ago_counts_no_more() -> None:
    found = members("a", "b", "c", gone="a")
    found.delete("b", 104.9)
    assert found.missing == {"a", "b"}
    found = members("a", "b", "c", gone="a")
    found.delete("b", 105.0)
    assert found.missing == frozenset()


def test_a_member_that_is_missing_stays_for_a_ttl() -> None:
    found = members("a", "b", gone="ab")
    assert found.deadline() == 105.0
    assert found.settle(104.9) == ()
    assert set(found.settle(105.0)) == {"a", "b"}
    assert (found.members, found.deadline()) == ({}, None)


@pytest.mark.parametrize(("at", "held"), [(104.9, True), (105.0, False)])
def test_for_a_ttl_after_the_store_was_away_a_going_is_suspicious(at: float, held: bool) -> None:
    found = members("a", "b", "c")
    found.store_answers_again(100.0)
    found.delete("a", at)
    assert found.missing == ({"a"} if held else set())
    if held:
        assert found.deadline() == at + TTL


def test_who_went_or_is_missing_when_the_store_comes_back_gets_a_ttl() -> None:
    found = members("a", "b", "c", gone="a")
    found.store_answers_again(102.0)
    assert found.missing == {"a"}
    assert found.deadline() == 107.0
    found.store_answers_again(103.0)
    assert found.deadline() == 108.0


def test_who_came_back_by_a_listing_is_not_missing_when_the_store_answers_again() -> None:
    found = members("a", "b", "c", gone="a")
    assert members("a", "b", gone="ab").members == {"a": an("a"), "b": an("b")}
    found.replace([an("a"), an("b"), an("c")], 101.0)
    found.store_answers_again(102.0)
    found.validate()
    assert found.missing == frozenset()


def test_who_was_draining_goes_at_once() -> None:
    found = Membership(TTL, ())
    found.replace([an("a", "draining"), an("b", "draining"), an("c")], 0.0)
    found.delete("a", 1.0)
    found.delete("gone", 1.0)
    assert set(found.members) == {"b", "c"}
    found.replace([], 2.0)
    assert (set(found.members), found.deadline()) == ({"c"}, 7.0)


def test_a_new_listing_gives_a_ttl_and_never_more_than_there_was() -> None:
    found = Membership(TTL, [an("a"), an("b")])
    assert (found.missing, found.deadline()) == ({"a", "b"}, None)
    assert found.settle(1e9) == ()
    found.replace([an("a")], 10.0)
    assert (found.missing, found.deadline()) == ({"b"}, 15.0)
    found.replace([an("a")], 12.0)
    assert found.deadline() == 15.0
    found.replace([an("a"), an("b")], 13.0)
    assert (found.missing, found.deadline()) == (frozenset(), None)
    found.put(an("c"))
    found.replace([an("a"), an("b")], 14.0)
    found.put(an("c"))
    assert found.missing == frozenset()


def test_a_broken_invariant_is_told() -> None:
    found = members("a")
    found._missing["a"] = (an("a"), 1.0)
    with pytest.raises(AssertionError):
        found.validate()


# -- updates


V1, V2 = Version(1, 1), Version(1, 2)


@pytest.mark.parametrize(
    ("state", "sent"),
    [
        (Subscription(), Send(None)),
        (Subscription(have=V1), Send(V1)),
        (Subscription(have=Version(1, 0)), Send(None)),
        (Subscription(have=V1, whole=True), Send(None)),
        (Subscription(have=V2), None),
        (Subscription(have=V2, whole=True, rejected="x"), Send(None)),
        (Subscription(have=V1, sent=V2), None),
        (Subscription(refused=V2, whole=True, not_before=10.1), None),
        (Subscription(refused=V2, whole=True, not_before=10.0), Send(None)),
        (Subscription(refused=V1, whole=True, not_before=99.0), Send(None)),
    ],
)
def test_what_an_agent_is_sent_next(state: Subscription, sent: Send | None) -> None:
    found, after = next_send(state, V2, {V1, V2}, 10.0)
    assert found == sent
    if sent is None:
        assert after == state
    else:
        assert (after.sent, after.whole) == (V2, sent.base is None)


def test_a_whole_update_that_is_refused_is_not_sent_again_for_two_seconds() -> None:
    assert acknowledged(Subscription(sent=V2, whole=True), V2, "", 10.0) == Subscription(have=V2)
    once = acknowledged(Subscription(have=V1, sent=V2), V1, "no", 10.0)
    assert once == Subscription(have=V1, whole=True, rejected="no", not_before=10.0)
    _, again = next_send(once, V2, {V1, V2}, 10.0)
    twice = acknowledged(again, V1, "no", 10.0)
    assert (twice.not_before, twice.refused, twice.whole) == (12.0, V2, True)
    assert next_send(twice, V2, {V1, V2}, 11.9)[0] is None
    assert next_send(twice, V2, {V1, V2}, 12.0)[0] == Send(None)
    unasked = acknowledged(Subscription(whole=True), V1, "no", 10.0)
    assert (unasked.not_before, unasked.refused) == (10.0, None)
    assert Subscription() == Subscription(None, None, False, "", 0.0, None)


# -- documents


ROUTE_TEXT = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: r}
spec: {backends: [{model: m}, {model: y, name: k, instances: [n/0]}]}
"""


def test_a_document_that_did_not_change_keeps_its_revision() -> None:
    before = {"a": StoredDocument("1", 3, 2), "b": StoredDocument("2", 3, 1)}
    assert stored(before, {"a": "1", "b": "3", "c": "4"}, 9) == {
        "a": StoredDocument("1", 3, 2),
        "b": StoredDocument("3", 9, 1),
        "c": StoredDocument("4", 9, 9),
    }


def test_a_backend_that_nobody_can_answer_for_is_warned_of() -> None:
    node_class = ROUTE_TEXT.partition("kind:")[0] + "kind: NodeClass\nmetadata: {name: c}\nspec: {}\n"
    typed = [one.parsed for text in (ROUTE_TEXT, node_class) for one in load([("f", text)]).documents]

    def warned(**models: tuple[str, ...]) -> list[str]:
        there = [
            Instance(f"{node}/0", node, models=tuple(map(MemberModel, has))) for node, has in models.items()
        ]
        return [one.rpartition(" ")[2] for one in unserved(typed, there)]

    assert warned() == ["m", "y"]
    assert warned(n=("m", "y")) == []
    assert warned(n=("m",), o=("y",)) == ["y"]
    assert warned(o=("m",)) == ["y"]


def test_what_an_apply_changes() -> None:
    applied, wanted = {"a": "1\n", "b": "2\n"}, {"b": "3\n", "c": "4\n"}
    found = change(applied, wanted, prune=False)
    assert (found.documents, found.changed, found.removed) == (applied | wanted, ("b", "c"), ())
    pruned = change(applied, wanted, prune=True)
    assert (pruned.documents, pruned.changed, pruned.removed) == (wanted, ("b", "c"), ("a",))
    assert pruned.touched == ("b", "c", "a")
    assert pruned.diff == (
        "--- applied/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n"
        "--- applied/b\n+++ new/b\n@@ -1 +1 @@\n-2\n+3\n"
        "--- /dev/null\n+++ new/c\n@@ -0,0 +1 @@\n+4\n"
    )
    assert change(applied, applied, prune=True).diff == ""


# -- certificates


@pytest.mark.parametrize(("jitter", "at"), [(0.0, 1065.0), (0.5, 1070.0), (1.0, 1075.0)])
def test_a_certificate_is_renewed_at_70_percent_of_its_life(jitter: float, at: float) -> None:
    assert renew_at(1000.0, 1100.0, jitter) == pytest.approx(at)


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (979.9, CertificateState.NOT_YET_VALID),
        (980.0, CertificateState.FRESH),
        (1069.9, CertificateState.FRESH),
        (1070.0, CertificateState.DUE),
        (1120.0, CertificateState.DUE),
        (1120.1, CertificateState.EXPIRED),
    ],
)
def test_the_state_of_a_certificate(now: float, state: CertificateState) -> None:
    assert certificate_state(1000.0, 1100.0, now, 0.5) is state


# -- the store's watch


AT = WatchPosition(8, 1, 5)


def header(revision: int, *, cluster: int = 1, term: int = 5) -> WatchHeader:
    return WatchHeader(cluster, revision, term)


def test_a_listing_is_followed_from_the_next_revision() -> None:
    assert listed(header(7)) == WatchPosition(8, 1, 5)


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (header(7), ""),
        (header(6), "from 7 to 6"),
        (header(9, term=6), ""),
        (header(9, term=4), "from 5 to 4"),
        (header(9, cluster=2), "another cluster"),
    ],
)
def test_history_goes_on_in_the_same_store_alone(answer: WatchHeader, lost: str) -> None:
    found = resumed(AT, answer)
    if lost:
        assert isinstance(found, WatchLost)
        assert lost in found.reason
    else:
        assert found == WatchPosition(8, 1, answer.raft_term)


def event(revision: int) -> KeyValue:
    return KeyValue("/k", b"", revision, revision)


@pytest.mark.parametrize(
    ("response", "following"),
    [
        (Response(header(9)), 10),
        (Response(header(7)), 8),
        (Response(header(9), created=True), 8),
        (Response(header(9), watch_id=-1), 8),
        (Response(header(9), watch_id=-2), 10),
        (Response(header(9), watch_id=1), 10),
        (Response(header(12), events=(event(8), event(10))), 11),
        (Response(header(12), events=(event(7),)), 8),
        (Response(header(12), created=True, events=(event(8),)), 9),
    ],
)
def test_where_a_watch_stands_after_an_answer(response: Response, following: int) -> None:
    found, changes = received(AT, response)
    assert found == WatchPosition(following, 1, 5)
    fresh = [one.mod_revision for one in response.events if one.mod_revision >= 8]
    assert [one.revision for one in changes] == fresh


def test_an_event_from_before_the_first_revision_moves_nothing() -> None:
    start = WatchPosition(1, 1, 5)
    assert received(start, Response(header(1), events=(event(0),))) == (start, ())


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (Response(header(6)), WatchLost("revision went back from 7 to 6")),
        (Response(header(9), cancelled=True), WatchLost("cancelled by the store")),
        (Response(header(9), cancelled=True, cancel_reason="x"), WatchLost("x")),
        (
            Response(header(9), cancelled=True, compact_revision=5),
            WatchLost("compacted up to revision 5"),
        ),
        (
            Response(header(9), cancelled=True, cancel_reason="etcd: permission denied"),
            WatchRefused("etcd: permission denied"),
        ),
    ],
)
def test_when_a_watch_is_lost(response: Response, verdict: WatchLost | WatchRefused) -> None:
    assert received(AT, response) == (verdict, ())
