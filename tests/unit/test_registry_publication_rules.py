"""Snapshots built, versioned and sent: pure parts, and agents that lose, refuse and lag."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.node_class import NodeClass, ResourceLimits
from bridge_core.ring import ring_of
from bridge_core.snapshot import Instance, Snapshot, SnapshotRejected, Version, apply
from bridge_core.store.api import Changes, Deleted, KeyListing, KeyValue
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.publication import builder
from bridge_registry.publication.hub import KEPT, Hub
from bridge_registry.publication.subscription_rules import (
    RESEND_S,
    Send,
    Subscription,
    acknowledged,
    next_send,
)
from bridge_registry.records import ConfigRecord, NodeRecord, SerialRecord, encode, pack
from bridge_registry.traffic.config_rules import change, stored
from bridge_registry.upkeep import ended

ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: r}
spec: {backends: [{model: m}]}
"""


def item(key: str, value: object, revision: int = 5) -> KeyValue:
    raw = value if isinstance(value, bytes) else encode(value)  # type: ignore[arg-type]  # a struct
    return KeyValue(f"/bridge/v1/{key}", raw, revision, revision)


def config(texts: dict[str, str]) -> KeyValue:
    return item("config", pack(ConfigRecord(1, stored({}, texts, 1))))


def member(node: str, n: int = 0, **more: object) -> KeyValue:
    return item(f"members/{node}/{n}", Instance(id=f"{node}/{n}", node=node, **more))  # type: ignore[arg-type]


def build(table: MeshTable) -> dict[str, bytes]:
    return builder.entries(
        trust_domain="m",
        spec=table.mesh_spec,
        routes=table.routes,
        nodes=table.nodes,
        members=table.membership.members.values(),
        revoked=table.revoked,
        node_classes=table.node_classes,
    )


def test_an_applied_node_class_is_published_and_goes_with_its_document() -> None:
    text = (
        "apiVersion: bridge.deepseek.io/v1\nkind: NodeClass\nmetadata: {name: c}\n"
        "spec: {nodeLabels: {a: b}, limits: {memoryMax: 1GiB}}\n"
    )
    table = MeshTable(())
    table.apply(KeyListing((config({"NodeClass/c": text}),), 3), 0.0)
    found = Snapshot(Version(1, 3), build(table))
    assert found.node_classes == {"c": NodeClass("c", {"a": "b"}, ResourceLimits(memory_max=1 << 30))}
    table.apply(KeyListing((), 4), 0.0)
    assert Snapshot(Version(1, 4), build(table)).node_classes == {}


def test_a_table_becomes_entries() -> None:
    table = MeshTable(())
    table.apply(
        KeyListing(
            (
                item("nodes/a", NodeRecord("a", peer="h:1", token="secret-id", key="k")),
                item("nodes/gone", NodeRecord("gone", state="revoked")),
                member("a"),
                member("gone"),
                member("stranger"),
                config({"ModelRoute/r": ROUTE}),
                item("ca/revoked/ff", SerialRecord("x", 1.0)),
                item("tokens/t", b"whatever"),
            ),
            9,
        ),
        0.0,
    )
    snapshot = Snapshot(Version(1, table.revision), build(table))
    assert set(snapshot.entries) == {"mesh", "node/a", "node/gone", "instance/a/0", "route/r"}
    assert snapshot.mesh.revoked_serials == ("ff",)
    assert snapshot.nodes["a"].peer == "h:1"
    assert b"secret-id" not in snapshot.entries["node/a"]


def test_an_instance_that_claims_another_place_is_ignored() -> None:
    table = MeshTable(())
    lie = item("members/a/0", Instance(id="b/0", node="b"))
    table.apply(KeyListing((lie, item("members/a/1", b"{")), 3), 0.0)
    assert table.membership.members == {}
    assert set(table.faults) == {"/bridge/v1/members/a/0", "/bridge/v1/members/a/1"}
    table.apply(Changes((member("a"),), 4), 0.0)
    assert set(table.membership.members) == {"a/0"}
    assert set(table.faults) == {"/bridge/v1/members/a/1"}


def test_leases_that_end_while_no_store_guard_lives_are_not_believed() -> None:
    table = MeshTable(())
    table.apply(KeyListing((member("a"), item("guards/r1", b"{}"), item("guards/r2", b"{}")), 3), 0.0)
    for guard in ("r1", "r2"):
        table.apply(Changes((Deleted(f"/bridge/v1/guards/{guard}", 4),), 4), 1.0)
    table.apply(Changes((Deleted("/bridge/v1/members/a/0", 5),), 5), 3.0)
    assert set(table.membership.members) == {"a/0"}
    assert table.membership.settle(100.0) == ()
    table.apply(Changes((item("guards/r1", b"{}"),), 6), 100.0)
    assert table.membership.settle(106.0) == ("a/0",)


