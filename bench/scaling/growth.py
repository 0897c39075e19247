"""`python -m bench scaling-growth`: what more instances serve, where there is always more to do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from bench.results import record, table
from bench.scaling.fleets import Fixed
from bench.scaling.simulator import Day
from bench.scaling.traffic import SHAPES, Arrival, hold_s

_SIZES = (1, 2, 4, 8, 16)
_SLOTS, _SECONDS, _TURNS = 4, 3600.0, 5
_CLIENTS = (1, 2)  # for each slot


class Clients:
    """Each sends its next request as soon as it has the answer; conversations of five turns on a mean."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._begun = 0

    def begin(self, count: int) -> list[Arrival]:
        """The first request of each."""
        return [self._next(0.0, self._another()) for _ in range(count)]

    def following(self, ended: Arrival, at: float) -> Arrival:
        """The next one."""
        over = self._rng.random() < 1 / _TURNS
        return self._next(at, self._another() if over else ended.session)

    def _another(self) -> bytes:
        self._begun += 1
        return b"%d" % self._begun

    def _next(self, at: float, session: bytes) -> Arrival:
        prefill, decode = hold_s(SHAPES["conversation"], self._rng)
        return Arrival(at, prefill, decode, session)


def growth(_folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """Runs every size and writes the table."""
    rows = []
    for clients in _CLIENTS:
        busy = {count: _busy(count, clients) for count in _SIZES}
        for count in _SIZES:
            share = busy[count] / (count * busy[1])
            used = busy[count] / (count * _SLOTS * _SECONDS)
            rows.append([clients, count, f"{busy[count] / 3600:.1f}", f"{used:.1%}", f"{share:.1%}"])
            print(rows[-1], flush=True)
    head = [
        "clients a slot",
        "instances",
        "slot-hours of work",
        "of all slots",
        "of one instance's, for each",
    ]
    text = (
        f"Virtual instances of {_SLOTS} slots, an hour, requests of the sizes of the Azure 2023 conversation "
        "trace: each client sends the next one when it has its answer. The product's routing and admission "
        "with their defaults. What is lost are slots that are free while a request waits elsewhere for the "
        "instance that has its conversation cached.\n\n"
    )
    record("scaling-growth", "One to sixteen instances", command, versions, text + table(head, rows))


def _busy(count: int, clients: int) -> float:
    """Seconds that slots were in use."""
    source = Clients(seed=count)
    day = Day(Fixed(count), size=count, slots=_SLOTS, lead_s=0.0, following=source.following)
    found = day.run(source.begin(count * _SLOTS * clients), _SECONDS)
    return sum(found.busy_s)
