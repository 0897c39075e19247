"""What the store guard lets through: a table of each refusal, and properties over any request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.identity import SpiffeId
from bridge_core.tls import Peer
from bridge_registry.store_guard import guard_rules as rules
from bridge_registry.store_guard.guard_rules import Allowed, Reason, Refused, decide
from bridge_wire.etcd.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    StatusRequest,
    TxnRequest,
)

MESH = "bridge.local"
OWN, OTHERS = 7, 8
RECORD = b"/bridge/v1/members/one/0"


class State:
    """Two nodes with a lease each; one more that is revoked."""

    def __init__(self, leases: int = 1) -> None:
        self.nodes = {"one": "active", "two": "drained", "out": "revoked"}
        self.leases = {OWN: "one", OTHERS: "two"}
        self.held = leases

    def is_revoked(self, serial: str) -> bool:
        return serial == "bad"

    def leases_of(self, node: str) -> int:
        return self.held


def peer(kind: str = "node", name: str = "one", domain: str = MESH, serial: str = "5e") -> Peer:
    return Peer(SpiffeId(domain, kind, name), serial)


def put(key: bytes = RECORD, lease: int = OWN, **more: object) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, value=b"{}", lease=lease, **more))  # type: ignore[arg-type]


def delete(key: bytes = RECORD, **more: object) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, **more))  # type: ignore[arg-type]


def txn(*ops: RequestOp, **more: object) -> TxnRequest:
    return TxnRequest(success=ops, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (None, Reason.NO_IDENTITY),
        (peer(domain="other.mesh"), Reason.OTHER_MESH),
        (peer(kind="client"), Reason.NOT_A_NODE),
        (peer(kind="admin"), Reason.NOT_A_NODE),
        (peer(kind="registry"), Reason.NOT_A_NODE),
        (peer(serial="bad"), Reason.REVOKED),
        (peer(name="out"), Reason.REVOKED),
        (peer(name="gone"), Reason.NOT_ENROLLED),
    ],
)
@pytest.mark.parametrize(
    "request_",
    [
        txn(put()),
        LeaseGrantRequest(TTL=5),
        LeaseKeepAliveRequest(ID=OWN),
        RangeRequest(key=RECORD),
        StatusRequest(),
    ],
)
def test_only_an_enrolled_node_of_this_mesh_is_let_in(
    who: Peer | None, reason: Reason, request_: rules.Request
) -> None:
    verdict = decide(who, request_, MESH, State())
    assert isinstance(verdict, Refused)
    assert verdict.reason is reason


NESTED = RequestOp(request_txn=txn(put()))
EQUAL = Compare(key=RECORD, target=Compare.VERSION, version=0)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (txn(NESTED), Reason.NESTED),
        (txn(put(), NESTED), Reason.NESTED),
        (txn(put(), failure=[NESTED]), Reason.CONDITIONAL),
        (txn(put(), failure=[put()]), Reason.CONDITIONAL),
        (txn(put(), compare=[EQUAL]), Reason.CONDITIONAL),
        (txn(), Reason.OUT_OF_BOUNDS),
        (txn(*[put()] * 127), Reason.OUT_OF_BOUNDS),
        (txn(RequestOp()), Reason.MALFORMED),
        (txn(RequestOp(request_range=RangeRequest(key=RECORD))), Reason.MALFORMED),
        (txn(put(prev_kv=True)), Reason.MALFORMED),
        (txn(put(ignore_lease=True)), Reason.MALFORMED),
        (txn(put(ignore_value=True)), Reason.MALFORMED),
        (txn(put(lease=0)), Reason.FOREIGN_LEASE),
        (txn(put(lease=OTHERS)), Reason.FOREIGN_LEASE),
        (txn(put(), put(lease=OTHERS)), Reason.FOREIGN_LEASE),
        (txn(put(lease=99)), Reason.LEASE_GONE),
        (txn(put(lease=-7)), Reason.LEASE_GONE),
        (txn(put(b"/bridge/v1/tokens/evil")), Reason.FOREIGN_KEY),
        (txn(put(b"/bridge/v1/members/two/0")), Reason.FOREIGN_KEY),
        (txn(put(b"/bridge/v1/members/one")), Reason.FOREIGN_KEY),
        (txn(put(b"/bridge/v1/members/one/")), Reason.FOREIGN_KEY),
        (txn(put(b"/bridge/v1/members/one/00")), Reason.FOREIGN_KEY),
        (txn(put(b"/bridge/v1/members/one/256")), Reason.FOREIGN_KEY),
        (txn(put(b"/bridge/v1/members/one/1000000")), Reason.FOREIGN_KEY),
        (txn(put(b"/bridge/v1/members/one/\xff")), Reason.FOREIGN_KEY),
        (txn(put("/bridge/v1/members/one/\u0663".encode())), Reason.FOREIGN_KEY),
        (txn(put(b"/bridge/v1/members/one/../two/0")), Reason.FOREIGN_KEY),
        (txn(put(b"")), Reason.FOREIGN_KEY),
        (txn(delete(b"/bridge/v1/members/two/0")), Reason.FOREIGN_KEY),
        (txn(delete(range_end=b"\0")), Reason.MALFORMED),
        (txn(delete(prev_kv=True)), Reason.MALFORMED),
        (
            txn(RequestOp(request_put=PutRequest(key=RECORD, value=b"x" * 131_073, lease=OWN))),
            Reason.OUT_OF_BOUNDS,
        ),
        (LeaseGrantRequest(TTL=5, ID=OTHERS), Reason.MALFORMED),
        (LeaseGrantRequest(TTL=0), Reason.OUT_OF_BOUNDS),
        (LeaseGrantRequest(TTL=-1), Reason.OUT_OF_BOUNDS),
        (LeaseGrantRequest(TTL=301), Reason.OUT_OF_BOUNDS),
        (LeaseKeepAliveRequest(ID=OTHERS), Reason.FOREIGN_LEASE),
        (LeaseKeepAliveRequest(ID=99), Reason.LEASE_GONE),
        (LeaseKeepAliveRequest(), Reason.FOREIGN_LEASE),
        (LeaseRevokeRequest(ID=OTHERS), Reason.FOREIGN_LEASE),
        (LeaseRevokeRequest(ID=99), Reason.LEASE_GONE),
        (RangeRequest(key=b"/bridge/v1/ca/authorities"), Reason.FOREIGN_KEY),
        (RangeRequest(key=b"\0", range_end=b"\0"), Reason.FOREIGN_KEY),
        (RangeRequest(key=RECORD, range_end=b"\0"), Reason.FOREIGN_KEY),
        (RangeRequest(key=RECORD, range_end=b"/bridge/v1/members/one1"), Reason.FOREIGN_KEY),
        (RangeRequest(key=RECORD, range_end=RECORD), Reason.FOREIGN_KEY),
        (RangeRequest(key=b"/bridge/v1/members/one0"), Reason.FOREIGN_KEY),
        (RangeRequest(key=RECORD, revision=3), Reason.MALFORMED),
    ],
)
def test_what_a_node_does_not_need_is_refused(request_: rules.Request, reason: Reason) -> None:
    verdict = decide(peer(), request_, MESH, State())
    assert isinstance(verdict, Refused), request_
    assert verdict.reason is reason
    assert verdict.words


def test_leases_of_one_node_are_bounded() -> None:
    verdict = decide(peer(), LeaseGrantRequest(TTL=5), MESH, State(leases=8))
    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.OUT_OF_BOUNDS


@pytest.mark.parametrize(
    "request_",
    [
        LeaseGrantRequest(TTL=1),
        LeaseGrantRequest(TTL=300),
        LeaseKeepAliveRequest(ID=OWN),
        LeaseRevokeRequest(ID=OWN),
        StatusRequest(),
        RangeRequest(key=RECORD),
        RangeRequest(key=b"/bridge/v1/members/one/", range_end=b"/bridge/v1/members/one0", count_only=True),
    ],
)
def test_what_a_node_needs_is_sent_on_as_it_is(request_: rules.Request) -> None:
    assert decide(peer(), request_, MESH, State()) == Allowed("one", request_)


def test_a_write_is_sent_on_under_the_guards_own_conditions() -> None:
    verdict = decide(peer(), txn(put(), delete(b"/bridge/v1/members/one/255")), MESH, State())
    assert isinstance(verdict, Allowed)
    sent = verdict.request
    assert isinstance(sent, TxnRequest)
    assert list(sent.success) == [put(), delete(b"/bridge/v1/members/one/255")]
    assert list(sent.compare) == rules.conditions("one", "5e")
    assert [(compare.key, compare.result) for compare in sent.compare] == [
        (b"/bridge/v1/ca/revoked/5e", Compare.EQUAL),
        (b"/bridge/v1/nodes/one", Compare.GREATER),
    ]


def test_a_lease_that_the_store_was_asked_for_counts() -> None:
    state = rules.LookedUp(State(), 99, "one")
    assert isinstance(decide(peer(), LeaseKeepAliveRequest(ID=99), MESH, state), Allowed)
    verdict = decide(peer(), LeaseKeepAliveRequest(ID=99), MESH, rules.LookedUp(State(), 99, "two"))
    assert isinstance(verdict, Refused)


def test_fields_that_are_not_known_do_not_travel() -> None:
    hidden = txn(put()).SerializeToString() + b"\xa2\x06\x02hi"  # field 100
    verdict = decide(peer(), TxnRequest.FromString(hidden), MESH, State())
    assert isinstance(verdict, Allowed)
    assert b"hi" not in verdict.request.SerializeToString()


KEYS = st.one_of(
    st.sampled_from(
        [RECORD, b"/bridge/v1/members/one/17", b"/bridge/v1/members/two/0", b"/bridge/v1/tokens/x", b""]
    ),
    st.binary(max_size=12).map(lambda tail: b"/bridge/v1/members/one/" + tail),
    st.binary(max_size=40),
)
LEASES = st.sampled_from([0, OWN, OTHERS, 99, -1])
PUTS = st.builds(PutRequest, key=KEYS, value=st.binary(max_size=9), lease=LEASES, ignore_lease=st.booleans())
DELETES = st.builds(DeleteRangeRequest, key=KEYS, range_end=st.sampled_from([b"", b"\0", b"/z"]))
RANGES = st.builds(
    RangeRequest, key=KEYS, range_end=st.one_of(st.just(b""), KEYS), revision=st.integers(0, 2)
)
FLAT = st.one_of(
    st.builds(RequestOp, request_put=PUTS),
    st.builds(RequestOp, request_delete_range=DELETES),
    st.builds(RequestOp, request_range=RANGES),
)
OPS = st.recursive(
    FLAT,
    lambda inner: st.builds(lambda ops: RequestOp(request_txn=txn(*ops)), st.lists(inner, max_size=3)),
    max_leaves=6,
)


@given(st.lists(OPS, max_size=4), st.lists(OPS, max_size=2))
def test_whatever_is_let_through_touches_the_nodes_own_records_alone(
    success: list[RequestOp], failure: list[RequestOp]
) -> None:
    verdict = decide(peer(), txn(*success, failure=failure), MESH, State())
    if isinstance(verdict, Refused):
        return
    assert isinstance(verdict.request, TxnRequest)
    assert not verdict.request.failure
    assert len(verdict.request.compare) == 2
    for op in verdict.request.success:
        match op.WhichOneof("request"):
            case "request_put":
                assert op.request_put.lease == OWN
                key = op.request_put.key
            case "request_delete_range":
                assert not op.request_delete_range.range_end
                key = op.request_delete_range.key
            case other:
                raise AssertionError(other)
        prefix, _, number = key.decode("ascii").rpartition("/")
        assert prefix == "/bridge/v1/members/one"
        assert 0 <= int(number) < rules.MAX_INSTANCES


@given(RANGES)
def test_whatever_is_read_is_the_nodes_own(request_: RangeRequest) -> None:
    verdict = decide(peer(), request_, MESH, State())
    if isinstance(verdict, Allowed):
        assert isinstance(verdict.request, RangeRequest)
        assert verdict.request.key.startswith(b"/bridge/v1/members/one/")
        assert verdict.request.range_end in {b"", request_.range_end}
        assert verdict.request.range_end <= b"/bridge/v1/members/one0"


def test_a_record_has_as_many_bytes_as_are_said_and_a_refusal_says_which_key() -> None:
    def record(size: int) -> TxnRequest:
        return txn(RequestOp(request_put=PutRequest(key=RECORD, value=b"x" * size, lease=OWN)))

    assert isinstance(decide(peer(), record(131_072), MESH, State()), Allowed)
    assert decide(peer(), record(131_073), MESH, State()) == Refused(
        Reason.OUT_OF_BOUNDS, "a record has at most 131072 bytes"
    )
    assert decide(peer(), txn(put(b"/a" * 99)), MESH, State()) == Refused(
        Reason.FOREIGN_KEY, f"'{'/a' * 40}' is not a record of one"
    )
