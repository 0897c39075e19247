"""Instances that fall together: told to the mesh, asked last when one of them failed, out while at fault."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.engines.view import LocalInstance
from bridge_agent.records import registered
from bridge_agent.routing.choose import Load, choose
from bridge_agent.routing.strategies import MAX_CANDIDATES, apart
from bridge_agent.routing.view import Index, Target
from bridge_core.names import canonical
from bridge_core.snapshot import (
    MESH_KEY,
    Instance,
    MemberModel,
    MeshConfig,
    Node,
    RoutePolicy,
    Snapshot,
    Version,
    encode_entry,
)
from bridge_core.traffic import Strategy

GPU = "a/gpu-1"
MODEL = (MemberModel("m:latest"),)


def target(id_: str, domain: str) -> Target:
    return Target(id_, id_.partition("/")[0], False, "x:1", True, failure_domain=domain)


def mesh(strategy: Strategy, domains: dict[str, str]) -> Index:
    entries = {MESH_KEY: encode_entry(MeshConfig(defaults=RoutePolicy(strategy=strategy)))}
    for id_, domain in domains.items():
        node = id_.partition("/")[0]
        entries[f"node/{node}"] = encode_entry(Node(node, "127.0.0.1:1"))
        entries[f"instance/{id_}"] = encode_entry(Instance(id_, node, models=MODEL, failure_domain=domain))
    return Index("entry", Snapshot(Version(1, 1), entries), ())


@given(st.lists(st.sampled_from(["", "x", "y"]), max_size=8))
def test_neighbours_of_the_first_come_last_and_nobody_is_lost(domains: list[str]) -> None:
    order = [target(f"n/{at}", domain) for at, domain in enumerate(domains)]
    found = apart(order)
    assert sorted(one.id for one in found) == sorted(one.id for one in order)
    assert found[:1] == order[:1]
    if domains and domains[0]:
        together = [one.failure_domain == domains[0] for one in found[1:]]
        assert together == sorted(together)
    else:
        assert found == order


def test_a_retry_leaves_the_failure_domain() -> None:
    # More engines under one MPS server than candidates are kept, and one elsewhere.
    domains = {f"a/{at}": GPU for at in range(2 * MAX_CANDIDATES)} | {"b/0": ""}
    strategies: tuple[Strategy, ...] = ("ring_hash", "round_robin", "residency")
    for strategy in strategies:
        index = mesh(strategy, domains)
        for draw in range(40):
            decision = choose(index, canonical("m"), b"%d" % draw, Load({}, draw=draw))
            first, second = decision.candidates[:2]
            assert len(decision.candidates) <= MAX_CANDIDATES
            assert {first.failure_domain, second.failure_domain} == {GPU, ""}


def test_least_request_among_few_leaves_it_too() -> None:
    # Among many it draws its candidates, and none of them may be of another domain.
    index = mesh("least_request", {"a/0": GPU, "a/1": GPU, "a/2": GPU, "b/0": ""})
    for draw in range(8):
        first, second = choose(index, canonical("m"), b"", Load({}, draw=draw)).candidates[:2]
        assert {first.failure_domain, second.failure_domain} == {GPU, ""}


def test_the_domain_is_registered_and_an_instance_at_fault_is_not() -> None:
    well = LocalInstance("a/0", "127.0.0.1", 1, "ready", MODEL, failure_domain=GPU)
    faulty = LocalInstance("a/1", "127.0.0.1", 2, "ready", MODEL, failure_domain=GPU, fault="its GPU is gone")
    (record,) = registered([well, faulty], "a")
    assert (record.id, record.failure_domain) == ("a/0", GPU)


def test_an_instance_at_fault_takes_no_requests_at_its_own_node() -> None:
    faulty = LocalInstance("a/1", "127.0.0.1", 2, "ready", MODEL, fault="its GPU is gone")
    index = Index("a", Snapshot(Version(1, 1), {"node/a": encode_entry(Node("a", "127.0.0.1:1"))}), (faulty,))
    decision = choose(index, canonical("m"), b"", Load({}))
    assert decision.candidates == ()
    assert [(one.instance, one.reason) for one in decision.skipped] == [("a/1", "its GPU is gone")]
