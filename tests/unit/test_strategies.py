"""Each strategy's order, over thousands of simulated requests: shares, spread, tiers, bounds."""

from __future__ import annotations

import random
from collections import Counter, deque
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.routing import strategies
from bridge_agent.routing.load_rules import LoadBook
from bridge_agent.routing.strategies import Turns, least_request, ramp, residency, ring_hash, round_robin
from bridge_agent.routing.view import Target
from bridge_core.snapshot import Backend, Route
from bridge_core.traffic import split


def target(id_: str, weight: int = 100, slots: int = 1, loaded: tuple[str, ...] = ()) -> Target:
    return Target(f"{id_}/0", id_, False, "x:1", True, "", slots, weight, (), frozenset(loaded))


def shares(targets: list[Target]) -> dict[str, float]:
    return {one.id: float(one.capacity) for one in targets}


@pytest.mark.parametrize("weights", [(90, 10), (70, 20, 10)])
def test_ten_thousand_requests_fall_as_the_weights_say(weights: tuple[int, ...]) -> None:
    targets = [target(f"n{at}", weight) for at, weight in enumerate(weights)]
    turns, counts = Turns(), Counter[str]()
    for _ in range(10_000):
        counts[round_robin(targets, shares(targets), turns, "m")[0].id] += 1
    route = Route("r", tuple(Backend(f"m{at}", weight) for at, weight in enumerate(weights)))
    sides = Counter(split(route, b"conversation %d" % number)[0].model for number in range(10_000))
    for at, weight in enumerate(weights):
        assert abs(counts[f"n{at}/0"] / 10_000 - weight / 100) < 0.0005
        assert abs(sides[f"m{at}"] / 10_000 - weight / 100) < 0.01


def test_a_heavy_instances_turns_are_spread_out() -> None:
    targets = [target("a", 300), target("b"), target("c")]
    turns = Turns()
    order = "".join(round_robin(targets, shares(targets), turns, "m")[0].node for _ in range(10))
    assert order == "abaca" * 2
    assert "aaa" not in order


def test_slots_and_weights_combine() -> None:
    targets = [target("a", 50, slots=4), target("b", 100, slots=1)]
    turns = Turns()
    counts = Counter(round_robin(targets, shares(targets), turns, "m")[0].node for _ in range(300))
    assert counts == {"a": 200, "b": 100}


@pytest.mark.parametrize("strategy", ["round_robin", "least_request"])
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_equal_instances_have_equal_work_to_within_one(strategy: str, size: int) -> None:
    targets = [target(f"n{at}") for at in range(size)]
    turns, work, rng = Turns(), Counter[str](), random.Random(1)
    # Equal requests, each done when so many more have come.
    running: deque[str] = deque()
    for _ in range(3_000):
        if strategy == "round_robin":
            chosen = round_robin(targets, shares(targets), turns, "m")[0]
        else:
            chosen = least_request(targets, shares(targets), work, rng.getrandbits(40))[0]
        work[chosen.id] += 1
        running.append(chosen.id)
        if len(running) > 3 * size:
            work[running.popleft()] -= 1
        counts = [work[one.id] for one in targets]
        ideal = len(running) / size
        assert all(abs(count - ideal) <= 1 for count in counts)


def test_least_request_stays_even_when_requests_are_not_equal() -> None:
    targets = [target(f"n{at}") for at in range(4)]
    work, rng = Counter[str](), random.Random(2)
    running: list[str] = []
    for _ in range(3_000):
        chosen = least_request(targets, shares(targets), work, rng.getrandbits(40))[0]
        assert work[chosen.id] == min(work[one.id] for one in targets)
        work[chosen.id] += 1
        running.append(chosen.id)
        if len(running) > 12:
            work[running.pop(rng.randrange(len(running)))] -= 1


@pytest.mark.parametrize("strategy", ["least_request", "residency"])
def test_those_that_are_equally_good_are_chosen_equally_often(strategy: str) -> None:
    targets = [target(f"n{at}") for at in range(5)]
    busy, rng, counts = {"n0/0": 9, "n3/0": 9}, random.Random(3), Counter[str]()
    for _ in range(6_000):
        draw = rng.getrandbits(44)
        if strategy == "least_request":
            order = least_request(targets, shares(targets), busy, draw)
        else:
            order = residency(targets, "m", shares(targets), busy, draw)
        counts[order[0].node] += 1
        assert {one.node for one in order[:3]} == {"n1", "n2", "n4"}
    assert all(abs(count - 2_000) < 200 for count in counts.values())


