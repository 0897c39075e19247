"""What agents' pods cost to end: what Kubernetes is told, and how often."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_registry.pod_costs import cost_rules
from bridge_registry.pod_costs.cost_rules import ACTIVE, AT_ONCE, EVERY_S, GONE_S, Holder, Written, costs, due


def cost(*holders: Holder) -> int:
    (found,) = costs(holders).values()
    return found


def pod(part: str = "idle", requests: int = 0, **more: bool) -> int:
    return cost(Holder("n/0", part, requests, **more))


def test_the_cheapest_are_those_that_a_policy_took_out_and_of_these_those_with_least_to_finish() -> None:
    order = [
        pod(),
        pod(loaded=True),
        pod("warm", 1),
        pod("warm", 1, loaded=True),
        pod("warm", 2),
        pod("warm", 5),
        pod("active"),
        pod("active", loaded=True),
        pod("active", 3),
    ]
    assert order == sorted(set(order))
    assert pod("loading") == pod("active")


def test_frozen_values() -> None:
    assert [pod(), pod("warm", 3, loaded=True), pod("active", 4, loaded=True)] == [0, 401, 10_000_401]
    assert json.loads(cost_rules.patch_of(401)) == {
        "metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "401"}}
    }


@pytest.mark.parametrize(
    ("requests", "counted"),
    [(0, 0), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (1 << 20, 1 << 16)],
)
def test_requests_count_in_powers_of_two(requests: int, counted: int) -> None:
    assert pod("warm", requests) == 100 * counted


def test_an_instance_counts_once_and_a_pod_has_all_of_its_instances() -> None:
    one, two = Holder("n/0", "active", 4, loaded=True), Holder("n/0", "warm", 4, loaded=True)
    assert cost(one, two) == ACTIVE + 402
    assert cost(one, two, Holder("n/1", "active", 12)) == 2 * ACTIVE + 1602
    assert list(costs([one, Holder("m/0", "idle")])) == ["n", "m"]


def test_of_a_pod_that_is_not_wholly_known_nothing_is_said() -> None:
    assert costs([Holder("n/0", "active"), Holder("n/1", "active", known=False), Holder("m/0", "idle")]) == {
        "m": 0
    }


@pytest.mark.parametrize("name", ["", "N", "a b", "..", "-a", "a-", "a." + "b" * 252, "a%2fb", "a\n"])
def test_what_no_pod_can_be_called_is_passed_over(name: str) -> None:
    assert costs([Holder(f"{name}/0", "active"), Holder("a.b-c/0", "idle")]) == {"a.b-c": 0}


HOLDERS = st.lists(
    st.builds(
        Holder,
        st.sampled_from([f"n{node}/{at}" for node in range(3) for at in range(3)]),
        st.sampled_from(["active", "loading", "warm", "idle", "?"]),
        st.integers(-1, 1 << 40),
        st.booleans(),
        st.booleans(),
    ),
    max_size=400,
)


@given(HOLDERS)
def test_every_cost_is_one_that_kubernetes_takes(holders: list[Holder]) -> None:
    for found in costs(holders).values():
        assert 0 <= found < 1 << 31


@given(st.integers(0, 98), st.integers(0, 1 << 40))
def test_no_work_makes_up_for_an_active_instance(active: int, requests: int) -> None:
    fewer = [Holder(f"n/{at}", "active", requests, loaded=True) for at in range(active)]
    fewer.append(Holder("n/x", "warm", requests, loaded=True))
    assert cost(*fewer) < cost(*(Holder(f"n/{at}", "active") for at in range(active + 1)))


def test_a_cost_is_written_once_and_again_when_it_differs() -> None:
    assert due({"n": 0}, {}, 0.0) == ["n"]
    assert due({"n": 5}, {"n": Written(5, 0.0)}, 1e6) == []
    assert due({"n": 6}, {"n": Written(5, 10.0)}, 10.0 + EVERY_S - 0.1) == []
    assert due({"n": 6}, {"n": Written(5, 10.0)}, 10.0 + EVERY_S) == ["n"]
    # Who was taken out, or put back, is told at once.
    assert due({"n": 5}, {"n": Written(ACTIVE + 5, 10.0)}, 10.0) == ["n"]
    assert due({"n": ACTIVE}, {"n": Written(ACTIVE - 1, 10.0)}, 10.0) == ["n"]


def test_a_pod_that_is_not_there_is_asked_for_again_later() -> None:
    gone = {"n": Written(None, 10.0)}
    assert due({"n": ACTIVE}, gone, 10.0 + GONE_S - 0.1) == []
    assert due({"n": ACTIVE}, gone, 10.0 + GONE_S) == ["n"]


def test_of_too_many_those_go_first_whose_cost_changed_most() -> None:
    found = {f"n{at}": at * ACTIVE for at in range(AT_ONCE + 1)}
    order = due(found, {}, 0.0)
    assert (len(order), order[0], "n0" in order) == (AT_ONCE, f"n{AT_ONCE}", False)
    written = {"a": Written(0, 0.0), "b": Written(3 * ACTIVE, 0.0)}
    assert due({"a": 2 * ACTIVE, "b": 0}, written, 1.0) == ["b", "a"]
