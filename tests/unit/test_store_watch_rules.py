"""The watch's resume logic against a store that loses connections, repeats, compacts and is restored."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge_core.store.api import Deleted, KeyValue
from bridge_core.store.watch_rules import (
    REQUESTED_PROGRESS,
    Response,
    WatchHeader,
    WatchLost,
    WatchPosition,
    WatchRefused,
    listed,
    received,
    resumed,
)


def put(revision: int, key: str = "/a") -> KeyValue:
    return KeyValue(key, b"", revision, revision)


def header(revision: int, cluster: int = 1, term: int = 1) -> WatchHeader:
    return WatchHeader(cluster, revision, term)


def test_a_listing_is_followed_from_the_next_revision() -> None:
    assert listed(header(7)) == WatchPosition(8, 1, 1)


def test_a_batch_moves_the_position_past_its_last_event_only() -> None:
    at, changes = received(WatchPosition(8, 1, 1), Response(header(20), events=(put(8), put(11))))
    assert at == WatchPosition(12, 1, 1)
    assert [change.revision for change in changes] == [8, 11]


def test_events_of_one_revision_come_together() -> None:
    events = (put(8), Deleted("/b", 8), put(9))
    _, changes = received(WatchPosition(8, 1, 1), Response(header(9), events=events))
    assert [change.events for change in changes] == [events[:2], events[2:]]


def test_an_event_told_before_is_dropped() -> None:
    at, changes = received(WatchPosition(9, 1, 1), Response(header(9), events=(put(8), put(9))))
    assert at == WatchPosition(10, 1, 1)
    assert [change.revision for change in changes] == [9]


def test_only_the_watch_s_own_progress_moves_the_position() -> None:
    at = WatchPosition(8, 1, 1)
    assert received(at, Response(header(20))) == (WatchPosition(21, 1, 1), ())
    assert received(at, Response(header(20), watch_id=REQUESTED_PROGRESS)) == (at, ())
    assert received(at, Response(header(20), created=True)) == (at, ())


def test_a_cancelled_watch_is_lost_or_refused() -> None:
    at = WatchPosition(8, 1, 1)
    compacted, _ = received(at, Response(header(20), cancelled=True, compact_revision=15))
    assert compacted == WatchLost("compacted up to revision 15")
    denied = Response(header(20), cancelled=True, cancel_reason="rpc error: etcdserver: permission denied")
    assert isinstance(received(at, denied)[0], WatchRefused)
    assert isinstance(received(at, Response(header(20), cancelled=True))[0], WatchLost)


def test_history_is_resumed_only_where_it_was_left() -> None:
    at = WatchPosition(8, cluster_id=1, raft_term=3)
    assert resumed(at, header(7, term=4)) == WatchPosition(8, 1, 4)
    assert isinstance(resumed(at, header(6, term=3)), WatchLost)
    assert isinstance(resumed(at, header(9, term=2)), WatchLost)
    assert isinstance(resumed(at, header(9, cluster=2, term=3)), WatchLost)


class WatchedStore(RuleBasedStateMachine):
    """A store whose every revision changes one key, and a reader that follows the rules.

    The reader's copy is checked against the store's own history after every step: it must equal
    the state at the reader's position, whatever was lost, repeated, compacted or restored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: list[KeyValue | Deleted] = []  # of revisions 2, 3, …
        self.backup: list[KeyValue | Deleted] = []
        self.compacted = 0
        self.term = 1
        self.cluster = 1
        self.position: WatchPosition | None = None
        self.connected = False
        self.sent = 0  # next revision the server puts on the stream
        self.copy: dict[str, int] = {}
        self.told: list[int] = []

    @property
    def revision(self) -> int:
        return 1 + len(self.history)

    def state_at(self, revision: int) -> dict[str, int]:
        state: dict[str, int] = {}
        for event in self.history[: revision - 1]:
            if isinstance(event, Deleted):
                state.pop(event.key, None)
            else:
                state[event.key] = event.mod_revision
        return state

    def head(self) -> WatchHeader:
        return header(self.revision, self.cluster, self.term)

    def take(self, response: Response) -> None:
        assert self.position is not None
        verdict, changes = received(self.position, response)
        for change in changes:
            self.told.append(change.revision)
            for event in change.events:
                if isinstance(event, Deleted):
                    assert event.key in self.copy
                    del self.copy[event.key]
                else:
                    self.copy[event.key] = event.mod_revision
        assert not isinstance(verdict, WatchRefused)
        self.settle(verdict)

    def settle(self, verdict: WatchPosition | WatchLost) -> None:
        self.position = None if isinstance(verdict, WatchLost) else verdict
        self.connected = self.connected and self.position is not None

    @rule(key=st.sampled_from("abc"))
    def write(self, key: str) -> None:
        revision = self.revision + 1
        present = key in self.state_at(self.revision)
        self.history.append(Deleted(key, revision) if present else put(revision, key))

    @rule()
    def back_up(self) -> None:
        self.backup = list(self.history)

    @rule()
    def restore(self) -> None:
        """Restored with etcd's tool, which makes a new cluster of an old history."""
        self.cluster += 1
        self.put_back()

    @precondition(lambda self: self.position is not None)
    @rule()
    def put_files_back(self) -> None:
        """The same cluster with an older history, seen before it has grown again."""
        assert self.position is not None
        if 1 + len(self.backup) < self.position.next_revision - 1:
            self.put_back()
            self.settle(resumed(self.position, self.head()))
            assert self.position is None

    def put_back(self) -> None:
        self.history, self.connected = list(self.backup), False
        self.compacted = min(self.compacted, self.revision)

    @rule()
    def restart(self) -> None:
        self.term, self.connected = self.term + 1, False

    @rule()
    def cut(self) -> None:
        self.connected = False

    @rule()
    def compact(self) -> None:
        self.compacted = self.revision

    @precondition(lambda self: self.position is None)
    @rule()
    def list_all(self) -> None:
        self.position = listed(self.head())
        self.copy = self.state_at(self.revision)
        self.told = []
        self.connected = False

    @precondition(lambda self: self.position is not None and not self.connected)
    @rule()
    def connect(self) -> None:
        assert self.position is not None
        self.settle(resumed(self.position, self.head()))
        if self.position is None:
            return
        self.connected, self.sent = True, self.position.next_revision
        self.take(Response(self.head(), created=True))
        if self.position is not None and self.sent <= self.compacted:
            self.take(Response(self.head(), cancelled=True, compact_revision=self.compacted))
            assert self.position is None

    @precondition(lambda self: self.connected and self.sent <= self.revision)
    @rule(count=st.integers(1, 4), again=st.integers(0, 2))
    def send(self, count: int, again: int) -> None:
        first = max(2, self.sent - again)
        batch = tuple(self.history[first - 2 : self.sent - 2 + count])
        self.sent = batch[-1].mod_revision + 1
        self.take(Response(self.head(), events=batch))

    @precondition(lambda self: self.connected)
    @rule()
    def answer_progress_request(self) -> None:
        """As old servers do: ahead of events still to be sent."""
        self.take(Response(self.head(), watch_id=REQUESTED_PROGRESS))

    @precondition(lambda self: self.connected and self.sent > self.revision)
    @rule()
    def notify_progress(self) -> None:
        self.take(Response(self.head()))

    @invariant()
    def the_copy_is_the_state_at_the_position(self) -> None:
        if self.position is not None and self.connected:
            assert self.copy == self.state_at(self.position.next_revision - 1)
            assert self.told == sorted(set(self.told))


TestWatchedStore = WatchedStore.TestCase
TestWatchedStore.settings = settings(max_examples=60, stateful_step_count=40)
