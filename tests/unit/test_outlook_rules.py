"""What moving a conversation costs against waiting where it is cached, and what far nodes cost."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.routing.choose import Load, choose
from bridge_agent.routing.outlook import Outlook, Pace
from bridge_agent.routing.outlook_rules import Conversations, first_token_s, soonest_first
from bridge_agent.routing.view import Index, Target
from bridge_core.names import canonical
from bridge_core.snapshot import Instance, MemberModel, MeshConfig, Node, RoutePolicy, Snapshot, Version
from bridge_core.traffic import Strategy

X = canonical("x")
PACE = Pace(prefill=1000.0, held_s=2.0)


def mesh(count: int = 3, strategy: Strategy = "ring_hash", slots: int = 2) -> Index:
    entries = {"mesh": msgspec.json.encode(MeshConfig(defaults=RoutePolicy(strategy=strategy)))}
    for name in "abcdefgh"[:count]:
        record = Instance(f"{name}/0", name, slots=slots, models=(MemberModel("x"),), loaded=("x",))
        entries[f"instance/{name}/0"] = msgspec.json.encode(record)
        entries[f"node/{name}"] = msgspec.json.encode(Node(name, f"{name}:1"))
    return Index("me", Snapshot(Version(1, 1), entries), ())


def target(loaded: bool = True) -> Target:
    return Target("a/0", "a", False, "a:1", True, slots=2, loaded=frozenset({X} if loaded else ()))


def first(index: Index, key: bytes, work: dict[str, int], outlook: Outlook | None) -> str:
    return choose(index, X, key, Load(work, outlook=outlook)).candidates[0].id


def test_the_time_is_the_way_the_wait_the_prompt_and_the_load() -> None:
    outlook = Outlook(3000, {"a/0": 2000}, PACE, {"a": 0.25})
    assert first_token_s(target(), X, 0, outlook) == 0.25 + 1.0
    assert first_token_s(target(), X, 3, outlook) == 0.25 + 2.0 + 1.0
    assert first_token_s(target(loaded=False), X, 0, outlook) == 0.25 + 3.0 + 5.0


def test_a_conversation_waits_where_it_is_cached_as_long_as_that_is_sooner() -> None:
    index, key = mesh(), b"k"
    owner = first(index, key, {}, None)
    busy = {owner: 2}  # over its share: without an outlook it would move
    assert first(index, key, busy, None) != owner
    assert first(index, key, busy, Outlook(5000, {owner: 4500}, PACE)) == owner
    assert first(index, key, busy, Outlook(800, {owner: 700}, PACE)) != owner
    assert first(index, key, {owner: 20}, Outlook(5000, {owner: 4500}, PACE)) != owner


def test_a_conversation_that_moved_stays_where_it_went() -> None:
    index, key = mesh(), b"k"
    order = [one.id for one in choose(index, X, key, Load({})).candidates]
    assert first(index, key, {}, Outlook(5000, {order[0]: 1000, order[2]: 4800}, PACE)) == order[2]


def test_it_is_found_where_the_ring_is_not_followed_to() -> None:
    index, key = mesh(8), b"k"
    order = list(index.ring.lookup(key))
    assert first(index, key, {}, Outlook(5000, {order[7]: 4800}, PACE)) == order[7]


def test_why_it_moved_or_passed_the_rings_owner_is_said() -> None:
    index, key = mesh(), b"k"
    order = [one.id for one in choose(index, X, key, Load({})).candidates]
    outlook = Outlook(800, {order[0]: 700}, PACE)
    decision = choose(index, X, key, Load({order[0]: 2}, outlook=outlook))
    words = f"first token expected after 1.10 s, from {order[1]} after 0.80 s"
    assert {one.instance: one.reason for one in decision.skipped} == {order[0]: words}


def test_a_far_node_comes_after_near_ones_that_are_idle_and_before_long_waits() -> None:
    for strategy in ("ring_hash", "least_request", "residency"):
        index = mesh(strategy=strategy)
        far = Outlook(100, {}, PACE, {"a": 0.3})
        assert "a/0" not in {first(index, b"k%d" % n, {}, far) for n in range(30)}
        assert first(index, b"k", {"b/0": 3, "c/0": 3}, far) == "a/0"


@given(st.binary(max_size=8), st.dictionaries(st.sampled_from(["a/0", "b/0", "c/0"]), st.integers(0, 9)))
def test_with_nothing_cached_and_nobody_far_the_order_is_the_rings(key: bytes, work: dict[str, int]) -> None:
    # The gateway makes no outlook then; one that says nothing changes nothing among the idle either.
    idle = dict.fromkeys(work, 0)
    plain = choose(mesh(), X, key, Load(idle))
    assert choose(mesh(), X, key, Load(idle, outlook=Outlook(100))).candidates == plain.candidates


def test_what_is_cached_is_remembered_for_so_many_conversations_and_places() -> None:
    book = Conversations(most=2)
    for at in range(5):
        book.answered(b"one", f"n{at}/0", 100 + at)
    assert dict(book.cached(b"one")) == {"n2/0": 102, "n3/0": 103, "n4/0": 104}
    book.answered(b"two", "a/0", 1)
    book.answered(b"one", "n4/0", 200)
    book.answered(b"three", "a/0", 1)
    assert (dict(book.cached(b"two")), book.cached(b"one")["n4/0"]) == ({}, 200)


def test_the_pace_is_learnt_from_prompts_that_were_computed() -> None:
    book = Conversations()
    book.observed(X, size=4000, cached=0, prefill_s=2.0, held_s=3.0)
    assert book.pace(X) == Pace(2000.0, 3.0)
    book.observed(X, size=4000, cached=3500, prefill_s=0.1, held_s=3.0)
    assert book.pace(X) == Pace(2000.0, 3.0)
    book.observed(X, size=4000, cached=0, prefill_s=1.0, held_s=1.0)
    assert book.pace(X) == Pace(2400.0, 2.6)


def test_of_a_single_slot_an_idle_instance_waits_for_nothing() -> None:
    one = Target("a/0", "a", False, "a:1", True, slots=1, loaded=frozenset({X}))
    outlook = Outlook(0, {}, PACE)
    assert [first_token_s(one, X, busy, outlook) for busy in (0, 1, 2)] == [0.0, 2.0, 4.0]
    assert [first_token_s(target(), X, busy, outlook) for busy in (0, 1, 2, 3)] == [0.0, 0.0, 1.0, 2.0]
    assert soonest_first([one], X, {}, outlook)[0][0] == 0.0
    assert soonest_first([one], X, {"a/0": 1}, outlook)[0][0] == 2.0


def test_more_cached_than_is_asked_saves_no_more_than_all_of_it() -> None:
    assert first_token_s(target(), X, 0, Outlook(100, {"a/0": 900}, PACE)) == 0.0
    assert first_token_s(target(), X, 0, Outlook()) == 0.0


def test_the_pace_of_what_was_never_seen() -> None:
    book = Conversations()
    assert book.pace(X) == Pace(2000.0, 2.0)
    assert Outlook().pace == Pace()
    book.observed(X, size=255, cached=0, prefill_s=1.0, held_s=0.0)
    assert book.pace(X).prefill == 2000.0, "too little to tell by"
    assert book.pace(X).held_s == 1e-3 * 0.8
    other = Conversations()
    other.observed(X, size=256, cached=0, prefill_s=1.0, held_s=1.0)
    assert other.pace(X) == Pace(256.0, 1.0)


def test_a_prompt_that_was_half_computed_tells_of_the_pace() -> None:
    def prefill(cached: int, prefill_s: float = 1.0) -> float:
        book = Conversations()
        book.observed(X, size=4000, cached=cached, prefill_s=prefill_s, held_s=1.0)
        return book.pace(X).prefill

    assert [prefill(2000), prefill(2001), prefill(0, 0.0), prefill(0, 0.5)] == [
        2000.0,
        2000.0,
        2000.0,
        8000.0,
    ]
    assert prefill(1000) == 3000.0


def test_so_many_models_and_conversations_are_remembered() -> None:
    book = Conversations(most=2)
    for name in ("a", "b"):
        book.observed(name, size=1000, cached=0, prefill_s=1.0, held_s=1.0)
    book.observed("a", size=1000, cached=0, prefill_s=1.0, held_s=1.0)
    assert book.pace("b") == Pace(1000.0, 1.0)
    book.observed("c", size=1000, cached=0, prefill_s=1.0, held_s=1.0)
    assert book.pace("b") == Pace()
    assert book.pace("c") == Pace(1000.0, 1.0)
    many = Conversations()
    for number in range(4097):
        many.answered(b"%d" % number, "a/0", 1)
    assert not many.cached(b"0")
    assert many.cached(b"1")
