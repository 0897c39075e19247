"""The queues in front of this node's instances, and the slots that may still be busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from bridge_agent.routing.admission_answers import AdmissionAnswer, Queued
from bridge_agent.routing.admission_rules import Priority, SlotQueue
from bridge_agent.routing.view import Index, Target

# A real Ollama on a CPU goes on with a cancelled prefill for one batch, which takes two to three seconds.
SUSPECT_S: Final = 3.0


class Waiter(Protocol):
    """What may have to wait for a slot."""

    def proceed(self) -> None:
        """It has a slot now; called from the loop, not from within a call to `Admission`."""

    def lose_place(self) -> None:
        """A more urgent one has its place in the queue; called from within a call to `Admission`."""


class Admission:
    """A queue an instance, made when it is first needed.

    Args:
        suspect_s: For how long a slot counts as taken after a cancel that its engine may not have
            noticed yet, where the engine does not say so itself.
    """

    def __init__(self, suspect_s: float = SUSPECT_S) -> None:
        self._suspect_s = suspect_s
        # Asked to watch an instance with a suspect slot; False: time has to free it.
        self.watch: Callable[[str], bool] = lambda _instance: False
        self._queues: dict[str, SlotQueue[Waiter]] = {}
        self._suspected = False
        self._timers: set[asyncio.TimerHandle] = set()

    def take(self, instance: str) -> bool:
        """Takes a free slot, where there is one that nobody waits for."""
        queue = self._queues.get(instance)
        return queue is not None and queue.take()

    def enter(
        self,
        target: Target,
        waiter: Waiter,
        client: str,
        priority: Priority,
        *,
        queue_per_slot: int,
        now: float,
        deadline: float | None,
    ) -> AdmissionAnswer[Waiter]:
        """Asks for a slot; a waiter that is queued is told by `proceed`."""
        queue = self._queues.get(target.id)
        if queue is None:
            queue = self._queues[target.id] = SlotQueue(target.slots)
        bound = queue_per_slot * queue.slots
        answer = queue.offer(waiter, client, priority, bound=bound, now=now, deadline=deadline)
        if isinstance(answer, Queued) and answer.displaced is not None:
            answer.displaced.lose_place()
        return answer

    def leave(self, instance: str, waiter: Waiter, client: str, priority: Priority) -> None:
        """A queued waiter waits no longer."""
        queue = self._queues.get(instance)
        if queue is not None and not queue.leave(waiter, client, priority):
            _wake(queue.give_back(0.0))  # it had been admitted and not yet told

    def give_back(self, instance: str, held_s: float, *, suspect: bool) -> None:
        """A request that had a slot is over; `suspect`: its engine may still work on it."""
        queue = self._queues.get(instance)
        if queue is None:
            return
        admitted = queue.give_back(held_s, suspect=suspect)
        if suspect:
            self._suspected = True
            if not self.watch(instance):
                self._in_time(instance, queue)
        if admitted:
            _wake(admitted)

    def work(self, instance: str) -> int:
        """Requests that run and wait at an instance, and slots that are not free yet."""
        queue = self._queues.get(instance)
        return 0 if queue is None else queue.work

    def suspects(self, instance: str) -> int:
        """Slots that are not free yet although no request has them."""
        queue = self._queues.get(instance)
        return 0 if queue is None else queue.suspect

    def running(self, instance: str) -> int:
        """Requests that have a slot."""
        queue = self._queues.get(instance)
        return 0 if queue is None else queue.running

    def suspected(self) -> dict[str, int]:
        """Slots that are not free yet although no request has them, of the instances with any."""
        if not self._suspected:
            return {}
        found = {name: queue.suspect for name, queue in self._queues.items() if queue.suspect}
        self._suspected = bool(found)
        return found

    def linger(self, instance: str, most: int) -> None:
        """No more than so many suspect slots are still busy; the others are free."""
        queue = self._queues.get(instance)
        while queue is not None and queue.suspect > most:
            _wake(queue.clear())

    def clear_in_time(self, instance: str) -> None:
        """Nobody can say of the suspect slots when they are free: each is after its time."""
        queue = self._queues.get(instance)
        if queue is not None:
            for _ in range(queue.suspect):
                self._in_time(instance, queue)

    def waiting(self) -> dict[str, int]:
        """Requests that wait, by instance."""
        return {name: queue.waiting for name, queue in self._queues.items()}

    def follow(self, index: Index) -> None:
        """Takes the slots that the instances have now; forgets those that are gone and empty."""
        slots = {target.id: target.slots for target in index.local}
        for name, queue in list(self._queues.items()):
            if name in slots:
                if slots[name] != queue.slots:
                    _wake(queue.resize(slots[name]))
            elif not queue.work:
                del self._queues[name]

    def close(self) -> None:
        """Lets go of the timers."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _in_time(self, instance: str, queue: SlotQueue[Waiter]) -> None:
        timer: asyncio.TimerHandle = asyncio.get_running_loop().call_later(
            self._suspect_s, lambda: self._clear(instance, queue, timer)
        )
        self._timers.add(timer)

    def _clear(self, instance: str, queue: SlotQueue[Waiter], timer: asyncio.TimerHandle) -> None:
        self._timers.discard(timer)
        if self._queues.get(instance) is queue:
            _wake(queue.clear())


def _wake(admitted: list[Waiter]) -> None:
    # From the loop: whoever gives a slot back is in the middle of something else.
    loop = asyncio.get_running_loop()
    for waiter in admitted:
        loop.call_soon(waiter.proceed)
