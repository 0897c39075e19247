"""Which models go from a full disk, and which never."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.models.removal_rules import Held, evicted, excess, refusal

MODELS = st.lists(
    st.builds(
        Held,
        name=st.uuids().map(str),
        size=st.integers(0, 50),
        others=st.integers(0, 2),
        loaded=st.booleans(),
        running=st.integers(0, 2),
        used=st.floats(0, 5),
    ),
    max_size=8,
)


def test_why_a_model_stays() -> None:
    assert refusal(Held("m", 5, 1)) == ""
    assert refusal(Held("m", 5, 0)).endswith("it is the last copy")
    assert refusal(Held("m", 5, 0), last_copy=True) == ""
    assert "in memory" in refusal(Held("m", 5, 1, loaded=True), last_copy=True)
    assert refusal(Held("m", 5, 1, loaded=True, running=2)).startswith("2 requests")


@given(MODELS, st.integers(1, 200))
def test_enough_goes_or_nothing_and_never_what_stays(models: list[Held], needed: int) -> None:
    gone = evicted(models, needed)
    able = [one for one in models if one.others and not one.loaded and not one.running]
    if sum(one.size for one in able) < needed:
        assert gone == []
        return
    assert all(one in able for one in gone)
    assert sum(one.size for one in gone) >= needed
    assert sum(one.size for one in gone[:-1]) < needed
    kept = [one for one in able if one not in gone and one.size]
    assert all(last.used <= one.used for last in gone for one in kept)


def test_of_equally_old_ones_the_largest_goes() -> None:
    small, large = Held("s", 5, 1), Held("l", 9, 1)
    assert evicted([small, large], 5) == [large]
    assert evicted([small, large], 10) == [large, small]
    assert evicted([small, large], 15) == []


def test_what_has_to_go_is_what_does_not_fit() -> None:
    assert excess(10, 5, 12) == 3
    assert excess(10, 2, 12) == 0
    assert excess(20, 0, 12) == 8
    assert excess(0, 0, 0) == 0


def test_what_is_just_enough_is_enough_and_what_frees_nothing_stays() -> None:
    first, second, nothing = Held("a", 5, 1, used=1.0), Held("b", 5, 1, used=2.0), Held("c", 0, 1)
    assert nothing.used == 0.0
    assert evicted([first, second, nothing], 5) == [first]
    assert evicted([first, second, nothing], 10) == [first, second]
    assert evicted([Held("d", 1, 1)], 1) == [Held("d", 1, 1)]