def test_a_mesh_that_never_had_a_store_guard_believes_as_before() -> None:
    table = MeshTable(())
    table.apply(KeyListing((member("a"), member("b"), member("c")), 3), 0.0)
    table.apply(Changes((Deleted("/bridge/v1/members/a/0", 5),), 5), 3.0)
    assert set(table.membership.members) == {"b/0", "c/0"}


def test_a_bad_document_keeps_the_last_good_one() -> None:
    table = MeshTable(())
    table.apply(KeyListing((config({"ModelRoute/r": ROUTE}),), 3), 0.0)
    table.apply(Changes((config({"ModelRoute/r": "kind: Foo"}),), 4), 0.0)
    assert [route.metadata.name for route in table.routes] == ["r"]
    assert "not a known kind" in table.faults["/bridge/v1/config/ModelRoute/r"]
    table.apply(Changes((item("config", b"rubbish"),), 5), 0.0)
    assert [route.metadata.name for route in table.routes] == ["r"]
    assert "cannot be unpacked" in table.faults["/bridge/v1/config"]
    table.apply(Changes((config({}),), 6), 0.0)
    assert (table.routes, table.faults) == ([], {})
    table.apply(Changes((config({"ModelRoute/r": ROUTE}),), 7), 0.0)
    assert table.created == {"ModelRoute/r": 1}
    table.apply(KeyListing((), 8), 0.0)
    assert (table.routes, table.texts, table.created) == ([], {}, {})


def test_a_new_listing_replaces_what_was() -> None:
    table = MeshTable(())
    table.apply(
        KeyListing((item("nodes/a", NodeRecord("a")), item("ca/revoked/1", SerialRecord("x", 1.0))), 3), 0.0
    )
    table.apply(KeyListing((item("nodes/b", NodeRecord("b")),), 8), 0.0)
    assert (set(table.nodes), table.revoked, table.revision) == ({"b"}, {}, 8)


@pytest.mark.parametrize(
    ("last", "epoch", "revision", "version"),
    [
        ((3, 10), 3, 11, (3, 11)),
        ((3, 10), 3, 10, (3, 11)),  # grace ended: no revision of its own
        ((3, 10), 3, 4, (3, 11)),  # the store was restored
        ((3, 10), 5, 2, (5, 2)),
        ((9, 10), 5, 2, (9, 11)),  # restored to before this leader's time
    ],
)
def test_versions_only_go_up(
    last: tuple[int, int], epoch: int, revision: int, version: tuple[int, int]
) -> None:
    assert builder.next_version(Version(*last), epoch, revision) == Version(*version)


def test_a_subscription_sends_one_at_a_time_and_the_newest() -> None:
    one, two, three = Version(1, 1), Version(1, 2), Version(1, 3)
    send, state = next_send(Subscription(), one, {one}, 0.0)
    assert send == Send(None)
    assert next_send(state, two, {one, two}, 0.0)[0] is None
    state = acknowledged(state, one, "", 0.0)
    send, state = next_send(state, three, {one, two, three}, 0.0)
    assert send == Send(one)
    state = acknowledged(state, three, "", 0.0)
    assert next_send(state, three, {three}, 0.0)[0] is None


def test_secrets_that_were_not_told_go_also_with_an_update_that_changes_nothing() -> None:
    one, two = Version(1, 1), Version(1, 2)
    state = Subscription(have=one)
    assert next_send(state, one, {one}, 0.0)[0] is None
    send, state = next_send(state, one, {one}, 0.0, untold=True)
    assert send == Send(one)
    assert next_send(state, two, {one, two}, 0.0, untold=True)[0] is None  # one at a time
    state = acknowledged(state, one, "", 0.0)
    assert next_send(state, one, {one}, 0.0)[0] is None
    # Not sooner after a rejection than anything else.
    refused = acknowledged(Subscription(have=one, whole=True, sent=two), one, "digest", 0.0)
    assert next_send(refused, two, {one, two}, 0.0, untold=True)[0] is None


def test_an_unknown_base_gets_a_whole_snapshot() -> None:
    known = Version(2, 1)
    assert next_send(Subscription(have=Version(1, 7)), known, {known}, 0.0)[0] == Send(None)


