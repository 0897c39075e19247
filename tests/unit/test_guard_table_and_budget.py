"""What the store guard knows of the mesh, and how much it lets one node ask for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_core import keyspace
from bridge_core.store.api import Changes, Deleted, KeyListing, KeyValue
from bridge_registry.records import NodeRecord, encode
from bridge_registry.store_guard import budget_rules as budget
from bridge_registry.store_guard.budget_rules import NodeBudget
from bridge_registry.store_guard.guard_rules import lease_key
from bridge_registry.store_guard.guard_table import GuardTable


def item(key: str, value: bytes = b"{}") -> KeyValue:
    return KeyValue(key, value, 1, 1)


def test_nothing_is_decided_before_everything_was_listed() -> None:
    table = GuardTable()
    for prefix in (keyspace.NODES, keyspace.REVOKED):
        table.apply(prefix, KeyListing((), 1))
        assert not table.whole
    table.apply(keyspace.LEASES, KeyListing((), 1))
    assert table.whole


def test_nodes_revocations_and_leases_come_and_go() -> None:
    table = GuardTable()
    nodes = (
        item(keyspace.NODES + "a", encode(NodeRecord("a"))),
        item(keyspace.NODES + "b", encode(NodeRecord("b", state="revoked"))),
    )
    table.apply(keyspace.NODES, KeyListing(nodes, 1))
    assert table.nodes == {"a": "active", "b": "revoked"}
    table.apply(keyspace.REVOKED, Changes((item(keyspace.REVOKED + "5e"),), 2))
    assert table.is_revoked("5e")
    assert table.revoked == 1
    table.apply(keyspace.LEASES, Changes((item(lease_key(7), b"a"), item(lease_key(8), b"a")), 3))
    assert table.leases == {7: "a", 8: "a"}
    assert table.leases_of("a") == 2
    table.apply(keyspace.LEASES, Changes((Deleted(lease_key(7), 4), Deleted(lease_key(9), 4)), 4))
    assert (table.leases, table.leases_of("a")) == ({8: "a"}, 1)
    table.apply(keyspace.LEASES, KeyListing((item(lease_key(8), b"a"),), 5))
    assert table.leases_of("a") == 1
    table.apply(keyspace.LEASES, KeyListing((), 6))
    assert (table.leases, table.leases_of("a")) == ({}, 0)
    table.apply(keyspace.NODES, KeyListing(nodes[:1], 7))
    table.apply(keyspace.REVOKED, KeyListing((), 7))
    assert (table.nodes, table.is_revoked("5e")) == ({"a": "active"}, False)


def test_a_record_that_cannot_be_read_lets_nobody_in() -> None:
    table = GuardTable()
    for value in (b"{", b"\xff", b"[" * 5_000, b'{"state":"\xff"}'):
        table.apply(keyspace.NODES, Changes((item(keyspace.NODES + "a", value),), 1))
        assert table.nodes["a"] == "revoked"


def test_a_node_that_asks_too_often_waits_and_is_served_again() -> None:
    node = NodeBudget(0.0)
    assert sum(node.take(0.0, 10) for _ in range(500)) == budget.REQUEST_BURST
    assert not node.take(0.01, 10)
    assert node.take(0.06, 10)
    assert node.take(60.0, 10)


def test_a_node_that_writes_much_waits_and_is_served_again() -> None:
    node = NodeBudget(0.0)
    assert not node.take(0.0, int(budget.BYTE_BURST) + 1)
    assert node.take(0.0, int(budget.BYTE_BURST))
    assert not node.take(0.5, 32 * 1024)
    assert node.take(1.5, 32 * 1024)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1024 * 1024)), max_size=200))
def test_what_a_node_may_write_is_bounded_over_any_time(asked: list[tuple[float, int]]) -> None:
    node, now, written, count = NodeBudget(0.0), 0.0, 0, 0
    for passed, size in asked:
        now += passed
        if node.take(now, size):
            written += size
            count += 1
    assert written <= budget.BYTE_BURST + now * budget.BYTES_PER_S + 1
    assert count <= budget.REQUEST_BURST + now * budget.REQUESTS_PER_S + 1


def test_a_budget_at_rest_is_as_good_as_new() -> None:
    node = NodeBudget(0.0)
    assert node.idle(0.0)
    node.take(0.0, 1)
    assert not node.idle(0.0)
    assert node.idle(1_000.0)
    node.running = 1
    assert not node.idle(1_000.0)
