"""Which instances stay on the ring when leases end: rules of `membership_rules`, at scripted times."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bridge_core.snapshot import Instance
from bridge_registry.membership.membership_rules import Membership

TTL = 5.0


def an(name: str, state: str = "ready") -> Instance:
    return Instance(id=f"{name}/0", node=name, state=state)


def settled(*names: str) -> Membership:
    """Members that were there long ago, at time 100."""
    members = Membership(TTL, ())
    members.replace([an(name) for name in names], 0.0)
    return members


def ids(members: Membership) -> set[str]:
    members.validate()
    return {name.removesuffix("/0") for name in members.members}


def test_one_of_three_that_dies_is_gone_at_once() -> None:
    members = settled("a", "b", "c")
    members.delete("a/0", 100.0)
    assert ids(members) == {"b", "c"}
    assert members.deadline() is None


def test_the_only_instance_that_dies_is_gone_at_once() -> None:
    members = settled("a")
    members.delete("a/0", 100.0)
    assert ids(members) == set()


def test_most_of_the_mesh_at_once_is_held_for_a_ttl_and_then_believed() -> None:
    members = settled("a", "b", "c", "d")
    for name in ("a", "b", "c"):
        members.delete(f"{name}/0", 100.0)
    assert ids(members) == {"a", "b", "c", "d"}
    assert members.deadline() == 105.0
    assert members.settle(104.9) == ()
    assert sorted(members.settle(105.0)) == ["a/0", "b/0", "c/0"]
    assert ids(members) == {"d"}


def test_deaths_far_apart_are_each_believed() -> None:
    members = settled("a", "b", "c", "d")
    for at, name in enumerate(("a", "b", "c", "d")):
        members.delete(f"{name}/0", 100.0 + 6.0 * at)
    assert ids(members) == set()


def test_who_registers_again_in_time_never_was_gone() -> None:
    members = settled("a", "b", "c")
    members.store_answers_again(100.0)
    for name in ("a", "b", "c"):
        members.delete(f"{name}/0", 100.1)
    assert ids(members) == {"a", "b", "c"}
    members.put(an("a"))
    members.put(an("b"))
    assert members.settle(105.2) == ("c/0",)
    assert ids(members) == {"a", "b"}


def test_what_expired_just_before_the_end_of_an_outage_was_noticed_comes_back() -> None:
    members = settled("a", "b", "c")
    members.delete("a/0", 99.9)
    assert ids(members) == {"b", "c"}
    members.store_answers_again(100.0)
    assert ids(members) == {"a", "b", "c"}


def test_a_new_listing_gives_grace_to_whom_it_lacks() -> None:
    members = settled("a", "b", "c")
    members.replace([an("b")], 100.0)
    assert ids(members) == {"a", "b", "c"}
    assert sorted(members.settle(105.0)) == ["a/0", "c/0"]


def test_while_no_guard_lives_nobodys_end_is_believed() -> None:
    members = settled("a", "b", "c", "d", "e")
    members.cut_off(100.0)
    members.delete("a/0", 103.0)
    members.delete("b/0", 104.0)
    assert members.deadline() is None
    assert members.settle(1_000.0) == ()
    assert ids(members) == {"a", "b", "c", "d", "e"}
    members.guarded_again(1_000.0)
    members.put(an("a"))
    assert members.settle(1_004.9) == ()
    assert members.settle(1_005.0) == ("b/0",)
    members.delete("c/0", 1_011.0)
    assert ids(members) == {"a", "d", "e"}


def test_who_went_just_before_the_last_guard_was_missed_comes_back() -> None:
    members = settled("a", "b", "c", "d", "e")
    members.delete("a/0", 99.0)
    members.cut_off(100.0)
    assert ids(members) == {"a", "b", "c", "d", "e"}
    members.replace([an(name) for name in "bcd"], 120.0)
    assert members.settle(200.0) == ()
    members.guarded_again(200.0)
    assert sorted(members.settle(205.0)) == ["a/0", "e/0"]


def test_a_draining_instance_goes_at_once_even_in_grace() -> None:
    members = settled("a", "b")
    members.put(an("a", "draining"))
    members.store_answers_again(100.0)
    members.delete("a/0", 100.1)
    assert ids(members) == {"b"}


def test_remembered_members_wait_for_the_first_listing_however_long_it_takes() -> None:
    members = Membership(TTL, [an("a"), an("b")])
    assert ids(members) == {"a", "b"}
    assert members.deadline() is None
    assert members.settle(1e9) == ()
    members.replace([an("b")], 1000.0)
    assert members.settle(1004.9) == ()
    assert members.settle(1005.0) == ("a/0",)


def test_a_new_registry_believes_a_death_as_fast_as_an_old_one() -> None:
    members = Membership(TTL, [an("a"), an("b"), an("c")])
    members.replace([an("a"), an("b"), an("c")], 0.0)
    members.delete("a/0", 0.3)
    assert ids(members) == {"b", "c"}


def test_an_unknown_key_that_goes_changes_nothing() -> None:
    members = settled("a")
    members.delete("z/0", 100.0)
    assert ids(members) == {"a"}


class OutageMachine(RuleBasedStateMachine):
    """A store that comes and goes over agents that live on: none of them may ever leave the ring."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.up = True
        self.registered: set[str] = set()

    @initialize(count=st.integers(1, 6))
    def begin(self, count: int) -> None:
        self.names = [f"n{at}" for at in range(count)]
        self.members = Membership(TTL, ())
        self.members.replace([an(name) for name in self.names], self.now)
        self.registered = set(self.names)

    @rule(seconds=st.floats(0.1, 60))
    def outage(self, seconds: float) -> None:
        """All leases that run out meanwhile end as the store comes back; agents then register anew."""
        self.now += seconds
        self.members.store_answers_again(self.now)
        for name in self.names if seconds > TTL else ():
            self.members.delete(f"{name}/0", self.now)
        self.now += 1.0
        self.members.settle(self.now)
        self.check()
        for name in self.names:
            self.members.put(an(name))

    @rule(seconds=st.floats(0.1, 60))
    def restored_from_a_listing(self, seconds: float) -> None:
        self.now += seconds
        self.members.replace([], self.now)
        self.now += TTL - 0.1
        self.members.settle(self.now)
        self.check()
        for name in self.names:
            self.members.put(an(name))

    @rule(seconds=st.floats(0.1, 60))
    def quiet(self, seconds: float) -> None:
        self.now += seconds
        self.members.settle(self.now)

    @invariant()
    def check(self) -> None:
        if hasattr(self, "members"):
            assert ids(self.members) == set(self.names)


TestOutages = OutageMachine.TestCase
TestOutages.settings = settings(max_examples=40, stateful_step_count=15)


@pytest.mark.parametrize("alive", [1, 2])
def test_the_dead_are_off_the_ring_a_ttl_after_an_outage(alive: int) -> None:
    members = settled("a", "b", "c")
    members.store_answers_again(100.0)
    for name in ("a", "b", "c"):
        members.delete(f"{name}/0", 100.0)
    for name in ("a", "b", "c")[:alive]:
        members.put(an(name))
    members.settle(105.0)
    assert ids(members) == set(("a", "b", "c")[:alive])
