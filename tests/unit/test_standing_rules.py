"""Whose clock is another one, and who is cut off: what follows from what nodes report."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_registry.health.standing_rules import OWN, clocks_off, cut_off, lead


def test_a_lead_is_what_the_node_says_beside_when_it_came() -> None:
    assert lead(1030.0, 1000.0) == 30.0
    assert lead(900.0, 1000.0) == -100.0
    assert lead(0.0, 1000.0) is None, "an agent that does not tell"
    assert lead(math.nan, 1000.0) is None
    assert lead(math.inf, 1000.0) is None


def test_a_clock_more_than_certificates_allow_from_the_middle_is_off() -> None:
    assert clocks_off({"a": [0.0], "b": [20.0], "c": [-20.0]}) == {}
    assert clocks_off({"a": [0.0], "b": [20.5], "c": [0.0]}) == {"b": 20.5}
    assert clocks_off({"a": [0.0], "b": [-3600.0], "c": [0.0]}) == {"b": -3600.0}


def test_reports_that_were_long_on_their_way_are_no_clock() -> None:
    assert clocks_off({"a": [-25.0, -0.1], "b": [0.0], "c": [0.0]}) == {}
    assert clocks_off({"a": [-25.0, -25.1], "b": [0.0], "c": [0.0]}) == {"a": -25.0}


def test_where_all_others_agree_the_registry_is_off() -> None:
    assert clocks_off({"a": [3600.0], "b": [3600.0], "c": [3601.0]}) == {OWN: -3600.0}
    assert clocks_off({"a": [3600.0], "b": [3600.0]}) == {"a": 3600.0, "b": 3600.0}, "too few to say that"
    assert clocks_off({"a": [], "b": [3600.0]}) == {"b": 3600.0}


def test_who_more_than_half_of_the_others_get_no_answer_from_is_cut_off() -> None:
    assert cut_off({"a": ["c"], "b": ["c"], "c": []}) == {"c": ("a", "b")}
    assert cut_off({"a": ["c"], "b": [], "c": []}) == {}, "one alone says nothing of anybody"
    assert cut_off({"a": ["b"], "b": []}) == {"b": ("a",)}, "where there is only one"
    assert cut_off({"a": ["d"], "b": ["d"], "c": [], "d": [], "e": []}) == {}
    assert cut_off({"a": ["x"], "b": ["x"]}) == {"x": ("a", "b")}, "also one that does not report"
    assert cut_off({"a": ["c", "d"], "b": ["c", "d"], "c": ["a", "b"], "d": ["a", "b"]}) == {
        "a": ("c", "d"),
        "b": ("c", "d"),
        "c": ("a", "b"),
        "d": ("a", "b"),
    }, "two halves"


NAMES = [f"n{at}" for at in range(6)]


@given(
    honest=st.dictionaries(st.sampled_from(NAMES[1:]), st.just(()), min_size=2),
    lies=st.sets(st.sampled_from(NAMES)),
)
def test_a_node_that_lies_cuts_nobody_off(honest: dict[str, tuple[()]], lies: set[str]) -> None:
    assert cut_off({**honest, NAMES[0]: lies}) == {}


@given(
    honest=st.lists(st.floats(-9.0, 9.0), min_size=3, max_size=9),
    told=st.one_of(st.floats(-1e12, 1e12), st.none()),
)
def test_a_node_that_lies_of_its_clock_is_the_only_one_that_is_off(
    honest: list[float], told: float | None
) -> None:
    leads = {f"n{at}": [one] for at, one in enumerate(honest)}
    found = clocks_off({**leads, "liar": [] if told is None else [told]})
    assert found.keys() <= {"liar"}
    if told is not None and abs(told) > 40.0:
        assert found["liar"] == pytest.approx(told, abs=20.0)
