"""The queue in front of an instance at its limits: expected waits, hints, bounds, deadlines."""

from __future__ import annotations

import pytest

from bridge_agent.routing.admission_answers import ADMITTED, QUEUED, AdmissionRefused, Queued
from bridge_agent.routing.admission_rules import PRIORITIES, Priority, SlotQueue

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW


def held(slots: int, *seconds: float) -> SlotQueue[str]:
    """A queue whose slots were held for so long, and are full."""
    queue: SlotQueue[str] = SlotQueue(slots)
    for one in seconds:
        assert queue.take()
        queue.give_back(one)
    while queue.take():
        pass
    return queue


def test_the_priorities_by_their_names() -> None:
    assert PRIORITIES == {b"high": HIGH, b"normal": NORMAL, b"low": LOW}
    assert [int(one) for one in Priority] == [0, 1, 2]


@pytest.mark.parametrize("slots", [0, -5, 1])
def test_an_instance_has_one_slot_at_least(slots: int) -> None:
    queue: SlotQueue[str] = SlotQueue(slots)
    assert [queue.take(), queue.take()] == [True, False]
    assert (queue.running, queue.suspect, queue.waiting) == (1, 0, 0)
    queue.resize(3)
    assert [queue.take() for _ in range(3)] == [True, True, False]
    queue.resize(slots)
    assert queue.slots == 1


def test_a_mean_is_believed_from_the_third_held_slot_on() -> None:
    assert held(1, 10.0, 10.0).expected_wait() == 0.0
    assert held(1, 10.0, 10.0, 10.0).expected_wait() == 10.0


@pytest.mark.parametrize(
    ("seconds", "mean"),
    [
        ((10.0, 20.0, 30.0), 20.0),
        ((10.0, 20.0, 30.0, 60.0), 30.0),
        ((10.0, 20.0, 30.0, 60.0, 80.0), 40.0),
        ((10.0, 20.0, 30.0, 60.0, 80.0, 90.0), 50.0),  # from here on a fifth of the way
        ((10.0, 20.0, 30.0, 60.0, 80.0, 90.0, 0.0), 40.0),
    ],
)
def test_the_mean_of_the_first_five_is_plain_and_then_it_follows(
    seconds: tuple[float, ...], mean: float
) -> None:
    assert held(1, *seconds).expected_wait() == pytest.approx(mean)


def test_what_is_ahead_is_shared_by_the_slots_and_only_the_as_urgent_count() -> None:
    queue = held(2, 10.0, 10.0, 10.0)
    assert queue.expected_wait(HIGH) == 5.0
    for name, priority in (("h", HIGH), ("n", NORMAL), ("m", NORMAL), ("l", LOW)):
        assert queue.offer(name, name, priority, bound=9) is QUEUED
    assert [queue.expected_wait(one) for one in Priority] == [10.0, 20.0, 25.0]
    assert queue.expected_wait() == 25.0


def test_with_a_free_slot_nobody_waits() -> None:
    queue = held(1, 10.0, 10.0, 10.0)
    queue.give_back(10.0)
    assert queue.expected_wait() == 0.0
    queue.take()
    assert queue.expected_wait() == 10.0, "all run and nobody waits: one has to end"


@pytest.mark.parametrize(
    ("seconds", "hint"), [(0.1, 1), (1.0, 1), (1.1, 2), (59.5, 60), (60.0, 60), (90.0, 60)]
)
def test_who_is_refused_is_told_when_to_come_back(seconds: float, hint: int) -> None:
    refused = held(1, seconds, seconds, seconds).offer("x", "c", LOW, bound=0)
    assert isinstance(refused, AdmissionRefused)
    assert refused.retry_after_s == hint
    assert isinstance(held(1).offer("x", "c", LOW, bound=0), AdmissionRefused)


