"""What a policy sees, what the outside is told, and where requests for a scaled model go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.routing.choose import Load, choose
from bridge_agent.routing.view import Index
from bridge_core.errors import BridgeError
from bridge_core.holders import ModelHolders
from bridge_core.names import canonical
from bridge_core.node_class import NodeClass
from bridge_core.snapshot import (
    Backend,
    Instance,
    MemberModel,
    Node,
    Route,
    RoutePolicy,
    Snapshot,
    SnapshotRejected,
    Version,
    apply,
    encode_entry,
    whole,
)
from bridge_registry.membership.load_book import LoadReports as Reports
from bridge_registry.membership.load_book import ModelFigures, NodeLoad, NodeLoadReport
from bridge_registry.rollouts.plan import RolloutPlan, Step
from bridge_registry.rollouts.rollout_rules import RolloutPosition
from bridge_registry.scaling import outside_rules
from bridge_registry.scaling.outside_rules import Asked, asked_of
from bridge_registry.scaling.plan import Loading, ScalingPlan, ScalingPosition, Seen, Sight
from bridge_registry.scaling.sight_rules import Mesh, sight
from bridge_wire.v1 import registry_pb2 as pb

X = canonical("x")
PLAN = ScalingPlan("p", "x", max=3)


def instance(name: str, **fields: Any) -> Instance:
    return Instance(f"{name}/0", name, models=(MemberModel("x:latest"),), slots=4, **fields)


def mesh(names: str = "abc", holders: ModelHolders | None = None, **fields: dict[str, Any]) -> Index:
    entries = {f"node/{name}": encode_entry(Node(name, peer=f"{name}:1")) for name in names}
    for name in names:
        entries[f"instance/{name}/0"] = encode_entry(instance(name, **fields.get(name, {})))
    if holders is not None:
        entries["holders/p"] = encode_entry(holders)
    return Index("me", Snapshot(Version(1, 1), entries), ())


def order(index: Index, key: bytes, load: Load | None = None) -> list[str]:
    return [one.node for one in choose(index, X, key, load or Load({})).candidates]


# -- routing


@pytest.mark.parametrize("strategy", ["ring_hash", "least_request", "round_robin", "residency"])
def test_requests_go_to_the_active_holders_and_to_others_only_after_them(strategy: Any) -> None:
    index = mesh("abcd", ModelHolders("p", "x", active=("b/0", "d/0"), held=("a/0",)))
    index.defaults = RoutePolicy(strategy=strategy)
    for number in range(40):
        found = order(index, b"%d" % number, Load({"b/0": 100, "d/0": 100}, draw=number))
        assert set(found[:2]) == {"b", "d"}
        assert set(found[2:]) == {"a", "c"}


def test_without_an_active_holder_that_is_available_everybody_serves() -> None:
    keys = [b"%d" % number for number in range(30)]
    plain = [order(mesh(), key) for key in keys]
    assert [order(mesh("abc", ModelHolders("p", "x")), key) for key in keys] == plain
    gone = ModelHolders("p", "x", active=("z/0",))
    assert [order(mesh("abc", gone), key) for key in keys] == plain
    index = mesh("abc", ModelHolders("p", "x", active=("a/0",)), a={"state": "draining"})
    assert {order(index, key)[0] for key in keys} == {"b", "c"}


def test_when_the_active_holders_are_down_the_others_serve() -> None:
    index = mesh("abc", ModelHolders("p", "x", active=("a/0",)))
    load = Load({}, down=lambda subject: 1.0 if subject == "a/0" else 0.0)
    assert set(order(index, b"k", load)) == {"b", "c"}


def test_a_narrowed_backend_stands_over_the_holders() -> None:
    index = mesh("abc", ModelHolders("p", "x", active=("a/0",)))
    route = Route("r", (Backend("x", 1, instances=("b/0", "c/0")),))
    index.routes = {canonical("r"): route}
    found = choose(index, canonical("r"), b"k", Load({})).candidates
    assert {one.node for one in found} == {"b", "c"}


@given(st.sets(st.sampled_from("abcde")), st.binary(max_size=8))
def test_the_order_among_active_holders_is_the_rings(active: set[str], key: bytes) -> None:
    ids = tuple(f"{name}/0" for name in sorted(active))
    found = order(mesh("abcde", ModelHolders("p", "x", active=ids)), key)
    ring = [name for name in order(mesh("abcde"), key) if name in active]
    whole_ring = [id_.partition("/")[0] for id_ in mesh("abcde").ring.lookup(key)]
    assert found[: len(ring)] == ring or not active
    assert [name for name in found if name in active] == [n for n in whole_ring if n in active][:4]


def test_holders_that_make_no_sense_are_refused_and_an_older_agent_s_snapshot_is_taken() -> None:
    bad = Snapshot(Version(1, 1), {"holders/p": b'{"policy": "p", "model": "x", "active": [1]}'})
    with pytest.raises(SnapshotRejected, match="holders/p"):
        apply(Snapshot(Version(), {}), whole(bad))
    stored = b'{"active":["a/0"],"held":["b/0"],"model":"x","policy":"p"}'  # frozen: as it lies on disks
    good = apply(Snapshot(Version(), {}), whole(Snapshot(Version(1, 1), {"holders/p": stored})))
    assert good.holders == (ModelHolders("p", "x", ("a/0",), ("b/0",)),)
    assert encode_entry(good.holders[0]) == stored


# -- sight


def loads(at: float, **in_flight: int) -> dict[str, NodeLoad]:
    return {
        name: NodeLoad(at, 1, count, Version(), instances={f"{name}/0": (count + 2, 2)})
        for name, count in in_flight.items()
    }


def looked(found: Mesh, now: float = 100.0, **others: ScalingPosition) -> Sight:
    return sight(PLAN, found, ModelFigures(3), others, now)


NODES = {name: Node(name, labels={"gpu": "h200"} if name == "b" else {}) for name in "abc"}


def test_what_is_seen() -> None:
    there = Mesh(
        (
            instance("c", loaded=("x:latest", "y")),
            instance("a", loaded=("x:latest",)),
            instance("b", state="starting"),
            instance("stranger"),
            Instance("a/1", "a"),
        ),
        NODES,
        (NodeClass("big", {"gpu": "h200"}),),
        loads(100.0 - 10.0, a=5, c=1),
    )
    found = looked(there, p2=ScalingPosition("y", active=("c/0",), loading={"b/0": Loading(1.0)}))
    assert found.instances == (
        Seen("a/0", "a", slots=4, in_flight=5, queued=2, loaded=True),
        Seen("b/0", "b", "big", 4, alone=True, available=False, known=False, taken=True),
        Seen("c/0", "c", slots=4, in_flight=1, queued=2, loaded=True, alone=False, taken=True),
    )
    assert found.asked == 3
    assert found.loading_nodes == {"b"}
    assert not any(one.known for one in looked(there, 100.1).instances)


def test_a_node_that_is_drained_is_not_available() -> None:
    nodes = {"a": Node("a", state="drained")}
    assert not looked(Mesh((instance("a"),), nodes, (), {})).instances[0].available


def test_a_rollout_counts_while_it_runs_on_either_side() -> None:
    plan = RolloutPlan("r", "chat", "old", "new", (Step(10.0, 1.0),))
    routes = {"chat": Route("chat", (Backend("x", 1, name="old"), Backend("y", 1, name="new")))}
    running = RolloutPosition(plan.identity)
    ended = msgspec.structs.replace(running, phase="complete")
    for position, models, moving in [(running, routes, True), (ended, routes, False), (running, {}, False)]:
        found = Mesh((), {}, (), {}, ((plan, position),), models)
        assert looked(found).moving is moving
    other = {"chat": Route("chat", (Backend("z", 1, name="old"), Backend("y", 1, name="new")))}
    assert not looked(Mesh((), {}, (), {}, ((plan, running),), other)).moving


def test_what_was_asked_is_handed_out_once_and_counts_from_a_second_report_on() -> None:
    book = Reports()

    def report(began: int, asked: int) -> None:
        found = NodeLoadReport(began, 0, Version(), {}, demand={"x": ModelFigures(asked)})
        book.take_report("a", found, 1.0)

    report(1, 10)
    assert book.take_model("x") == ModelFigures()
    report(1, 14)
    report(1, 15)
    assert book.take_model("x").asked == 5
    assert book.take_model("x").asked == 0
    report(2, 3)  # its agent began anew
    assert book.take_model("x").asked == 3


def test_the_wire_of_a_model_s_load_is_as_it_was() -> None:
    message = pb.LoadReport(
        scaled_models=[pb.ScaledModelLoad(model="x", asked=2, ttft_buckets=[0, 1], ttft_seconds=0.5)]
    )
    assert message.SerializeToString().hex() == "e203120a01781002" + "1a020001" + "21000000000000e03f"


# -- the outside


def test_what_a_scaled_object_may_ask() -> None:
    kedas = {"scalerAddress": "r:1", "tlsCertFile": "x", "enableTLS": "true"}
    assert asked_of({"policy": "p", **kedas}) == Asked("p")
    assert asked_of({"policy": "p", "metric": "slots", "slotsPerPod": "8"}) == Asked("p", "slots", 1, 8)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "policy is missing"),
        ({"policy": "p", "metrik": "slots"}, "unknown key 'metrik'"),
        ({"policy": "p", "metric": "cpu"}, "'cpu' is none of instances, slots"),
        ({"policy": "p", "instancesPerPod": "0"}, "is no number of 1 to 1000"),
        ({"policy": "p", "instancesPerPod": "1001"}, "is no number"),
        ({"policy": "p", "slotsPerPod": "-1"}, "is no number"),
        ({"policy": "p", "slotsPerPod": "9" * 5000}, "is no number"),
    ],
)
def test_what_it_may_not(metadata: dict[str, str], says: str) -> None:
    with pytest.raises(BridgeError, match=says):
        asked_of(metadata)


def test_the_pods_come_to_what_is_wanted() -> None:
    position = ScalingPosition("x", wanted=6, need=16.8)
    seen = Sight((Seen("a/0", "a", slots=4),))
    two = Asked("p", instances_per_pod=2)
    assert outside_rules.value(two, position) / outside_rules.target(two, PLAN, seen) == 3.0
    slots = Asked("p", "slots")
    pods = outside_rules.value(slots, position) / outside_rules.target(slots, PLAN, seen)
    assert pods == pytest.approx(6.0)
    given = Asked("p", "slots", slots_per_pod=8)
    assert outside_rules.target(given, PLAN, seen) == pytest.approx(5.6)
    assert outside_rules.is_active(position)
    assert not outside_rules.is_active(ScalingPosition("x"))
