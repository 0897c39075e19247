"""Renewal after the end: what is allowed, how often, and what was given out to be signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_registry.enrolment.grace_rules import Budgets, check_grace
from bridge_registry.enrolment.join_rules import EnrolmentRefused
from bridge_registry.enrolment.nonces import LIFE_S, Nonces
from bridge_registry.records import NodeRecord

RECORD = NodeRecord("n1", key="k")


@given(late=st.floats(0, 1e7), grace=st.floats(0, 1e7))
def test_it_is_granted_exactly_within_the_grace(late: float, grace: float) -> None:
    def granted() -> bool:
        try:
            check_grace("n1", RECORD, "k", expired=1e9, now=1e9 + late, grace_s=grace)
        except EnrolmentRefused as fault:
            return "token create --node n1" not in fault.hint
        return True

    assert granted() is (grace > 0 and 1e9 + late <= 1e9 + grace)


@pytest.mark.parametrize(
    ("record", "key"), [(None, "k"), (NodeRecord("n1", key="k", state="revoked"), "k"), (RECORD, "older")]
)
def test_unknown_and_revoked_nodes_and_older_keys_get_none(record: NodeRecord | None, key: str) -> None:
    with pytest.raises(EnrolmentRefused):
        check_grace("n1", record, key, expired=0.0, now=1.0, grace_s=10.0)


def test_a_budget_is_a_burst_and_then_a_rate() -> None:
    budgets = Budgets(3, 10.0)
    assert [budgets.take("a", 100.0) for _ in range(5)] == [True, True, True, False, False]
    assert budgets.take("b", 100.0)
    assert not budgets.take("a", 109.0)
    assert budgets.take("a", 110.0)
    assert not budgets.take("a", 110.0)


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    budgets = Budgets(2, 10.0)
    assert [budgets.take("a", 1e6) for _ in range(3)] == [True, True, False]
    assert not budgets.take("a", 100.0)
    assert budgets.take("a", 110.0)


def test_a_crowd_of_names_is_bounded_and_lets_go() -> None:
    budgets = Budgets(1, 10.0, most=2)
    assert [budgets.take(name, 0.0) for name in "abc"] == [True, True, False]
    assert budgets.take("c", 10.0)


@given(times=st.lists(st.floats(0, 1000), max_size=60))
def test_never_more_than_burst_and_rate_allow(times: list[float]) -> None:
    budgets, taken = Budgets(3, 10.0), list[float]()
    for now in sorted(times):
        if budgets.take("a", now):
            taken.append(now)
    for at in taken:
        assert sum(at <= one <= at + 50.0 for one in taken) <= 3 + 5 + 1


def test_a_nonce_counts_once_for_a_minute_and_here() -> None:
    now = [1000.0]
    nonces = Nonces(lambda: now[0])
    one, two = nonces.make(), nonces.make()
    assert one != two
    assert nonces.spend(one)
    assert not nonces.spend(one)
    now[0] += LIFE_S + 1.0
    assert not nonces.spend(two)
    assert nonces.spend(nonces.make())
    assert not nonces.spend(one)  # also when it is forgotten
    assert not Nonces(lambda: now[0]).spend(nonces.make())


@given(flipped=st.integers(0, 40 * 8 - 1))
def test_a_changed_nonce_is_none(flipped: int) -> None:
    nonces = Nonces(lambda: 1000.0)
    made = bytearray(nonces.make())
    made[flipped // 8] ^= 1 << flipped % 8
    assert not nonces.spend(bytes(made))
