"""What the registry lends: what it looks at again, forgets and bounds, one message at a time."""

from __future__ import annotations

from bridge_core.quotas import MAX_CELLS, Bucket, CellUse, Quota
from bridge_registry.quotas.lease_rules import LeaseBook

NOW_MS = 1_800_000_000_000
QUOTA = Quota("q", requests=30, window_s=3600.0)
BUCKET = Bucket("q", "ann", NOW_MS, "requests")
CONCURRENT = Quota("q", concurrency=30)
RUNNING = Bucket("q", "ann", 0, "concurrency")
NODES = ("a", "b", "c")


class Mesh:
    """A book, and the streams of three nodes, of which some have reported once."""

    def __init__(self, quota: Quota = QUOTA, bucket: Bucket = BUCKET, *, heard: str = "abc") -> None:
        self.bucket, self.now = bucket, 0.0
        self.book = LeaseBook(self.now)
        self.book.follow([quota], NODES)
        for node in NODES:
            self.book.opened(node, self.now)
        for node in heard:
            self.says(node, first=True)

    def says(
        self,
        node: str,
        used: int | None = None,
        wanted: int = 0,
        limit: int = 10,
        *,
        ack: int = 0,
        first: bool = False,
        began: int = 1,
        cells: list[CellUse] | None = None,
    ) -> None:
        if cells is None:
            cells = [] if used is None else [CellUse(self.bucket, used, wanted, limit)]
        self.book.report(node, cells, began=began, acknowledged=ack, first=first, now=self.now, now_ms=NOW_MS)

    def comes_back(self, node: str, used: int | None = None, limit: int = 10, *, began: int = 1) -> None:
        self.book.closed(node)
        self.book.opened(node, self.now)
        self.says(node, used, limit=limit, first=True, began=began)

    def tick(self) -> None:
        self.book.tick(self.now, NOW_MS)

    def told(self, node: str) -> int | None:
        """The limit that a node is told now."""
        limits = self.book.grants(node)[1]
        return limits[0].limit if limits else None

    def all_to_a(self) -> None:
        """`a` has the whole amount, and has taken it."""
        self.says("a", used=10, wanted=20)
        for node in "bc":
            sequence, _ = self.book.grants(node)
            self.says(node, used=0, limit=0, ack=sequence)
        sequence, (limit,) = self.book.grants("a")
        assert limit.limit == 30
        self.says("a", used=10, wanted=20, limit=30, ack=sequence)

    @property
    def claims(self) -> int:
        return self.book.claims(self.bucket, self.now)

    @property
    def used(self) -> int:
        return sum(use.used for use in self.book.uses() if use.bucket == self.bucket)


# -- streams that begin anew


def test_what_a_node_says_first_on_a_stream_is_what_it_has() -> None:
    mesh = Mesh()
    mesh.all_to_a()
    assert mesh.claims == 30
    mesh.comes_back("a", used=10, limit=10)
    assert mesh.claims == 10, "nothing of what was sent on the stream before can arrive any more"


def test_an_agent_that_began_anew_and_says_nothing_has_used_what_it_had_and_no_more() -> None:
    mesh = Mesh()
    mesh.says("a", used=9)
    mesh.comes_back("a", began=2)
    assert mesh.used == 9
    assert mesh.claims == 9 + 30


def test_a_word_of_another_run_on_the_same_stream_begins_anew_as_well() -> None:
    mesh = Mesh()
    mesh.all_to_a()
    mesh.says("a", began=2)
    assert mesh.used == 10
    assert mesh.claims == 10 + 10
    mesh.says("a", used=0, limit=5, began=2)
    assert mesh.claims == 10 + 5, "it has taken all that it was sent, which is nothing"


def test_a_node_that_is_as_it_begins_is_not_told_what_it_was_to_give() -> None:
    mesh = Mesh()
    mesh.book.closed("b")
    mesh.book.opened("b", mesh.now)
    mesh.says("a", used=10, wanted=5)
    assert mesh.book.due("b")
    mesh.says("a", used=10)
    mesh.says("b", first=True)
    assert mesh.book.grants("b") == (1, [])


def test_of_a_bucket_that_is_forgotten_nobody_is_told() -> None:
    mesh = Mesh()
    mesh.book.closed("b")
    mesh.book.opened("b", mesh.now)
    mesh.book.closed("c")
    mesh.says("a", used=10, wanted=5)
    mesh.comes_back("a")
    mesh.says("b", first=True)
    assert not list(mesh.book.uses())
    assert mesh.book.grants("b") == (1, [])


