"""What the registry lends, message by message, where messages cross, stop coming, or lie."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.quotas import LEASE_S, MAX_CELLS, SILENT_S, Bucket, CellUse, Quota
from bridge_registry.quotas.division_rules import divide
from bridge_registry.quotas.lease_rules import Holding, LeaseBook

NOW_MS = 1_800_000_000_000
QUOTA = Quota("q", requests=30, window_s=3600.0)
BUCKET = Bucket("q", "ann", NOW_MS, "requests")
NODES = ("a", "b", "c")


class Registry:
    """A book, and the streams of three nodes that have reported once."""

    def __init__(self, *, heard: tuple[str, ...] = NODES) -> None:
        self.now = 0.0
        self.book = LeaseBook(self.now)
        self.book.follow([QUOTA], NODES)
        self.first = set(NODES)
        self.began = dict.fromkeys(NODES, 1)
        for node in NODES:
            self.book.opened(node, self.now)
        for node in heard:
            self.says(node)

    def says(self, node: str, used: int = -1, wanted: int = 0, limit: int = 10, ack: int = 0) -> None:
        cells = [CellUse(BUCKET, used, wanted, limit)] if used >= 0 else []
        self.raw(node, cells, ack)

    def raw(self, node: str, cells: list[CellUse], ack: int = 0) -> None:
        self.book.report(
            node,
            cells,
            began=self.began[node],
            acknowledged=ack,
            first=node in self.first,
            now=self.now,
            now_ms=NOW_MS,
        )
        self.first.discard(node)

    def told(self, node: str) -> tuple[int, int | None]:
        """The number of the message, and the limit in it."""
        sequence, limits = self.book.grants(node)
        return sequence, limits[0].limit if limits else None

    @property
    def claims(self) -> int:
        return self.book.claims(BUCKET, self.now)


def test_a_limit_is_raised_only_once_another_node_has_said_that_it_left_it() -> None:
    mesh = Registry()
    mesh.says("a", used=10, wanted=20)
    assert mesh.told("a")[1] == 10
    lowered = {node: mesh.told(node) for node in "bc"}
    assert {limit for _, limit in lowered.values()} == {0}
    assert mesh.claims == 30
    mesh.says("b", used=0, limit=0, ack=lowered["b"][0])
    assert mesh.told("a")[1] == 20
    mesh.says("c", used=4, limit=4, ack=lowered["c"][0])  # it used some before it heard
    assert mesh.told("a")[1] == 26
    assert mesh.claims == 30


def test_a_report_that_crosses_a_raise_does_not_take_it_back() -> None:
    mesh = Registry()
    mesh.says("a", used=10, wanted=5)
    taken = {node: mesh.told(node)[0] for node in "bc"}
    mesh.told("a")
    for node in "bc":
        mesh.says(node, used=0, limit=7, ack=taken[node])
    assert mesh.told("a")[1] == 15  # on its way
    mesh.says("a", used=10, wanted=0, limit=10, ack=1)  # sent before
    assert mesh.claims == 29
    mesh.says("b", used=7, wanted=30, limit=7, ack=taken["b"])
    assert mesh.claims <= 30
    assert mesh.told("b")[1] == 8


def test_what_was_raised_and_lowered_between_two_reports_is_given_up() -> None:
    mesh = Registry()
    mesh.says("a", used=10, wanted=1)
    taken = {node: mesh.told(node)[0] for node in "bc"}
    mesh.says("b", used=9, limit=9, ack=taken["b"])
    mesh.says("c", used=10, limit=10)
    raised, limit = mesh.told("a")
    assert limit == 11
    mesh.book.follow([Quota("q", requests=29, window_s=3600.0)], NODES)
    mesh.book.tick(mesh.now, NOW_MS)
    lowered, limit = mesh.told("a")
    assert limit == 10
    assert lowered > raised
    mesh.says("a", ack=raised)
    assert mesh.claims == 30
    mesh.says("a", ack=lowered)  # with nothing to say: its limit is what it was when it last said so
    assert mesh.claims == 29


def test_a_registry_that_begins_to_lead_lends_nothing_until_it_has_heard_everybody() -> None:
    mesh = Registry(heard=("a", "b"))
    mesh.says("a", used=10, wanted=20, limit=10)
    taken = mesh.told("b")[0]
    mesh.says("b", used=0, limit=0, ack=taken)
    assert mesh.told("a")[1] == 10
    mesh.now = SILENT_S  # whoever led before: its leases are over
    mesh.says("a", used=10, wanted=20, limit=10)
    assert (mesh.told("a")[1] or 0) > 10


def test_a_silent_nodes_lease_comes_back_after_it_is_over() -> None:
    mesh = Registry()
    mesh.says("a", used=10, wanted=20)
    taken = {node: mesh.told(node)[0] for node in "bc"}
    for node in "bc":
        mesh.says(node, used=0, limit=0, ack=taken[node])
    assert mesh.told("a")[1] == 30
    mesh.book.closed("a")
    mesh.says("b", used=0, wanted=5, limit=0, ack=taken["b"])
    assert not mesh.book.due("b") or mesh.told("b")[1] == 0
    mesh.now += SILENT_S + 0.1
    assert LEASE_S < SILENT_S
    mesh.says("c", used=0, limit=0, ack=taken["c"])
    mesh.book.tick(mesh.now, NOW_MS)
    assert mesh.told("b")[1] == 5


def test_an_agent_that_began_anew_has_its_share_and_what_it_had_used_stays_used() -> None:
    mesh = Registry()
    mesh.says("a", used=9)
    mesh.book.closed("a")
    mesh.book.opened("a", mesh.now)
    mesh.first.add("a")
    mesh.began["a"] = 2
    mesh.says("a", used=1)
    (use,) = mesh.book.uses()
    assert use.used == 10
    mesh.says("b", used=10, wanted=20)
    for node in "ac":
        sequence, limit = mesh.told(node)
        mesh.says(node, used=min(1, limit or 0), limit=limit or 0, ack=sequence)
    assert (mesh.told("b")[1] or 0) <= 20
    assert mesh.claims <= 30


def test_a_quota_that_is_made_smaller_takes_back_what_is_not_used() -> None:
    mesh = Registry()
    mesh.says("a", used=10, wanted=20)
    taken = {node: mesh.told(node)[0] for node in "bc"}
    for node in "bc":
        mesh.says(node, used=0, limit=0, ack=taken[node])
    sequence, limit = mesh.told("a")
    mesh.says("a", used=12, wanted=18, limit=limit or 0, ack=sequence)
    mesh.book.follow([Quota("q", requests=15, window_s=3600.0)], NODES)
    mesh.book.tick(mesh.now, NOW_MS)
    assert mesh.told("a")[1] == 15


def test_of_others_word_only_what_can_be_counts() -> None:
    mesh = Registry()
    lies = [
        Bucket("none", "ann", NOW_MS, "requests"),
        Bucket("q", "ann", NOW_MS, "output_tokens"),
        Bucket("q", "ann", NOW_MS + 1, "requests"),
        Bucket("q", "ann", NOW_MS + 3_600_000 * 5, "requests"),
        Bucket("q", "ann", NOW_MS - 3_600_000 * 5, "requests"),
        Bucket("q", "ann", 0, "requests"),
        Bucket("q", "x" * 2_000, NOW_MS, "requests"),
    ]
    mesh.raw("a", [CellUse(one, 1 << 60, 1 << 60, 1 << 60) for one in lies])
    assert not list(mesh.book.uses())
    many = [Bucket("q", f"u{number}", NOW_MS, "requests") for number in range(MAX_CELLS + 50)]
    mesh.raw("a", [CellUse(one, 1, 0, 10) for one in many])
    assert len(list(mesh.book.uses())) == MAX_CELLS
    mesh.says("b", used=0, wanted=1 << 53, limit=1 << 60)
    assert mesh.claims <= 60  # no limit counts for more than the amount


def test_a_window_that_is_over_is_forgotten() -> None:
    mesh = Registry()
    mesh.says("a", used=3)
    mesh.book.tick(mesh.now, NOW_MS + 3_600_000 + 10_001)
    assert not list(mesh.book.uses())
    mesh.book.follow([], NODES)
    mesh.book.tick(mesh.now, NOW_MS)


@given(st.integers(-5, 200), st.dictionaries(st.text(max_size=2), st.integers(0, 50), max_size=6))
def test_a_division_is_whole_and_gives_nobody_more_than_they_could_take(whole: int, among: Any) -> None:
    parts = divide(whole, among)
    assert sum(parts.values()) == max(0, min(whole, sum(among.values())))
    assert all(0 < part <= among[name] for name, part in parts.items())


def test_a_division_is_in_proportion() -> None:
    assert divide(10, {"a": 30, "b": 10}) == {"a": 8, "b": 2}


@pytest.mark.parametrize("node", NODES)
def test_whoever_is_told_nothing_has_the_equal_share(node: str) -> None:
    mesh = Registry()
    mesh.says(node, used=1)
    assert mesh.told(node)[1] == 10


def test_what_a_holding_lacks_and_has_to_spare() -> None:
    def held(**fields: int) -> Holding:
        made = Holding(10)
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    new = held()
    assert (new.claim, new.sent, new.sequence, new.used, new.wanted, new.spent) == (10, 10, 0, 0, 0, 0)
    assert (new.need(30), new.spare(30), new.unused, new.returning) == (0, 10, 10, 0)
    assert held(used=8, wanted=5).need(30) == 3
    assert held(used=8, wanted=50).need(30) == 20, "no more than there is"
    assert held(used=8, wanted=1).need(30) == 0
    assert held(used=2, wanted=3).spare(30) == 5
    assert held(used=2, wanted=3, sent=7).spare(30) == 2
    assert held(used=2, wanted=3, claim=6).spare(30) == 1
    assert held(used=9, wanted=3).spare(30) == 0
    assert held(used=9, wanted=9).spare(5) == 1, "what it used beyond the amount is not to be had back"
    assert held(used=2, sent=7).unused == 5
    assert held(used=2, claim=6).unused == 4
    assert held(used=12).unused == 0
    assert held(sent=4).returning == 6
    assert held(sent=4, used=7).returning == 3
    assert held(sent=12).returning == 0


def test_words_of_a_window_count_while_clocks_may_differ() -> None:
    mesh = Registry()
    window = 3_600_000

    def counts(begins: int, now_ms: int) -> bool:
        bucket = Bucket("q", "ann", begins, "requests")
        mesh.book.report(
            "a", [CellUse(bucket, 1, 0, 10)], began=1, acknowledged=0, first=False, now=0.0, now_ms=now_ms
        )
        found = any(use.bucket == bucket for use in mesh.book.uses())
        mesh.book.tick(0.0, NOW_MS * 2)
        return found

    begins = NOW_MS - NOW_MS % window
    assert counts(begins, begins - 10_000)
    assert not counts(begins, begins - 10_001)
    assert counts(begins, begins + window + 9_999)
    assert not counts(begins, begins + window + 10_000)
    assert not counts(begins + 1, begins + 1)
    assert not counts(0, 0)


def test_a_window_is_forgotten_once_no_clock_is_in_it() -> None:
    for late, kept in ((10_000, 1), (10_001, 0)):
        mesh = Registry()
        mesh.says("a", used=3)
        mesh.book.tick(mesh.now, NOW_MS + 3_600_000 + late)
        assert len(list(mesh.book.uses())) == kept


@pytest.mark.parametrize(("length", "taken"), [(1024, 1), (1025, 0)])
def test_whose_a_bucket_is_has_a_length(length: int, taken: int) -> None:
    mesh = Registry()
    mesh.raw("a", [CellUse(Bucket("q", "x" * length, NOW_MS, "requests"), 1, 0, 10)])
    assert len(list(mesh.book.uses())) == taken


def test_figures_are_bounded_by_what_every_program_reads_exactly() -> None:
    mesh = Registry()
    mesh.says("a", used=1 << 60)
    (use,) = mesh.book.uses()
    assert (use.used, use.nodes) == (1 << 53, 1)
    mesh.says("b", used=5)
    (use,) = mesh.book.uses()
    assert (use.used, use.nodes) == ((1 << 53) + 5, 2)
    mesh.says("c", used=0, wanted=3)
    (use,) = mesh.book.uses()
    assert use.nodes == 2


def test_what_others_used_is_told_with_a_limit() -> None:
    mesh = Registry()
    mesh.says("a", used=3)
    mesh.says("b", used=4)
    mesh.says("a", used=3, wanted=1)
    _, (limit,) = mesh.book.grants("a")
    assert (limit.limit, limit.others) == (10, 4)
    assert not mesh.book.due("a")
    sequence, none = mesh.book.grants("a")
    assert (sequence, none) == (2, [])


def test_silence_ends_a_lease_after_fifteen_seconds_and_not_before() -> None:
    mesh = Registry()
    mesh.says("a", used=10, wanted=20)
    taken = {node: mesh.told(node)[0] for node in "bc"}
    for node in "bc":
        mesh.says(node, used=0, limit=0, ack=taken[node])
    assert mesh.told("a")[1] == 30
    assert mesh.claims == 30
    mesh.now = 15.0
    assert mesh.claims == 30
    mesh.now = 15.1
    assert mesh.claims == 30, "each of the three counts for its share"
    mesh.says("a", used=28, limit=30, ack=1)
    mesh.now = 31.0
    assert mesh.claims == 28 + 10 + 10, "or for what it used"


def test_a_lead_that_has_lasted_fifteen_seconds_lends_without_having_heard_everybody() -> None:
    for now, limit in ((14.9, 10), (15.0, 20)):
        mesh = Registry(heard=("a", "b"))
        mesh.now = now
        mesh.says("b", used=0, limit=0)
        mesh.says("a", used=10, wanted=20)
        assert mesh.told("a")[1] == limit, now


CONCURRENT = Quota("q", concurrency=30)
RUNNING = Bucket("q", "ann", 0, "concurrency")


def test_of_what_has_no_window_whoever_is_idle_goes_back_to_the_share() -> None:
    mesh = Registry()
    mesh.book.follow([CONCURRENT], NODES)

    def says(node: str, used: int, wanted: int, limit: int, ack: int = 0) -> None:
        mesh.raw(node, [CellUse(RUNNING, used, wanted, limit)], ack)

    says("a", 10, 20, 10)
    taken = {node: mesh.told(node)[0] for node in "bc"}
    for node in "bc":
        says(node, 0, 0, 0, taken[node])
    sequence, limit = mesh.told("a")
    assert limit == 30
    says("a", 0, 0, 30, sequence)
    sequence, limit = mesh.told("a")
    assert limit == 10
    says("a", 0, 0, 10, sequence)
    for node in "bc":
        sequence, limit = mesh.told(node)
        assert limit == 10
        says(node, 0, 0, 10, sequence)
    for node in NODES:
        sequence, _ = mesh.told(node)
        says(node, 0, 0, 10, sequence)
        mesh.told(node)
    mesh.book.tick(mesh.now, NOW_MS)
    assert mesh.book.claims(RUNNING, mesh.now) == 30
    mesh.book.follow([CONCURRENT], NODES)
    mesh.book.tick(mesh.now, NOW_MS)
    assert not list(mesh.book.uses()), "everybody has the share and uses none of it: nothing is remembered"


@pytest.mark.parametrize(("used", "wanted", "limit"), [(5, 0, None), (0, 5, None), (0, 0, 10)])
def test_while_somebody_uses_or_wants_some_nobody_goes_back(
    used: int, wanted: int, limit: int | None
) -> None:
    mesh = Registry()
    mesh.book.follow([CONCURRENT], NODES)
    mesh.raw("a", [CellUse(RUNNING, 10, 20, 10)])
    for node in "bc":
        mesh.raw(node, [CellUse(RUNNING, 0, 0, 0)], mesh.told(node)[0])
    sequence, raised = mesh.told("a")
    assert raised == 30
    mesh.raw("a", [CellUse(RUNNING, used, wanted, 30)], sequence)
    assert mesh.told("a")[1] == (30 if limit is None else limit)


def test_nothing_is_taken_back_from_who_does_not_hear_it() -> None:
    mesh = Registry()
    mesh.says("c", used=0)
    mesh.told("c")
    mesh.book.closed("c")
    mesh.says("a", used=10, wanted=20)
    assert mesh.book.due("b")
    assert not mesh.book.due("c")


def test_a_concurrency_that_says_when_it_begins_is_none() -> None:
    mesh = Registry()
    mesh.book.follow([CONCURRENT], NODES)
    mesh.raw("a", [CellUse(Bucket("q", "ann", NOW_MS, "concurrency"), 1, 0, 10)])
    assert not list(mesh.book.uses())
    mesh.raw("a", [CellUse(RUNNING, 1, 0, 10)])
    assert len(list(mesh.book.uses())) == 1
    mesh.book.tick(mesh.now, NOW_MS * 2)
    assert len(list(mesh.book.uses())) == 1, "it is never over"