def test_a_wait_that_ends_at_the_deadline_is_in_time() -> None:
    queue = held(1, 10.0, 10.0, 10.0)
    late = queue.offer("a", "c", LOW, bound=9, now=100.0, deadline=109.9)
    assert isinstance(late, AdmissionRefused)
    assert "deadline" in late.reason
    assert queue.waiting == 0
    assert queue.offer("a", "c", LOW, bound=9, now=100.0, deadline=110.0) is QUEUED
    assert held(1, 10.0, 10.0, 10.0).offer("a", "c", LOW, bound=9, deadline=10.0) is QUEUED


def test_a_free_slot_is_given_whatever_the_bound_and_the_deadline() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    assert queue.offer("a", "c", LOW, bound=0, now=5.0, deadline=1.0) is ADMITTED


def test_the_bound_is_how_many_wait() -> None:
    queue = held(1)
    assert queue.offer("a", "c", NORMAL, bound=2) is QUEUED
    assert queue.offer("b", "c", NORMAL, bound=2) is QUEUED
    assert isinstance(queue.offer("x", "c", NORMAL, bound=2), AdmissionRefused)
    assert queue.waiting == 2


def test_who_is_displaced_is_the_newest_of_the_least_urgent_of_whom_most_wait() -> None:
    queue = held(1)
    for name in ("n1", "n2"):
        queue.offer(name, "n", NORMAL, bound=9)
    for name in ("a1", "b1", "b2"):
        queue.offer(name, name[0], LOW, bound=9)
    assert queue.offer("h1", "h", HIGH, bound=5) == Queued("b2")
    assert queue.offer("n3", "h", NORMAL, bound=5) == Queued("a1")
    assert queue.offer("h2", "h", HIGH, bound=5) == Queued("b1")
    assert isinstance(queue.offer("n4", "h", NORMAL, bound=5), AdmissionRefused)
    assert queue.offer("h3", "h", HIGH, bound=5) == Queued("n2")
    assert queue.waiting == 5
    order = [queue.give_back(1.0) for _ in range(6)]
    assert order == [["h1"], ["h2"], ["h3"], ["n1"], ["n3"], []]


def test_who_leaves_waits_no_more_and_cannot_leave_twice() -> None:
    queue = held(1)
    queue.offer("a", "c", LOW, bound=9)
    queue.offer("b", "c", LOW, bound=9)
    assert not queue.leave("a", "other", LOW)
    assert not queue.leave("a", "c", HIGH)
    assert not queue.leave("x", "c", LOW)
    assert queue.waiting == 2
    assert queue.leave("a", "c", LOW)
    assert not queue.leave("a", "c", LOW)
    assert queue.leave("b", "c", LOW)
    assert queue.waiting == 0
    assert queue.give_back(1.0) == []
    assert queue.offer("d", "c", LOW, bound=9) is ADMITTED


def test_a_suspect_slot_counts_as_work_until_it_is_clear() -> None:
    queue = held(1, 10.0, 10.0, 10.0)
    assert queue.give_back(500.0, suspect=True) == []
    assert (queue.running, queue.suspect, queue.work) == (0, 1, 1)
    assert not queue.take()
    assert queue.expected_wait() == 10.0, "how long a suspect slot was held teaches nothing"
    queue.offer("a", "c", LOW, bound=9)
    assert queue.work == 2
    assert queue.clear() == ["a"]
    assert queue.clear() == []
    assert (queue.running, queue.suspect, queue.work) == (1, 0, 1)
    assert not queue.take()


def test_each_suspect_slot_is_cleared_by_itself() -> None:
    queue = held(2)
    queue.give_back(1.0, suspect=True)
    queue.give_back(1.0, suspect=True)
    assert [queue.clear(), queue.suspect, queue.take(), queue.take()] == [[], 1, True, False]


def test_more_slots_admit_who_waits_and_no_more() -> None:
    queue = held(1)
    for name in "abc":
        queue.offer(name, "c", LOW, bound=9)
    assert queue.resize(3) == ["a", "b"]
    assert (queue.running, queue.waiting) == (3, 1)
    assert queue.resize(2) == []
    assert queue.give_back(1.0) == []
    assert queue.give_back(1.0) == ["c"]
