"""`python -m bench scaling-bound`: a fleet that knows the day's curve to a single slot, and not its minutes.

One queue over all slots, first come first served: nothing is routed wrongly, nothing is late, no instance
is coarse. Where one minute says nothing of the next, no autoscaler can do better; where it does, one that
follows what is there can.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.results import quantiles, record, table
from bench.scaling.rows import PEAK_SLOTS
from bench.scaling.traffic import SHAPES, Arrival, day, level

RATIO = 4.0
# (shape, services that together are as many requests, times the load, with drift)
CASES = (
    ("conversation", 1, 1, True),
    ("conversation", 1, 1, False),
    ("conversation", 1, 4, False),
    ("mooncake", 1, 1, True),
    ("code", 1, 1, True),
    ("code", 4, 1, True),
    ("code", 16, 1, True),
    ("code", 64, 1, True),
)
_AIMS = (0.7, 0.65, 0.5)
_LOW, _HIGH = 0.65, 0.75


class Queue:
    """One queue; `slots` at a time of day, or as many all day."""

    def __init__(self, peak: float, aim: float, *, always: bool) -> None:
        self._peak, self._aim, self._always = peak, aim, always
        self._ends: list[float] = []
        self._waiting: deque[Arrival] = deque()
        self._at = 0.0
        self.busy_s, self.slots_s = [0.0] * 24, [0.0] * 24
        self.ttft: list[float] = []

    def run(self, arrivals: Sequence[Arrival]) -> None:
        """The whole day."""
        for arrival in arrivals:
            self._until(arrival.at)
            self._waiting.append(arrival)
            self._begin()
        self._until(math.inf)

    def _slots(self) -> int:
        share = 1.0 if self._always else level(self._at, RATIO)
        return max(1, round(self._peak * share / self._aim))

    def _until(self, at: float) -> None:
        while self._ends and self._ends[0] <= at:
            self._pass(self._ends[0])
            heapq.heappop(self._ends)
            self._begin()
        if at < math.inf:
            self._pass(at)

    def _pass(self, at: float) -> None:
        hour, seconds = min(23, int(self._at // 3600)), at - self._at
        self.busy_s[hour] += seconds * len(self._ends)
        self.slots_s[hour] += seconds * self._slots()
        self._at = at

    def _begin(self) -> None:
        while self._waiting and len(self._ends) < self._slots():
            one = self._waiting.popleft()
            self.ttft.append(self._at - one.at + one.prefill_s)
            heapq.heappush(self._ends, self._at + one.prefill_s + one.decode_s)


def bound(_folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """Runs every case and writes the table."""
    rows = [row for case in CASES for row in _rows(*case)]
    hours = ["busy hours at 65-75 %", "their utilization", "slot-hours"]
    head = ["day", "slots", *hours, "TTFT p50 / p95 / p99 s"]
    text = (
        "One queue over all slots of a mesh, as if it were one instance, that has at every moment as many "
        "slots as the day's curve says, and knows nothing of the minutes. "
        f"{RATIO:.0f}:1; the load is that of `scaling`, a peak of {PEAK_SLOTS:.0f} slots on a mean. Of "
        "several services: as many requests in all, of services that are each as uneven as the trace. "
        "Without drift: each minute as uneven, and by itself. All day: the slots that the peak is sized "
        "for.\n\n"
    )
    title = "A fleet that knows the day and not its minutes"
    record("scaling-bound", title, command, versions, text + table(head, rows))


def _rows(name: str, services: int, times: int, drift: bool) -> list[list[object]]:
    shape = SHAPES[name]
    uneven = shape.minute_cv / math.sqrt(services)
    shape = msgspec.structs.replace(shape, minute_cv=uneven, minute_ac=shape.minute_ac if drift else 0.0)
    peak = PEAK_SLOTS * times
    arrivals = list(day(shape, peak_slots=peak, ratio=RATIO, seed=1))
    words = (
        name + (f", of {services} services" if services > 1 else "") + (f", x{times}" if times > 1 else "")
    )
    rows = []
    for aim, always in ((0.7, True), *((one, False) for one in _AIMS)):
        queue = Queue(peak, aim, always=always)
        queue.run(arrivals)
        rows.append([words, "all day" if always else f"to {aim:.0%}", *_figures(queue)])
        print(rows[-1], flush=True)
    return rows


def _figures(queue: Queue) -> list[object]:
    most = max(queue.busy_s)
    busy = [hour for hour in range(24) if queue.busy_s[hour] >= most / 2]
    used = [queue.busy_s[hour] / queue.slots_s[hour] for hour in busy]
    return [
        f"{sum(_LOW <= one <= _HIGH for one in used)} of {len(used)}",
        f"{min(used):.0%}-{max(used):.0%}",
        f"{sum(queue.slots_s) / 3600:.0f}",
        quantiles(queue.ttft),
    ]
