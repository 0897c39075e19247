"""The queue in front of one instance: who gets its next free slot, and who is told to go.

Rules:
1. As many requests run as the instance has slots, so that its engine never queues.
2. A higher priority goes first. Within one, clients take turns, each its oldest request.
3. No more wait than the bound allows, and nobody whose deadline the expected wait would miss. A
   full queue gives the place of its newest least urgent request to a more urgent one.
4. A slot given back by a request that was cancelled before its first token stays taken until the
   engine is known to be done with it (`clear`): engines finish a prefill that nobody wants.
5. The expected wait is what is ahead times the mean time a slot was held, shared by the slots.
"""

from __future__ import annotations

import math
from collections import deque
from enum import IntEnum
from typing import Final, Generic, TypeVar

from bridge_agent.routing.admission_answers import ADMITTED, QUEUED, AdmissionAnswer, AdmissionRefused, Queued

W = TypeVar("W")

_LONGEST_HINT_S: Final = 60
_SMOOTHED: Final = 5  # held slots, of which the mean is an even one
_SMOOTHING: Final = 1 / _SMOOTHED  # the weight of a further one
_PROVEN: Final = 3  # held slots before the mean is believed


class Priority(IntEnum):
    """How urgent; smaller goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


PRIORITIES: Final = {priority.name.lower().encode(): priority for priority in Priority}


class SlotQueue(Generic[W]):
    """Slots and queue of one instance; waiters are any hashable things.

    Attributes:
        slots: Requests that run at once.
        running: Those that do.
        suspect: Slots whose engine may still be busy with what was cancelled.
        waiting: Those that wait.
    """

    def __init__(self, slots: int) -> None:
        self.slots = max(1, slots)
        self.running = 0
        self.suspect = 0
        self.waiting = 0
        # For each priority, clients in the order of their turns, each with its waiters.
        self._lines: tuple[dict[str, deque[W]], ...] = tuple({} for _ in Priority)
        self._mean = 0.0
        self._held = 0

    @property
    def work(self) -> int:
        """Requests that run and wait, and slots that are not free yet."""
        return self.running + self.suspect + self.waiting

    @property
    def _free(self) -> bool:
        return self.running + self.suspect < self.slots

    def expected_wait(self, priority: Priority = Priority.LOW) -> float:
        """Seconds until a newcomer of this priority would have a slot, as far as can be told."""
        if self._free and not self.waiting:
            return 0.0
        if self._held < _PROVEN:
            return 0.0
        ahead = sum(len(line) for lines in self._lines[: priority + 1] for line in lines.values())
        return (ahead + 1) / self.slots * self._mean

    def take(self) -> bool:
        """Admits a request where a slot is free that nobody waits for."""
        if self.waiting or self.running + self.suspect >= self.slots:
            return False
        self.running += 1
        return True

    def offer(
        self,
        waiter: W,
        client: str,
        priority: Priority,
        *,
        bound: int,
        now: float = 0.0,
        deadline: float | None = None,
    ) -> AdmissionAnswer[W]:
        """Takes a request in, makes it wait, or refuses it."""
        if self.take():
            return ADMITTED
        wait = self.expected_wait(priority)
        hint = max(1, min(_LONGEST_HINT_S, math.ceil(wait)))
        if deadline is not None and now + wait > deadline:
            return AdmissionRefused("server busy: the request would wait longer than its deadline", hint)
        # Last: who is displaced has to be told, so nothing may refuse the newcomer after it.
        displaced = self._displace(priority) if self.waiting >= bound else None
        if self.waiting >= bound:
            return AdmissionRefused("server busy, please try again.  maximum pending requests exceeded", hint)
        self._lines[priority].setdefault(client, deque()).append(waiter)
        self.waiting += 1
        return QUEUED if displaced is None else Queued(displaced)

    def leave(self, waiter: W, client: str, priority: Priority) -> bool:
        """Takes a waiter out of the queue; False when it does not wait."""
        line = self._lines[priority].get(client)
        if line is None or waiter not in line:
            return False
        line.remove(waiter)
        self.waiting -= 1
        if not line:
            del self._lines[priority][client]
        return True

    def give_back(self, held_s: float, *, suspect: bool = False) -> list[W]:
        """A request that ran is over; returns those that have a slot now."""
        self.running -= 1
        if suspect:
            self.suspect += 1
            return []
        held = self._held = self._held + 1
        self._mean += (held_s - self._mean) * (_SMOOTHING if held >= _SMOOTHED else 1 / held)
        return self._fill() if self.waiting else []

    def clear(self) -> list[W]:
        """The engine is done with what a suspect slot was held for; returns those admitted."""
        self.suspect = max(0, self.suspect - 1)
        return self._fill()

    def resize(self, slots: int) -> list[W]:
        """The instance has another number of slots now; returns those admitted."""
        self.slots = max(1, slots)
        return self._fill()

    def _fill(self) -> list[W]:
        admitted = []
        while self.waiting and self._free:
            admitted.append(self._pop())
            self.running += 1
        return admitted

    def _displace(self, priority: Priority) -> W | None:
        """Takes out the newest request of the client that has most of the least urgent ones waiting."""
        for lower in reversed(Priority):
            lines = self._lines[lower]
            if lower > priority and lines:
                client = max(lines, key=lambda name: len(lines[name]))
                waiter = lines[client].pop()
                if not lines[client]:
                    del lines[client]
                self.waiting -= 1
                return waiter
        return None

    def _pop(self) -> W:
        for lines in self._lines:
            if lines:
                client = next(iter(lines))
                line = lines.pop(client)
                waiter = line.popleft()
                if line:
                    lines[client] = line  # at the end: the others come first
                self.waiting -= 1
                return waiter
        raise IndexError("nobody waits")
