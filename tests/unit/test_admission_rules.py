"""The queue in front of an instance: bounds, turns, priorities, deadlines, suspect slots."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge_agent.routing.admission_answers import ADMITTED, QUEUED, AdmissionRefused, Queued
from bridge_agent.routing.admission_rules import Priority, SlotQueue

NORMAL = Priority.NORMAL


def offer(queue: SlotQueue[str], name: str, client: str = "c", priority: Priority = NORMAL, bound: int = 99):
    return queue.offer(name, client, priority, bound=bound)


def drain(queue: SlotQueue[str]) -> list[str]:
    order = []
    while queue.running:
        order += queue.give_back(1.0)
    return order


def test_no_more_run_than_there_are_slots_and_no_more_wait_than_the_bound() -> None:
    queue: SlotQueue[str] = SlotQueue(2)
    assert [offer(queue, name, bound=1) for name in "ab"] == [ADMITTED, ADMITTED]
    assert offer(queue, "c", bound=1) is QUEUED
    refused = offer(queue, "d", bound=1)
    assert isinstance(refused, AdmissionRefused)
    assert refused.reason.startswith("server busy")
    assert queue.work == 3
    assert queue.give_back(1.0) == ["c"]
    assert queue.running == 2


def test_clients_take_turns_each_with_its_oldest() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    offer(queue, "runs")
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        assert offer(queue, name, client=name[0]) is QUEUED
    assert drain(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_flood_of_one_client_delays_another_by_one_turn() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    offer(queue, "runs")
    for number in range(90):
        offer(queue, f"flood{number}", client="flood")
    offer(queue, "other", client="other")
    assert queue.give_back(1.0) == ["flood0"]
    assert queue.give_back(1.0) == ["other"]


def test_a_higher_priority_goes_first() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    offer(queue, "runs")
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        offer(queue, priority.name, priority=priority)
    assert drain(queue) == ["HIGH", "NORMAL", "LOW"]


def test_who_would_miss_its_deadline_is_refused_at_once_with_the_time_to_come_back() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    for number in range(3):
        offer(queue, str(number))
        queue.give_back(10.0)
    offer(queue, "runs")
    offer(queue, "waits")
    refused = queue.offer("late", "c", NORMAL, bound=9, now=100.0, deadline=115.0)
    assert refused == AdmissionRefused("server busy: the request would wait longer than its deadline", 20)
    assert queue.offer("in time", "c", NORMAL, bound=9, now=100.0, deadline=125.0) is QUEUED
    # Those of lower priority are not ahead of it.
    assert queue.offer("urgent", "c", Priority.HIGH, bound=9, now=100.0, deadline=111.0) is QUEUED


def test_a_suspect_slot_is_not_handed_out_until_it_is_clear() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    offer(queue, "cancelled")
    assert queue.give_back(1.0, suspect=True) == []
    assert offer(queue, "next") is QUEUED
    assert queue.work == 2
    assert queue.clear() == ["next"]


def test_who_leaves_the_queue_is_never_admitted() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    for name in ("runs", "a", "b"):
        offer(queue, name)
    assert queue.leave("a", "c", NORMAL)
    assert not queue.leave("a", "c", NORMAL)
    assert drain(queue) == ["b"]


def test_more_slots_admit_more() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    for name in "abcd":
        offer(queue, name)
    assert queue.resize(3) == ["b", "c"]
    queue.resize(1)
    assert queue.give_back(1.0) == []


def test_a_full_queue_gives_way_to_the_more_urgent() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    offer(queue, "runs")
    for name, client in (("a1", "a"), ("b1", "b"), ("b2", "b")):
        offer(queue, name, client, bound=3)
    assert offer(queue, "urgent", priority=Priority.HIGH, bound=3) == Queued("b2")
    assert isinstance(offer(queue, "late", bound=3), AdmissionRefused)
    assert isinstance(offer(queue, "later", priority=Priority.LOW, bound=3), AdmissionRefused)
    assert queue.waiting == 3
    assert drain(queue) == ["urgent", "a1", "b1"]


def test_who_is_refused_for_its_deadline_takes_nobodys_place() -> None:
    queue: SlotQueue[str] = SlotQueue(1)
    for number in range(3):
        offer(queue, str(number))
        queue.give_back(10.0)
    offer(queue, "runs")
    offer(queue, "waits", bound=1)
    refused = queue.offer("urgent", "c", Priority.HIGH, bound=1, now=100.0, deadline=101.0)
    assert isinstance(refused, AdmissionRefused)
    assert drain(queue) == ["waits"]


class Model(RuleBasedStateMachine):
    """Whatever happens: slots are never exceeded, none stays free while somebody waits, none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: SlotQueue[int] = SlotQueue(2)
        self.running: set[int] = set()
        self.waiting: dict[int, tuple[str, Priority]] = {}
        self.served: Counter[int] = Counter()
        self.number = 0
        self.bound = 6

    def _admit(self, admitted: list[int]) -> None:
        for one in admitted:
            del self.waiting[one]
            self.running.add(one)
            self.served[one] += 1

    @rule(client=st.sampled_from("abc"), priority=st.sampled_from(Priority), hurried=st.booleans())
    def arrive(self, client: str, priority: Priority, hurried: bool) -> None:
        self.number += 1
        deadline = 0.1 if hurried else None
        answer = self.queue.offer(self.number, client, priority, bound=self.bound, deadline=deadline)
        if answer is ADMITTED:
            self.running.add(self.number)
        elif isinstance(answer, Queued):
            if answer.displaced is not None:
                assert self.waiting.pop(answer.displaced)[1] > priority
            self.waiting[self.number] = (client, priority)
        else:
            assert hurried or len(self.waiting) >= self.bound

    @precondition(lambda self: self.running)
    @rule(data=st.data(), suspect=st.booleans())
    def finish(self, data: st.DataObject, suspect: bool) -> None:
        self.running.remove(data.draw(st.sampled_from(sorted(self.running))))
        best = min((priority for _, priority in self.waiting.values()), default=None)
        before = dict(self.waiting)
        admitted = self.queue.give_back(1.0, suspect=suspect)
        if admitted:
            assert before[admitted[0]][1] is best
        self._admit(admitted)

    @precondition(lambda self: self.queue.suspect)
    @rule()
    def clear(self) -> None:
        self._admit(self.queue.clear())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queue.leave(one, *self.waiting.pop(one))

    @rule(slots=st.integers(1, 4))
    def resize(self, slots: int) -> None:
        self._admit(self.queue.resize(slots))

    @invariant()
    def adds_up(self) -> None:
        queue = self.queue
        assert (queue.running, queue.waiting) == (len(self.running), len(self.waiting))
        assert not queue.waiting or queue.running + queue.suspect >= queue.slots
        assert all(count == 1 for count in self.served.values())


TestQueueModel = Model.TestCase
TestQueueModel.settings = settings(max_examples=40, stateful_step_count=30)