def test_of_a_quota_that_is_gone_nothing_is_kept() -> None:
    mesh = Mesh()
    mesh.says("a", used=3)
    mesh.book.follow([], NODES)
    assert not list(mesh.book.uses())
    assert mesh.claims == 0
    assert not mesh.book.due("a")


# -- what is looked at again


def test_who_runs_short_is_looked_at_again_when_leases_of_another_leader_are_over() -> None:
    mesh = Mesh(heard="ab")
    mesh.says("a", used=10, wanted=20)
    mesh.told("b")
    mesh.says("b", used=0, limit=0, ack=1)
    assert mesh.told("a") == 10
    mesh.now = 14.9
    mesh.tick()
    assert not mesh.book.due("a")
    mesh.now = 15.0
    mesh.tick()
    assert mesh.told("a") == 20


def test_what_is_over_the_amount_is_taken_from_who_comes_back_later() -> None:
    mesh = Mesh()
    mesh.says("a", used=10)
    for node in "bc":
        mesh.book.closed(node)
    mesh.book.follow([Quota("q", requests=15, window_s=3600.0)], NODES)
    mesh.tick()
    assert mesh.claims == 20
    mesh.comes_back("b")
    assert not mesh.book.due("b")
    mesh.tick()
    assert mesh.told("b") == 0
    mesh.says("b", used=0, limit=0, ack=1)
    assert mesh.claims == 15


def test_a_cell_is_taken_up_only_of_a_node_that_has_one_left_and_only_where_something_is_short() -> None:
    mesh = Mesh()
    many = [Bucket("q", f"u{number}", NOW_MS, "requests") for number in range(MAX_CELLS)]
    mesh.says("c", cells=[CellUse(one, 1, 0, 10) for one in many[1:]])
    mesh.says("b", used=0, limit=5)
    mesh.says("a", used=10, wanted=5)
    assert mesh.told("a") == 15, "all that is there is all that is needed"
    mesh.says("c", cells=[CellUse(many[0], 1, 0, 10)])
    assert many[0] in {use.bucket for use in mesh.book.uses()}, "there was a cell left for it"
    mesh.told("b")
    mesh.told("c")
    mesh.says("a", used=15, wanted=5, limit=15, ack=1)
    assert mesh.told("b") == 0
    assert not mesh.book.due("c")


# -- what has no window


def test_one_that_is_free_is_given_back_to_who_has_less_than_the_share() -> None:
    mesh = Mesh(CONCURRENT, RUNNING)
    mesh.says("b", used=0, limit=9)
    assert mesh.told("b") == 10
    assert mesh.claims == 30


def test_nobody_is_told_that_there_is_nothing_to_give_back() -> None:
    mesh = Mesh(CONCURRENT, RUNNING, heard="")
    mesh.says("a", first=True)
    mesh.says("b", used=0, limit=9, first=True)
    mesh.told("b")
    mesh.says("c", used=0, limit=11, first=True)
    assert mesh.claims == 30
    assert not mesh.book.due("b")
    sequence, (limit,) = mesh.book.grants("c")
    assert limit.limit == 10
    mesh.says("c", used=0, limit=10, ack=sequence)
    assert mesh.told("b") == 10


def test_who_has_the_share_is_forgotten_while_another_gets_some_back() -> None:
    mesh = Mesh(CONCURRENT, RUNNING, heard="")
    mesh.says("a", used=0, limit=10, first=True)
    mesh.told("a")
    mesh.says("b", used=0, limit=8, first=True)
    mesh.told("b")
    mesh.says("c", first=True)
    mesh.says("b", used=0, limit=8, ack=1)
    assert not mesh.book.due("a")
    assert mesh.told("b") == 10


def test_a_window_may_begin_with_the_first_millisecond_of_time() -> None:
    first = Bucket("q", "ann", 1, "requests")
    book = LeaseBook(0.0)
    book.follow([Quota("q", requests=30, window_s=0.001)], NODES)
    book.opened("a", 0.0)
    book.report("a", [CellUse(first, 1, 0, 10)], began=1, acknowledged=0, first=True, now=0.0, now_ms=1)
    assert [use.bucket for use in book.uses()] == [first]