def test_two_choices_are_nearly_as_even_among_many() -> None:
    size = strategies.TWO_CHOICES_ABOVE * 5
    targets = [target(f"n{at}") for at in range(size)]
    even, blind, rng = Counter[str](), Counter[str](), random.Random(3)
    for _ in range(size * 20):
        order = least_request(targets, shares(targets), even, rng.getrandbits(60))
        assert len({one.id for one in order}) == strategies.MAX_CANDIDATES
        even[order[0].id] += 1
        blind[rng.choice(targets).id] += 1
    assert max(even.values()) <= 20 + 3 < max(blind.values())


def test_residency_prefers_memory_and_idleness_in_this_order() -> None:
    targets = [
        target("disk"),
        target("busy", loaded=("m",)),
        target("swamped", loaded=("m",)),
        target("idle", loaded=("m",)),
        target("disk-busy"),
    ]
    work = {"busy/0": 1, "swamped/0": 9, "disk-busy/0": 1}
    for draw in range(5):
        order = [one.node for one in residency(targets, "m", shares(targets), work, draw)]
        assert order == ["idle", "busy", "disk", "disk-busy"]


@given(
    st.dictionaries(st.sampled_from([f"n{at}/0" for at in range(6)]), st.integers(0, 9)),
    st.integers(0, 1 << 60),
)
def test_every_strategy_gives_distinct_candidates_and_at_least_one(work: dict[str, int], draw: int) -> None:
    targets = [target(f"n{at}", slots=1 + at % 2, loaded=("m",) * (at % 3)) for at in range(6)]
    for order in (
        round_robin(targets, shares(targets), Turns(), "m"),
        least_request(targets, shares(targets), work, draw),
        residency(targets, "m", shares(targets), work, draw),
        [*chain(*ring_hash(targets, "m", {}, work, 1.25 * (sum(work.values()) + 1) / 900))][:4],
    ):
        assert 1 <= len(order) <= strategies.MAX_CANDIDATES
        assert len({one.id for one in order}) == len(order)


def test_a_free_slot_is_never_passed_over_for_the_bound() -> None:
    targets = [target("a", slots=4), target("b", slots=4)]
    for busy, first in ((3, "a"), (4, "b")):
        under, over = ring_hash(targets, "m", {}, {"a/0": busy}, 1.25 * (busy + 1) / 800)
        assert [*under, *over][0].node == first


def test_slow_start_grows_to_the_full_share() -> None:
    assert [ramp(age, 10.0) for age in (0.0, 0.5, 5.0, 10.0, 99.0)] == [0.1, 0.1, 0.5, 1.0, 1.0]
    assert ramp(0.0, 0.0) == 1.0
    fresh, old = target("fresh"), target("old")
    slow = {fresh.id: fresh.capacity * 0.25, old.id: float(old.capacity)}
    turns = Turns()
    counts = Counter(round_robin([fresh, old], slow, turns, "m")[0].node for _ in range(100))
    assert counts == {"fresh": 20, "old": 80}


def test_what_an_owner_says_counts_for_the_others_and_not_for_long() -> None:
    own = {"a/0": 2}
    book = LoadBook(own, fresh_s=3.0)
    book.heard("a/0", 5, 10.0)
    book.heard("b/0", 1, 10.0)
    assert book.work(11.0) == {"a/0": 5, "b/0": 1}
    own["a/0"] = 4  # two more of ours
    assert book.work(11.0) == {"a/0": 7, "b/0": 1}
    book.heard("b/0", 0, 11.0)
    assert book.work(11.0) == {"a/0": 7}
    assert book.work(14.0) == own


def test_what_was_given_up_in_its_prefill_counts_until_the_owner_says_otherwise() -> None:
    own = {"a/0": 1}
    book = LoadBook(own, fresh_s=3.0)
    book.heard("a/0", 3, 10.0)
    book.lingers("a/0", 11.0)
    book.lingers("b/0", 11.0)
    assert book.work(12.0) == {"a/0": 4, "b/0": 1}
    book.heard("b/0", 0, 12.0)
    assert book.work(12.5) == {"a/0": 4}
    assert book.work(14.5) == own


def test_only_what_came_after_the_start_starts_slowly() -> None:
    book = LoadBook({})
    book.present(["a", "b"], 0.0)
    assert book.ages(0.0, 10.0) == {}
    book.present(["a", "c"], 5.0)
    assert book.ages(10.0, 10.0) == {"c": 5.0}
    book.present(["a", "b", "c"], 11.0)
    assert book.ages(12.0, 10.0) == {"b": 1.0, "c": 7.0}
    assert book.ages(30.0, 10.0) == {}
