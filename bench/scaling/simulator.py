"""The discrete events of a day: requests come, are routed and admitted, hold a slot, end; fleets decide.

Real: `routing.choose` over a snapshot with holders, with what agents remember of conversations, `SlotQueue`
with its bound, the autoscaler. Simulated: the clock, how long a prompt and an answer hold a slot, how long an
instance takes to be ready. A cached prompt draws a conversation to where it was answered, as it does at an
agent, but no prompt is computed the faster for it: two of the three traces do not say what prompts share.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from bench.scaling.fleets import Fleet
from bench.scaling.traffic import DAY_S, Arrival
from bridge_agent.routing.admission_answers import AdmissionRefused, Admitted
from bridge_agent.routing.admission_rules import Priority, SlotQueue
from bridge_agent.routing.choose import Load, choose
from bridge_agent.routing.outlook_rules import Conversations, Outlook
from bridge_agent.routing.strategies import Turns
from bridge_agent.routing.view import Index
from bridge_core.counts import Counter
from bridge_core.holders import ModelHolders
from bridge_core.names import canonical
from bridge_core.snapshot import Instance, MemberModel, Node, RoutePolicy, Snapshot, Version, encode_entry

MODEL: Final = canonical("m")
HOUR_S: Final = 3600.0
_END, _STEP = 0, 1
_PACE_S: Final = 1e-3  # sizes of prompts are milliseconds that they take to compute


class Result(msgspec.Struct):
    """What a day came to; by hour where it is a list."""

    served: int = 0
    refused: int = 0
    cut: int = 0  # answers that were under way at an instance that was let go of
    cold: int = 0  # requests at an instance that had not loaded the model
    moves: int = 0
    busy_s: list[float] = msgspec.field(default_factory=lambda: [0.0] * 24)
    active_s: list[float] = msgspec.field(default_factory=lambda: [0.0] * 24)
    held_s: float = 0.0
    ttft: list[float] = msgspec.field(default_factory=list)

    def utilization(self, slots: int) -> list[float]:
        """Of the active instances' slots, by hour."""
        return [
            busy / (active * slots) if active else 0.0
            for busy, active in zip(self.busy_s, self.active_s, strict=True)
        ]

    def quantile(self, share: float) -> float:
        """Seconds to the first token."""
        ordered = sorted(self.ttft)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Day:
    """One day with one fleet; `lead_s` from being held to being ready.

    `following`: what the client of an answered request sends next, at once; None: nothing.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        size: int,
        slots: int,
        lead_s: float,
        following: Callable[[Arrival, float], Arrival | None] = lambda _ended, _at: None,
    ) -> None:
        self._following = following
        self._fleet, self._size, self._slots, self._lead_s = fleet, size, slots, lead_s
        self._queues: list[SlotQueue[int]] = [SlotQueue(slots) for _ in range(size)]
        self._requests: dict[int, Arrival] = {}
        self._work: dict[str, int] = {}
        self._ready_at: dict[int, float] = {}
        self._events: list[tuple[float, int, int, int]] = []
        self._turns = Turns()
        self._conversations = Conversations()
        self._index: Index | None = None
        self._seen: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
        self._at, self._numbers, self._asked = 0.0, 0, 0
        self._ttft = Counter()
        self._running = 0
        self._begun_held: set[int] = set()  # requests that began at an instance that was held
        self.result = Result()

    def run(self, arrivals: Iterable[Arrival], seconds: float = DAY_S) -> Result:
        """The whole day, or so many seconds of it."""
        self._step(first=True)
        for arrival in arrivals:
            self._until(arrival.at)
            self._arrive(arrival)
        self._until(seconds)
        return self.result

    def _arrive(self, arrival: Arrival) -> None:
        number = self._numbers
        self._numbers += 1
        self._asked += 1
        self._requests[number] = arrival
        self._place(number, arrival)

    def _until(self, at: float) -> None:
        while self._events and self._events[0][0] <= at:
            when, kind, number, instance = heapq.heappop(self._events)
            self._pass(when)
            if kind == _STEP:
                self._step()
            else:
                self._ended(number, instance)
        self._pass(at)

    def _pass(self, at: float) -> None:
        seconds, hour = at - self._at, min(23, int(self._at // HOUR_S))
        self.result.busy_s[hour] += seconds * self._running
        self.result.active_s[hour] += seconds * len(self._seen[0])
        self.result.held_s += seconds * len(self._seen[1])
        self._at = at

    def _place(self, number: int, arrival: Arrival) -> None:
        assert self._index is not None
        draw = hash(arrival.session) ^ number * 2654435761
        load = Load(self._work, turns=self._turns, draw=draw, outlook=self._outlook(arrival))
        decision = choose(self._index, MODEL, arrival.session, load)
        bound = decision.policy.admission.queue_per_slot * self._slots
        for target in decision.candidates:
            instance = int(target.node[1:])
            client = arrival.session.decode()
            answer = self._queues[instance].offer(number, client, Priority.NORMAL, bound=bound, now=self._at)
            if isinstance(answer, AdmissionRefused):
                continue
            self._work[target.id] = self._work.get(target.id, 0) + 1
            if isinstance(answer, Admitted):
                self._begin(number, instance)
            return
        self.result.refused += 1
        del self._requests[number]

    def _outlook(self, arrival: Arrival) -> Outlook | None:
        """As the gateway's state has it."""
        cached = self._conversations.cached(arrival.session)
        return Outlook(_size(arrival), cached, self._conversations.pace(MODEL)) if cached else None

    def _begin(self, number: int, instance: int) -> None:
        arrival = self._requests[number]
        late = max(0.0, self._ready_at.get(instance, self._at + self._lead_s) - self._at)
        self.result.cold += late > 0
        self._running += 1
        if instance in self._seen[1]:
            self._begun_held.add(number)
        ttft = self._at + late + arrival.prefill_s - arrival.at
        self.result.ttft.append(ttft)
        self._ttft.answered(ttft, tokens=0, generating_s=0.0, broken=False)
        ends = self._at + late + arrival.prefill_s + arrival.decode_s
        heapq.heappush(self._events, (ends, _END, number, instance))

    def _ended(self, number: int, instance: int) -> None:
        self._running -= 1
        self.result.served += 1
        arrival = self._requests.pop(number)
        held = arrival.prefill_s + arrival.decode_s
        id_ = f"n{instance}/0"
        self._work[id_] -= 1
        if not self._work[id_]:
            del self._work[id_]
        size = _size(arrival)
        self._conversations.answered(arrival.session, id_, size)
        self._conversations.observed(MODEL, size=size, cached=0, prefill_s=arrival.prefill_s, held_s=held)
        if number in self._begun_held:
            self._begun_held.discard(number)
            self.result.cut += instance not in self._seen[1]
        for other in self._queues[instance].give_back(held):
            self._begin(other, instance)
        following = self._following(arrival, self._at)
        if following is not None:
            self._arrive(following)

    def _step(self, *, first: bool = False) -> None:
        busy = {at: (queue.running, queue.waiting) for at, queue in enumerate(self._queues) if queue.work}
        ready = {at for at, when in self._ready_at.items() if when <= self._at}
        self._fleet.step(self._at, busy, ready, self._asked, self._ttft.counts)
        self._asked, self._ttft = 0, Counter()
        seen = (self._fleet.active, self._fleet.held)
        for one in seen[1] - self._seen[1]:
            self._ready_at[one] = self._at if first else self._at + self._lead_s
        for one in self._seen[1] - seen[1]:
            self._ready_at.pop(one, None)
        self.result.moves += seen[0] != self._seen[0] and not first
        if first or seen[0] != self._seen[0]:
            self._index = self._made(seen[0])
        self._seen = seen
        heapq.heappush(self._events, (self._at + self._fleet.every_s, _STEP, 0, 0))

    def _made(self, active: frozenset[int]) -> Index:
        entries: dict[str, bytes] = {}
        for at in range(self._size):
            name = f"n{at}"
            entries[f"node/{name}"] = encode_entry(Node(name, peer=f"{name}:1"))
            loaded = ("m",) if at in active else ()
            one = Instance(f"{name}/0", name, slots=self._slots, models=(MemberModel("m"),), loaded=loaded)
            entries[f"instance/{name}/0"] = encode_entry(one)
        ids = tuple(f"n{at}/0" for at in sorted(active))
        entries["holders/p"] = encode_entry(ModelHolders("p", "m", active=ids))
        index: Any = Index("entry", Snapshot(Version(1, 1), entries), ())
        index.defaults = RoutePolicy()
        found: Index = index
        return found


def _size(arrival: Arrival) -> int:
    return round(arrival.prefill_s / _PACE_S)
