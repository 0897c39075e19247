"""All series of one figure: what was read of each, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from bridge_core import gauges
from bridge_core.snapshot import Snapshot
from bridge_registry.alerts.alert_rules import MOST_SUMMARY, Seen
from bridge_registry.alerts.places import Places
from bridge_registry.forecasts import holt_winters_rules as hw
from bridge_registry.forecasts import outlook_rules as rules
from bridge_registry.forecasts.holt_winters_rules import Flags, Floats, Whole
from bridge_registry.forecasts.outlook_rules import FIGURES
from bridge_registry.forecasts.reading_rules import Place, Reading

MOST_SERIES: Final = 8192
"""Of one figure: a thousand nodes with eight GPUs. A series is 3 KiB."""
MOST_OF_NODE: Final = 32
"""Of one figure: a node that makes up series hides its own alone."""
NOTHING: Final = "No limit is forecast to be hit within a day."
"""What `bridgectl forecast` says then."""
_SHARES: Final = frozenset({gauges.DISK, gauges.VRAM})  # are forecast as shares of their limit
_UNITS: Final = {gauges.QUEUE: 256.0, gauges.TOKENS: 64.0}  # so that these are about one, too
_HOUR: Final = 60  # steps
_MOST: Final = 1e12  # whatever a node says, its squares are numbers


class Forecast(msgspec.Struct, frozen=True):
    """What is to be expected of one series, in its figure's unit.

    Attributes:
        figure: Of `FIGURES`.
        place: Which series.
        value: What it is, smoothed.
        limit: Where it ends; 0: nowhere.
        hourly: How much more it becomes in an hour, without the season.
        hour: What it will be in an hour: the least, what is likely, the most.
        earliest_s: Seconds until the limit; infinity: not within a day.
        likely_s: The same.
        latest_s: The same.
        raised: Whether there is an alert.
        watched_s: For how long it has been watched.
        seasonal: Whether the hour of the day counts.
    """

    figure: str
    place: Place
    value: float
    limit: float
    hourly: float
    hour: tuple[float, float, float]
    earliest_s: float
    likely_s: float
    latest_s: float
    raised: bool
    watched_s: float
    seasonal: bool

    @property
    def says(self) -> str:
        """When it hits its limit, in a sentence."""
        until = rules.when(self.earliest_s, self.likely_s, self.latest_s)
        said = rules.what(self.figure, self.place.instance or self.place.node, self.place.of)
        return rules.sentence(self.figure, said, until, self.value, self.limit)


class Series:
    """All series of one figure; one task feeds it.

    Args:
        figure: Its name, of `FIGURES`.
        kept: What an earlier leader had raised of it, by place.
    """

    def __init__(self, figure: str, kept: Mapping[Place, Seen]) -> None:
        self.figure = figure
        self._how = FIGURES[figure]
        self._kept = dict(kept)
        self._rows = Places[Place](MOST_SERIES, MOST_OF_NODE)
        self._state = hw.empty(0, rules.SLOTS)
        self._alarm = rules.no_alarm(0)
        self._unit = self._limit = np.zeros(0)
        self._hits = rules.Hits(np.zeros(0), np.zeros(0), np.zeros(0))
        self._step = 0

    def __len__(self) -> int:
        return len(self._rows)

    def look(self, readings: Iterable[Reading], snapshot: Snapshot, now: float) -> None:
        """A step at Unix time `now`. Of nodes and instances that are not in the snapshot nothing is kept."""
        told = {one.place: one for one in readings}
        self._make_room(told, snapshot)
        many = len(self._rows)
        value = np.full(many, np.nan)
        for place, one in told.items():
            row = self._rows.row(place)
            if row is None:
                continue
            share = self.figure in _SHARES
            unit = one.limit if share else _UNITS[self.figure]
            self._unit[row], self._limit[row] = unit, one.limit / unit or np.nan
            value[row] = min(_MOST, one.value / unit)
        self._step = int(now // rules.STEP_S) % rules.DAY
        slot = self._step * rules.SLOTS // rules.DAY
        self._state = hw.step(self._state, self._how.manner, value, slot, rules.DAY)
        self._hits = rules.hits(self._state, self._how.manner, self._limit, self._step)
        self._alarm = rules.watched(self._alarm, self._state, self._how, self._hits, np.isfinite(value))

    def seen(self) -> Iterator[Seen]:
        """What will be full."""
        if not self._alarm.raised.any():  # as nearly always, and it is asked every second
            return
        known = rules.known(self._state)
        for place, _row in self._at(self._alarm.raised & ~known):
            if place in self._kept:
                yield self._kept[place]  # it says so itself before long, or that it is over
        for one in self._of(self._at(self._alarm.raised & known)):
            place = one.place
            yield Seen(
                self._how.alert,
                "warning",
                place.node,
                place.instance,
                one.says[:MOST_SUMMARY],
                f"bridgectl forecast {place.node}",
                NOTHING,
                of=place.of,
                moved=self._how.moved,
            )

    def forecasts(self, node: str = "", *, hit: bool = False) -> Iterator[Forecast]:
        """What there is to say; of one node, or of all; with `hit` of those alone that hit their limit."""
        there = rules.known(self._state)
        if hit:
            there &= np.isfinite(self._hits.likely)
        return self._of(sorted(one for one in self._at(there) if node in {"", one[0].node}))

    def fullest(self) -> dict[str, tuple[float, float, float]]:
        """Of each node's series that will be the fullest in an hour: how much of its limit it is now, is
        likely to be then, and may be. Nothing of a figure that is no worse for being high.
        """
        if self._how.manner.towards < 0 or not len(self):
            return {}
        found = self._at(rules.known(self._state) & (self._limit > 0.0))
        rows = np.array([row for _, row in found], dtype=np.int64)
        mean, spread = self._in_an_hour(rows)
        level = hw.now(self._state, self._step * rules.SLOTS // rules.DAY)[rows]
        limit = self._limit[rows]
        ratios = np.maximum(0.0, np.column_stack((level, mean, mean + rules.Z * spread)) / limit[:, None])
        fullest = dict[str, tuple[float, float, float]]()
        for (place, _), (now, likely, most) in zip(found, ratios.tolist(), strict=True):
            if place.node not in fullest or most > fullest[place.node][2]:
                fullest[place.node] = (now, likely, most)
        return fullest

    def _in_an_hour(self, rows: Whole) -> tuple[Floats, Floats]:
        """What some series will be then, and the standard deviation of that."""
        steps = np.array([_HOUR])
        slots = (self._step + steps) % rules.DAY * rules.SLOTS // rules.DAY
        tables = hw.ahead(self._how.manner, steps, rules.DAY)
        mean, spread = hw.path(self._state, self._how.manner, rows, tables, slots)
        return mean[:, 0], spread[:, 0]

    def _at(self, there: Flags) -> list[tuple[Place, int]]:
        """The places of the rows where `there` is true."""
        places = self._rows.keys()
        return [(places[row], row) for row in np.flatnonzero(there).tolist()]

    def _of(self, found: Sequence[tuple[Place, int]]) -> Iterator[Forecast]:
        """The forecasts of places of which something is known."""
        if not found:
            return
        rows = np.array([row for _, row in found], dtype=np.int64)
        mean, spread = self._in_an_hour(rows)
        off = rules.Z * spread
        level = hw.now(self._state, self._step * rules.SLOTS // rules.DAY)
        for at, (place, row) in enumerate(found):
            unit, likely = float(self._unit[row]), float(mean[at])
            ends = (likely - float(off[at]), likely, likely + float(off[at]))
            yield Forecast(
                self.figure,
                place,
                max(0.0, float(level[row])) * unit,
                float(np.nan_to_num(self._limit[row])) * unit,
                float(self._state.trend[row]) * _HOUR * unit,
                (max(0.0, ends[0]) * unit, max(0.0, ends[1]) * unit, max(0.0, ends[2]) * unit),
                float(self._hits.earliest[row]),
                float(self._hits.likely[row]),
                float(self._hits.latest[row]),
                bool(self._alarm.raised[row]),
                float(self._state.age[row]) * rules.STEP_S,
                bool(self._state.seasonal[row]),
            )

    def _make_room(self, told: Mapping[Place, Reading], snapshot: Snapshot) -> None:
        """A row for what is new; of what is gone, or has been silent for a day, nothing is kept."""

        def stays(place: Place, row: int) -> bool:
            there = place.instance in snapshot.instances if place.instance else place.node in snapshot.nodes
            return there and (place in told or self._state.missed[row] < rules.DAY)

        rows = self._rows.keep(stays)
        if rows is not None:
            self._state = hw.chosen(self._state, rows)
            self._alarm = rules.alarm_of(self._alarm, rows)
            self._unit, self._limit = self._unit[rows], self._limit[rows]
        fresh = self._rows.add(told, lambda place: place.node)
        if not fresh:
            return
        self._state = hw.grown(self._state, len(fresh))
        self._alarm = rules.alarm_grown(self._alarm, [place in self._kept for place in fresh])
        self._unit = np.concatenate((self._unit, np.ones(len(fresh))))
        self._limit = np.concatenate((self._limit, np.full(len(fresh), np.nan)))
