"""What a model's name means where its copies differ."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.model_digests import Copy, is_meant, meant, moment
from bridge_core.snapshot import MemberModel


def copy(node: str, digest: str, when: str = "", *, own: bool = False, leaving: bool = False) -> Copy:
    return Copy(f"{node}/0", node, MemberModel("x", digest, modified_at=when), own, leaving)


def test_the_own_copy_decides() -> None:
    assert meant([copy("a", "old"), copy("b", "old"), copy("me", "new", own=True)]) == "new"


def test_without_one_most_nodes_decide_and_the_newest_of_equally_many() -> None:
    assert meant([copy("a", "old"), copy("b", "old"), copy("c", "new", "2026-01-02T00:00:00Z")]) == "old"
    pair = [copy("a", "old", "2026-01-01T00:00:00Z"), copy("b", "new", "2026-01-02T00:00:00Z")]
    assert meant(pair) == "new"


def test_several_instances_of_a_node_are_one_voice() -> None:
    twice = [Copy(f"a/{at}", "a", MemberModel("x", "old")) for at in range(3)]
    assert meant([*twice, copy("b", "new"), copy("c", "new")]) == "new"


def test_what_is_leaving_counts_only_alone() -> None:
    leaving = copy("me", "new", own=True, leaving=True)
    assert meant([leaving, copy("b", "old")]) == "old"
    assert meant([leaving]) == "new"


def test_a_copy_of_an_unknown_digest_goes_with_any() -> None:
    copies = [copy("a", ""), copy("b", "old")]
    assert meant(copies) == "old"
    assert all(is_meant(one, "old") for one in copies)
    assert (meant([copy("a", "")]), meant([])) == ("", "")


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01T01:00:10.123456789+01:00", 10.123456),
        ("1970-01-01T00:00:10", 10),
        ("", 0),
        ("x" * 99, 0),
        ("0001-01-01T00:00:00+23:59", 0),
    ],
)
def test_times_are_compared_as_times_whatever_their_zone(stamp: str, seconds: float) -> None:
    assert moment(stamp) == pytest.approx(seconds) or moment(stamp) < 0


@given(st.permutations([copy(f"n{at}", digest) for at, digest in enumerate("aabbc")]))
def test_the_order_of_the_copies_does_not_matter(copies: list[Copy]) -> None:
    assert meant(copies) == "a"
