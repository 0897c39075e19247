"""The strategies at their limits: where a tier, a bound or the number of choices changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from bridge_agent.routing.load_rules import LoadBook
from bridge_agent.routing.strategies import (
    Turns,
    apart,
    least_request,
    ramp,
    residency,
    residency_tier,
    ring_hash,
    round_robin,
    step,
)
from bridge_agent.routing.view import Target


def target(
    name: str, *, slots: int = 1, weight: int = 100, domain: str = "", loaded: frozenset[str] = frozenset()
) -> Target:
    return Target(f"{name}/0", name, False, "x:1", True, "", slots, weight, (), loaded, domain)


def names(order: list[Target]) -> str:
    return "".join(one.node for one in order)


def shares(targets: list[Target]) -> dict[str, float]:
    return {one.id: float(one.capacity) for one in targets}


@pytest.mark.parametrize(
    ("age_s", "window_s", "share"),
    [
        (0.0, 10.0, 0.1),
        (1.0, 10.0, 0.1),
        (1.5, 10.0, 0.15),
        (9.9, 10.0, 0.99),
        (10.0, 10.0, 1.0),
        (0, 0, 1.0),
    ],
)
def test_a_ramp_begins_at_a_tenth(age_s: float, window_s: float, share: float) -> None:
    assert ramp(age_s, window_s) == pytest.approx(share)


def test_a_step_raises_who_is_there_and_forgets_who_is_not() -> None:
    assert step({}, {"a": 2.0}) == ({"a": 2.0}, 2.0)
    assert step({"a": 1.0, "b": 3.0}, {"a": 2.0, "c": 0.5}) == ({"a": 3.0, "c": 0.5}, 2.5)


def test_turns_of_equals_go_by_name_and_each_rotation_has_its_own() -> None:
    turns = Turns()
    assert turns.order("m", {"b": 1.0, "a": 1.0}) == ["a", "b"]
    assert turns.order("m", {"b": 1.0, "a": 1.0}) == ["b", "a"]
    assert turns.order("other", {"b": 1.0, "a": 1.0}) == ["a", "b"]
    assert turns.order("m", {}) == []
    assert turns.order("m", {"b": 1.0, "a": 1.0}) == ["a", "b"], "who left begins anew"


def test_no_more_than_four_are_asked() -> None:
    targets = [target(name) for name in "abcdefgh"]
    known = shares(targets)
    assert names(round_robin(targets, known, Turns(), "m")) == "abcd"
    assert names(least_request(targets, known, {}, 0)) == "abcd"
    assert names(residency(targets, "m", known, {}, 0)) == "abcd"


def test_up_to_eight_are_all_compared_and_of_more_only_two() -> None:
    eight = [target(name) for name in "abcdefgh"]
    work = {one.id: 1 for one in eight[:-1]}
    assert {least_request(eight, shares(eight), work, draw)[0].node for draw in range(200)} == {"h"}
    nine = [target(name) for name in "abcdefghi"]
    work = {"a/0": 5, "b/0": 3, "c/0": 4}
    assert names(least_request(nine, shares(nine), work, 0)) == "bacd"


def test_among_many_every_order_of_four_is_drawn_once() -> None:
    nine = [target(name) for name in "abcdefghi"]
    known = shares(nine)
    drawn = {names(least_request(nine, known, {}, draw)) for draw in range(9 * 8 * 7 * 6)}
    assert len(drawn) == 9 * 8 * 7 * 6
    assert all(len(set(order)) == 4 for order in drawn)


def test_nobody_is_an_order_of_nobody() -> None:
    assert least_request([], {}, {}, 5) == residency([], "m", {}, {}, 5) == apart([]) == []
    assert ring_hash([], "m", {}, {}, 1.0) == ([], [])


def test_a_request_that_would_come_counts_with_those_that_are_there() -> None:
    a, b = target("a"), target("b")
    firsts = {least_request([a, b], {a.id: 100.0, b.id: 160.0}, {b.id: 1}, draw)[0].node for draw in range(8)}
    assert firsts == {"a"}, "1 / 100 is less than 2 / 160"
    firsts = {least_request([a, b], {a.id: 100.0, b.id: 210.0}, {b.id: 1}, draw)[0].node for draw in range(8)}
    assert firsts == {"b"}, "2 / 210 is less than 1 / 100"


def test_the_smallest_shares_still_tell_instances_apart_and_none_is_no_fault() -> None:
    a, b = target("a"), target("b")
    for draw in range(8):
        assert least_request([a, b], {a.id: 0.1, b.id: 0.2}, {}, draw)[0] is b
        assert least_request([a, b], {a.id: 0.0, b.id: 0.1}, {}, draw)[0] is b


def test_who_is_not_among_the_work_is_idle() -> None:
    a, b = target("a"), target("b")
    known = shares([a, b])
    assert {least_request([a, b], known, {a.id: 0}, draw)[0].node for draw in range(4)} == {"a", "b"}
    assert ring_hash([a], "m", {}, {}, 0.0) == ([a], [])


@pytest.mark.parametrize(
    ("loaded", "busy", "tier"),
    [(True, 1, 0), (True, 2, 1), (True, 7, 1), (True, 8, 4), (False, 1, 2), (False, 2, 3), (False, 9, 3)],
)
def test_the_tiers_change_at_the_slots_and_at_four_times_as_many(loaded: bool, busy: int, tier: int) -> None:
    one = target("a", slots=2, loaded=frozenset({"m"}) if loaded else frozenset())
    assert residency_tier(one, "m", {one.id: busy}) == tier


def test_who_has_no_work_has_a_free_slot() -> None:
    assert residency_tier(target("a", loaded=frozenset({"m"})), "m", {}) == 0
    assert residency_tier(target("a"), "m", {}) == 2


def test_of_one_tier_the_least_pressed_comes_first() -> None:
    a, b = target("a", slots=2), target("b", slots=2)
    for draw in range(4):
        assert names(residency([a, b], "m", shares([a, b]), {"a/0": 1}, draw)) == "ba"


def test_those_that_fall_with_the_first_come_last_in_their_order() -> None:
    order = [target("a", domain="x"), target("b", domain="x"), target("c"), target("d", domain="x")]
    order.append(target("e", domain="y"))
    assert names(apart(order)) == "acebd"
    order[0] = target("a")
    assert names(apart(order)) == "abcde"


@pytest.mark.parametrize(
    ("slots", "room", "share", "busy", "over"),
    [
        (1, 0.02, 100.0, 1, False),
        (1, 0.02, 100.0, 2, True),
        (1, 0.021, 100.0, 2, False),  # a part of a request is a whole one
        (1, 0.021, 100.0, 3, True),
        (4, 0.02, 100.0, 3, False),  # a free slot is never passed over
        (4, 0.02, 100.0, 4, True),
        (1, 0.02, 50.0, 1, True),  # it starts slowly
    ],
)
def test_the_bound_of_the_ring(slots: int, room: float, share: float, busy: int, over: bool) -> None:
    one = target("a", slots=slots)
    found = ring_hash([one], "m", {one.id: share}, {one.id: busy}, room)
    assert found == (([], [one]) if over else ([one], []))


def test_whose_share_is_not_given_has_its_capacity() -> None:
    one = target("a", weight=200)
    assert ring_hash([one], "m", {}, {one.id: 3}, 0.02) == ([one], [])
    assert ring_hash([one], "m", {}, {one.id: 4}, 0.02) == ([], [one])
    assert ring_hash([one], "m", {}, {one.id: 99}, None) == ([one], [])


@pytest.mark.parametrize(
    ("busy", "order"),
    [
        ((0, 0, 0), "abc|"),
        ((1, 1, 1), "abc|"),
        ((2, 1, 0), "bca|"),  # within its share, and full
        ((2, 2, 1), "cab|"),
        ((3, 2, 1), "cb|a"),
        ((2, 2, 2), "abc|"),
    ],
)
def test_a_free_slot_comes_before_a_place_in_a_queue(busy: tuple[int, ...], order: str) -> None:
    targets = [target(name, slots=2, loaded=frozenset({"m"})) for name in "abc"]
    work = {one.id: count for one, count in zip(targets, busy, strict=True)}
    under, over = ring_hash(targets, "m", {}, work, 3 / 200)
    assert f"{names(under)}|{names(over)}" == order


@pytest.mark.parametrize(("full", "looked_at"), [(63, 68), (64, 64), (100, 64)])
def test_behind_sixty_four_full_ones_nobody_is_looked_for(full: int, looked_at: int) -> None:
    seen: list[Target] = []

    def clockwise() -> Iterator[Target]:
        for at in range(200):
            seen.append(target(f"n{at}", loaded=frozenset({"m"})))
            yield seen[-1]

    busy = {f"n{at}/0": 1 for at in range(full)}
    under, over = ring_hash(clockwise(), "m", {}, busy, 2 / 100)
    assert (len(seen), len(under), over) == (min(looked_at, 67), min(looked_at, 67), [])


@pytest.mark.parametrize(
    ("domains", "looked_at"),
    [("------", 4), ("xxxxxx", 6), ("xxxxyx", 5), ("xxxyxx", 4), ("xyxxxx", 6), ("-xxxxx", 4)],
)
def test_the_ring_is_followed_until_four_are_found_and_one_that_falls_alone(
    domains: str, looked_at: int
) -> None:
    seen: list[Target] = []

    def clockwise() -> Iterator[Target]:
        for at, domain in enumerate(domains):
            seen.append(target(f"n{at}", domain=domain.strip("-"), loaded=frozenset({"m"})))
            yield seen[-1]

    under, over = ring_hash(clockwise(), "m", {}, {}, None)
    assert (len(seen), under, over) == (looked_at, seen, [])


@pytest.mark.parametrize(
    ("loaded", "order"),
    [
        ("x-----", "abcd"),
        ("-x----", "bacd"),
        ("----x-", "eabc"),
        ("-----x", "fabc"),
        ("------", "abcd"),
        ("-x-x--", "bdac"),
    ],
)
def test_who_has_the_model_in_memory_comes_before_who_would_have_to_load_it(loaded: str, order: str) -> None:
    targets = [
        target(name, loaded=frozenset({"m"}) if mark == "x" else frozenset())
        for name, mark in zip("abcdef", loaded, strict=True)
    ]
    under, over = ring_hash(targets, "m", {}, {}, None)
    assert (names(under)[:4], over) == (order, [])


@pytest.mark.parametrize(("at", "first"), [(63, 63), (64, 0)])
def test_nobody_is_looked_for_beyond_the_sixty_fourth_who_has_it_in_memory(at: int, first: int) -> None:
    targets = [target(f"n{n}", loaded=frozenset({"m"} if n == at else ())) for n in range(100)]
    under, _ = ring_hash(iter(targets), "m", {}, {}, None)
    assert (len(under), under[0]) == (64, targets[first])


def book(own: Mapping[str, int]) -> LoadBook:
    return LoadBook(own)


def test_an_owners_word_counts_for_three_seconds() -> None:
    said = book({})
    said.heard("a/0", 1, 10.0)
    assert said.work(13.0) == {"a/0": 1}
    assert said.work(13.01) == {}
    said.heard("b/0", 0, 14.0)
    assert said.work(14.0) == {}


def test_what_an_owner_says_less_ours_is_the_others() -> None:
    said = book({"a/0": 2})
    said.heard("a/0", 3, 10.0)
    assert said.work(10.0) == {"a/0": 3}
    said.heard("a/0", 2, 10.0)
    assert said.work(10.0) == {"a/0": 2}
    said.heard("a/0", 1, 10.0)
    assert said.work(10.0) == {"a/0": 2}, "never less than ours"
    said.lingers("a/0", 10.0)
    said.lingers("a/0", 10.0)
    assert said.work(10.0) == {"a/0": 4}


def test_slow_start_ends_with_its_window() -> None:
    said = book({})
    said.present([], 0.0)
    said.present(["a"], 5.0)
    assert said.ages(14.9, 10.0) == {"a": pytest.approx(9.9)}
    assert said.ages(15.0, 10.0) == {}
    said.present([], 16.0)
    said.present(["a"], 17.0)
    assert said.ages(17.0, 10.0) == {"a": 0.0}


def test_where_the_first_has_the_model_nobody_is_looked_for_further_on_the_ring() -> None:
    warm = target("a", loaded=frozenset({"m"}))
    cold = [target(f"n{number}") for number in range(9)]
    assert ring_hash([warm, *cold], "m", {}, {}, None) == ([warm, *cold[:3]], [])
    assert ring_hash([cold[0], *cold[1:6], warm, *cold[6:]], "m", {}, {}, None)[0][0] is warm