def test_a_rejection_gets_a_whole_one_and_its_rejection_a_pause() -> None:
    one, two, three = Version(1, 1), Version(1, 2), Version(1, 3)
    _, state = next_send(Subscription(have=one), two, {one, two}, 0.0)
    state = acknowledged(state, one, "digest", 0.0)
    send, state = next_send(state, two, {one, two}, 0.0)
    assert send == Send(None)
    state = acknowledged(state, one, "digest", 10.0)
    assert next_send(state, two, {one, two}, 10.0)[0] is None
    assert next_send(state, three, {one, two, three}, 10.0)[0] == Send(None)
    assert next_send(state, two, {one, two}, 10.0 + RESEND_S)[0] == Send(None)


@given(st.integers(0, 2**32))
def test_lossy_agents_end_at_the_published_snapshot(seed: int) -> None:
    """Publications, lost streams, corrupt updates and forgotten bases, in any order."""
    rng = random.Random(seed)
    entries: dict[str, bytes] = {}
    hub = Hub(Snapshot(Version(), {}))
    agent, state, revision = Snapshot(Version(), {}), Subscription(), 0

    def exchange(*, corrupt: bool) -> None:
        nonlocal agent, state
        send, state = next_send(state, hub.current.version, hub.known, float(revision * 100))
        if send is None:
            return
        delta = hub.delta(send.base)
        if corrupt:
            delta = type(delta)(
                delta.version, delta.base, {**delta.changed, "mesh": b'{"ring_points":8}'}, (), b""
            )
        try:
            agent = apply(agent, delta)
            state = acknowledged(state, agent.version, "", float(revision * 100))
        except SnapshotRejected as fault:
            state = acknowledged(state, agent.version, str(fault), float(revision * 100))

    for _ in range(rng.randrange(1, 80)):
        action = rng.random()
        if action < 0.6:
            revision += 1
            key = f"instance/n{rng.randrange(5)}/0"
            if rng.random() < 0.3:
                entries.pop(key, None)
            else:
                name = key.removeprefix("instance/")
                entries[key] = b'{"id":"%s","node":"%s","slots":%d}' % (
                    name.encode(),
                    name.partition("/")[0].encode(),
                    revision,
                )
            hub.publish(Snapshot(Version(1, revision), dict(entries)))
        elif action < 0.7:
            state = Subscription(have=agent.version)  # the stream broke; a new one begins
        else:
            exchange(corrupt=action > 0.9)
    assert len(hub.known) <= KEPT
    revision += 1
    hub.publish(Snapshot(Version(1, revision), dict(entries)))
    for _ in range(3):
        exchange(corrupt=False)
    assert agent.version == hub.current.version
    assert agent.entries == hub.current.entries
    assert ring_of(agent).digest == hub.ring_digest


def test_the_ring_is_kept_while_its_shape_is() -> None:
    def with_slots(revision: int, slots: int, weight: int = 100) -> Snapshot:
        raw = b'{"id":"a/0","node":"a","slots":%d,"weight":%d}' % (slots, weight)
        return Snapshot(Version(1, revision), {"instance/a/0": raw})

    hub = Hub(with_slots(1, 1))
    first = hub.ring_digest
    hub.publish(with_slots(2, 7))
    assert hub.ring_digest == first
    hub.publish(with_slots(3, 7, weight=50))
    assert hub.ring_digest != first


def test_a_change_says_what_is_new_different_and_gone() -> None:
    applied = {"Mesh/mesh": "a: 1\n", "ModelRoute/x": "b: 1\n"}
    kept = change(applied, {"ModelRoute/x": "b: 2\n"}, prune=False)
    assert (kept.changed, kept.removed) == (("ModelRoute/x",), ())
    assert kept.diff == "--- applied/ModelRoute/x\n+++ new/ModelRoute/x\n@@ -1 +1 @@\n-b: 1\n+b: 2\n"
    pruned = change(applied, {"ModelRoute/x": "b: 1\n", "ModelRoute/y": "c: 1\n"}, prune=True)
    assert (pruned.changed, pruned.removed) == (("ModelRoute/y",), ("Mesh/mesh",))
    assert pruned.documents == {"ModelRoute/x": "b: 1\n", "ModelRoute/y": "c: 1\n"}
    assert change(applied, applied, prune=True).diff == ""


def test_ended_records_are_found_and_nothing_else_is() -> None:
    items = [
        item("ca/serials/1", SerialRecord("x", 10.0)),
        item("ca/serials/2", SerialRecord("x", 30.0)),
        item("ca/serials/3", b"{}"),
        item("ca/serials/4", b"rubbish"),
    ]
    assert [found.key[-1] for found in ended(items, 20.0)] == ["1"]
    assert ended(items, 20.0, remembered_s=15.0) == []
