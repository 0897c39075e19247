"""`detection-simulated`: a week of bursty load on three nodes, and what learnt thresholds make of it.

The load is as bursty as public traces (Azure 2023: variance over mean of the requests a minute 16 for
conversations, 164 for code), between valley and peak by the hour, half at weekends. Requests are spread over
three nodes by chance. A first byte takes as long as the prompt (the traces' quantiles) and the load make it,
with a log-normal spread of 20 %; a stream's tokens the same with 10 %. The decisions are the product's own
(`bridge_registry.alerts.learning_rules`), on windows that grow as the product's do.

Beside it the best fixed threshold there could be: on the median of the last minute, for half a minute, at the
lowest value that gives no false alarm in that same week. It is chosen with hindsight, which nobody has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.results import record, table
from bench.scaling.traffic import SHAPES, level
from bridge_core.counts import BOUNDS
from bridge_registry.alerts import learning_rules as rules
from bridge_registry.alerts.series_rules import FEWEST, LONGEST

NODES: Final = 3
SLOTS: Final = 16
ROUNDS: Final = 40
RAMP_S: Final = 60.0
_BOUNDS: Final = np.array(BOUNDS)
_W: Final = int(rules.WINDOW_S)
_MINUTE: Final = 60 // _W
_HALF: Final = 30 // _W
_LIMIT: Final = int(1800 / rules.WINDOW_S)  # windows until a round is given up
_MEAN_LEVEL: Final = float(np.mean([level(hour * 3600.0, 4.0) for hour in range(24)]))
_LOADS: Final = (("conversation", 333.0, 16.0), ("code", 151.0, 164.0))


class Week:
    """All windows of a run: offsets of each node's requests, in time, and what each took.

    `factor` multiplies what node 1's requests take, by window.
    """

    def __init__(
        self,
        name: str,
        per_minute: float,
        burst: float,
        days: float,
        seed: int,
        *,
        factor: Any = None,
        begin_s: float = 0.0,
    ) -> None:
        rng, shape = np.random.default_rng(seed), SHAPES[name]
        minutes = int(days * 1440)
        at = begin_s + np.arange(minutes) * 60.0
        by_hour = np.array([level(float(one), 4.0) for one in at])
        mean = per_minute * by_hour / _MEAN_LEVEL * np.where(at % (7 * 86_400) < 5 * 86_400, 1.0, 0.5)
        rate = rng.gamma(mean / (burst - 1), burst - 1)  # Poisson of it: variance = burst * mean
        count = rng.poisson(np.repeat(rate, _MINUTE)[:, None] / _MINUTE / NODES, (minutes * _MINUTE, NODES))
        factor = np.ones(len(count)) if factor is None else factor
        slow = np.where(np.arange(NODES) == 1, factor[:, None], 1.0)
        answer_s = float(np.exp(np.mean(np.log(shape.output)))) / 40.0
        self.load = np.minimum(3.0, _smooth(count / _W * answer_s * 1.5 * slow, answer_s) / SLOTS)
        busy = np.minimum(1.0, self.load)
        own = np.exp(rng.normal(0.0, 0.1, NODES))
        self.count, self.first, self.tokens = count, [], []
        for node in range(NODES):
            which = np.repeat(np.arange(len(count)), count[:, node])
            spread = rng.standard_normal((2, len(which)))
            drawn = np.exp(
                np.interp(rng.random(len(which)), (0, 0.1, 0.5, 0.9, 0.99, 1), np.log(shape.prompt))
            )
            took = (0.03 + drawn / 5000.0) * (1 + 1.5 * busy[which, node]) * own[node] * slow[which, node]
            place = np.searchsorted(_BOUNDS, took * np.exp(0.2 * spread[0]))
            self.first.append(np.log(_BOUNDS[np.minimum(place, len(_BOUNDS) - 1)]))
            pace = 40.0 / (1 + busy[which, node]) / own[node] / slow[which, node]
            self.tokens.append(np.log(pace * np.exp(0.1 * spread[1])))
        self.ends = np.concatenate((np.zeros((1, NODES), dtype=np.int64), np.cumsum(count, axis=0)))


class Watch:
    """The learnt thresholds over a week's windows, and the medians that the fixed ones look at."""

    def __init__(self) -> None:
        nodes = np.arange(NODES)
        self.kinds = rules.Kinds(np.repeat([1.0, -1.0], NODES), np.repeat([0, 1], NODES), np.tile(nodes, 2))
        self.state = rules.empty(2 * NODES, 0.0)
        self.alarms: list[tuple[float, list[int]]] = []
        self.now = 0.0

    def run(self, week: Week, begin: int = 0, *, until: bool = False) -> int:
        """Looks at the windows from `begin`, with `until` to the first alarm; which is the next window."""
        grown = np.full(NODES, begin)
        for at in range(begin, len(week.count)):
            self.now += rules.WINDOW_S
            sample, many = np.full(2 * NODES, np.nan), np.zeros(2 * NODES)
            for node in range(NODES):
                first, last = week.ends[grown[node], node], week.ends[at + 1, node]
                if last - first < FEWEST and at + 1 - grown[node] < LONGEST:
                    continue
                grown[node] = at + 1
                if last - first >= FEWEST:
                    sample[node] = np.sort(week.first[node][first:last])[(last - first - 1) // 2]
                    sample[NODES + node] = week.tokens[node][first:last].mean()
                    many[[node, NODES + node]] = last - first
            before = self.state.raised
            window = rules.Sample(sample, many, np.tile(week.load[at], 2))
            self.state = rules.step(self.state, self.kinds, window, self.now)
            new = np.flatnonzero(self.state.raised & ~before)
            if len(new):
                self.alarms.append((self.now, new.tolist()))
                if until:
                    return at + 1
        return len(week.count)


def lasting(week: Week, node: int, begin: int = 0) -> Any:
    """By window, the least of the medians of the last minute in the last half minute: what a fixed threshold
    has to be below to be raised there.
    """
    medians = np.full(len(week.count), -np.inf)
    for at in range(max(begin, _MINUTE), len(week.count)):
        first, last = week.ends[at - _MINUTE + 1, node], week.ends[at + 1, node]
        if last - first >= 20:  # as an AlertRule's minRequests
            medians[at] = np.median(week.first[node][first:last])
    windows = np.lib.stride_tricks.sliding_window_view(medians, _HALF)
    return np.concatenate((np.full(_HALF - 1, -np.inf), windows.min(axis=1)))


def measure(name: str, per_minute: float, burst: float, *, days: float, seed: int) -> dict[str, Any]:
    """False alarms of a week, then rounds in which node 1 becomes three times as slow."""
    quiet, watch = Week(name, per_minute, burst, days, seed), Watch()
    watch.run(quiet)
    false = len(watch.alarms)
    fixed = max(float(lasting(quiet, node).max()) for node in range(NODES))
    found: dict[str, Any] = {"false": false, "alarms": watch.alarms[:5]}
    for kind, ramp in (("at once", 0.0), ("ramp", RAMP_S)):
        learnt, best = [], []
        for round_ in range(ROUNDS):
            steps = np.arange(12 * 60 * 2)  # two hours from some hour of a weekday
            factor = np.minimum(3.0, 1.0 + 2.0 * np.maximum(0.0, steps * _W - 300.0) / max(ramp, 1e-9))
            factor[steps * _W < 300] = 1.0
            begin_s = watch.now + round_ * 7 % 24 * 3600.0
            world = Week(
                name, per_minute, burst, 2 / 24, seed * 1000 + round_, factor=factor, begin_s=begin_s
            )
            after = Watch()
            after.state, after.now = watch.state, begin_s
            began = begin_s + 300.0
            _until_node(after, world)
            raised = [now for now, new in after.alarms if now > began and {1, NODES + 1} & set(new)]
            learnt.append(raised[0] - began if raised else np.inf)
            over = np.flatnonzero(lasting(world, 1) > fixed)
            over = over[over * _W >= 300]
            best.append((over[0] + 1) * _W - 300.0 if len(over) else np.inf)
        found[kind] = (np.array(learnt), np.array(best))
    return found


def _until_node(watch: Watch, week: Week) -> None:
    """Runs until node 1 is raised, or to the end."""
    begin = 0
    while begin < len(week.count):
        begin = watch.run(week, begin, until=True)
        if watch.alarms and {1, NODES + 1} & set(watch.alarms[-1][1]) and begin * _W > 300:
            return


def detection(_folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row; ten minutes of one core."""
    rows = []
    for name, per_minute, burst in _LOADS:
        found = measure(name, per_minute, burst, days=7.0, seed=1)
        for kind in ("at once", "ramp"):
            learnt, best = found[kind]
            said = "3 times, at once" if kind == "at once" else f"3 times, over {RAMP_S:.0f} s"
            rows.append((name, found["false"], said, *_said(learnt), *_said(best)))
            print(rows[-1], flush=True)
    head = ("load", "false alarms a week", "node 1 slower", "learnt p50 s", "p99 s", "not found")
    head += ("best fixed p50 s", "p99 s", "not found")
    text = (
        f"{__doc__.split(chr(10), 2)[2]}\n{ROUNDS} rounds each, at hours all over the day; seconds from when "
        f"it began to become slower.\n\n{table(head, rows)}"
    )
    record("detection-simulated", "Slow nodes, found in a simulated week", command, versions, text)


def _said(times: Any) -> tuple[str, str, int]:
    there = times[np.isfinite(times)]
    if not len(there):
        return "-", "-", len(times)
    return f"{np.quantile(there, 0.5):.0f}", f"{np.quantile(there, 0.99):.0f}", int(len(times) - len(there))


def _smooth(work: Any, over_s: float) -> Any:
    """What is in flight: work that comes in, and is done after `over_s` about."""
    share, held = min(1.0, _W / (over_s * 1.5 + _W)), np.zeros(work.shape[1])
    found = np.empty_like(work)
    for at, now in enumerate(work):
        held = held + (now - held) * share
        found[at] = held
    return found
