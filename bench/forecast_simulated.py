"""`forecast-simulated`: how early and how right a full disk is foretold, and what is foretold in vain.

What fills grows with the requests, as an audit log and a cache do: as bursty as public traces (Azure 2023:
variance over mean of the requests a minute 16 for conversations, 164 for code), four times as fast at the
peak of the day as in its valley. Disks are half full and grow by 1 % a day, for ten hours; then they fill so
fast that the mean load fills them in two, four or eight hours. The rounds begin all over the day.

Beside it a week of series that come to no limit: disks that grow slowly and ones that are cleaned up each
night, each hour and every six hours; GPUs' memory that follows the load; queues; streams. The decisions are
the product's own (`bridge_registry.forecasts`), a reading a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from bench.results import record, table
from bench.scaling.traffic import level
from bridge_core import gauges
from bridge_registry.forecasts import holt_winters_rules as hw
from bridge_registry.forecasts import outlook_rules as rules

ROUNDS: Final = 20
SERIES: Final = 6
WEEK: Final = 7 * rules.DAY
_CALM: Final = 600  # minutes before a disk begins to fill
_SETTLED: Final = 90  # minutes of filling after which forecasts are compared with what came
_MEAN: Final = float(np.mean([level(hour * 3600.0, 4.0) for hour in range(24)]))


class Run(msgspec.Struct):
    """What was said: the minute at which each series was raised, each time, and the hits of each minute."""

    raised: list[tuple[int, int]]
    hits: Any


def run(figure: str, readings: Any, limit: float) -> Run:
    """The decisions over readings, a row a minute."""
    how, many = rules.FIGURES[figure], readings.shape[1]
    state, alarm = hw.empty(many, rules.SLOTS), rules.no_alarm(many)
    raised, told = [], []
    for at, row in enumerate(readings):
        step = at % rules.DAY
        state = hw.step(state, how.manner, row, step * rules.SLOTS // rules.DAY, rules.DAY)
        found = rules.hits(state, how.manner, np.full(many, limit), step)
        before = alarm.raised
        alarm = rules.watched(alarm, state, how, found, np.isfinite(row))
        raised += [(at, int(one)) for one in np.flatnonzero(alarm.raised & ~before)]
        told.append(np.stack(rules.three(found)))
    return Run(raised, np.stack(told))


def load(minutes: int, burst: float, rng: Any, begin: int = 0) -> Any:
    """Requests of each minute, one on the mean of a day."""
    at = (begin + np.arange(minutes)) * 60.0
    mean = 333.0 * np.array([level(float(one), 4.0) for one in at]) / _MEAN
    return rng.poisson(rng.gamma(mean / (burst - 1), burst - 1)) / 333.0


def fills(burst: float, hours: float, seed: int) -> tuple[Any, ...]:
    """A row: rounds in which a disk fills."""
    rng, minutes = np.random.default_rng(seed), _CALM + int(hours * 240) + 300
    columns = []
    for round_ in range(ROUNDS):
        grows = np.where(np.arange(minutes) < _CALM, 0.01 / rules.DAY, 0.5 / (hours * 60))
        columns.append(0.5 + np.cumsum(grows * load(minutes, burst, rng, round_ * 97 % rules.DAY)))
    used = np.stack(columns, axis=1)
    full = (used >= 1.0).argmax(axis=0)
    done = run(gauges.DISK, np.minimum(1.0, used[: full.max() + 1]), 1.0)
    first = dict(reversed([(which, at) for at, which in done.raised]))
    took = np.array([first.get(which, full[which]) - _CALM for which in range(ROUNDS)])
    lead = full - _CALM - took
    within, ratio = [], []
    for which in range(ROUNDS):
        for at in range(_CALM + _SETTLED, full[which] - 5, 5):
            left = (full[which] - at) * rules.STEP_S
            earliest, likely, latest = done.hits[at, :, which]
            within.append(earliest <= left <= latest)
            ratio.append(likely / left)
    return (
        f"{hours:g} h",
        _three(took),
        _three(lead),
        f"{np.mean(within) * 100:.0f} %",
        " / ".join(f"{one:.2f}" for one in np.quantile(ratio, (0.1, 0.5, 0.9), method="lower")),
        int((lead <= 0).sum()),
    )


def weeks(burst: float, seed: int) -> Iterator[tuple[Any, ...]]:
    """Rows: series that come to no limit, and what is foretold of them in the first three days and later."""
    rng = np.random.default_rng(seed)
    busy = np.stack([load(WEEK, burst, rng) for _ in range(SERIES)], axis=1)
    smooth = np.stack([np.convolve(one, np.exp(-np.arange(120) / 20))[:WEEK] for one in busy.T], axis=1)
    smooth = smooth / smooth.max(axis=0)
    waits = np.stack(
        [np.convolve(np.maximum(0, one - 1), 60 * np.exp(-np.arange(20) / 3))[:WEEK] for one in busy.T], 1
    )
    models = 0.1 * np.cumsum(rng.choice([-1, 0, 1], busy.shape, p=[0.01, 0.98, 0.01]), axis=0)
    pace = 40.0 / (1 + smooth) * np.exp(rng.normal(0.0, 0.05, busy.shape))
    for what, figure, readings, limit in (
        ("disk, 60 %, 1 % a day", gauges.DISK, 0.6 + np.cumsum(busy, axis=0) * 0.01 / rules.DAY, 1.0),
        ("disk, 70 to 85 %, cleaned up each night", gauges.DISK, 0.7 + _saw(busy, 0.15, rules.DAY), 1.0),
        ("disk, 70 to 80 %, each hour", gauges.DISK, 0.7 + _saw(busy, 0.1, 60), 1.0),
        ("disk, 70 to 85 %, every six hours", gauges.DISK, 0.7 + _saw(busy, 0.15, 360), 1.0),
        ("GPU memory with the load, 40 to 90 %", gauges.VRAM, 0.4 + 0.5 * smooth, 1.0),
        ("GPU memory, models come and go", gauges.VRAM, 0.5 + models % 0.5 * 0.9, 1.0),
        (f"queue, to {waits.max():.0f} of 512", gauges.QUEUE, np.minimum(waits, 500) / 256, 2.0),
        (f"stream, to {pace.min():.0f} tokens/s of 10", gauges.TOKENS, pace / 64, 10.0 / 64),
    ):
        told = [at for at, _ in run(figure, readings, limit).raised]
        early = sum(at < hw.DAYS * rules.DAY for at in told)
        yield what, early, len(told) - early


def _saw(busy: Any, height: float, every: int) -> Any:
    """Growth with the load by `height` on the mean, gone every so many minutes."""
    grown = np.cumsum(busy, axis=0) * height / every
    return grown - grown[np.arange(len(grown)) // every * every]


def forecast(_folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row; some minutes of one core."""
    filled, vain = [], []
    for name, burst in (("conversation", 16.0), ("code", 164.0)):
        for hours in (2.0, 4.0, 8.0):
            filled.append((name, *fills(burst, hours, 1)))
            print(filled[-1], flush=True)
        for row in weeks(burst, 3):
            vain.append((name, *row))
            print(vain[-1], flush=True)
    head = ("load", "fills in", "raised after min", "before it is full, min", "true time in interval")
    head += ("likely / true p10, p50, p90", "not before it was full")
    other = ("load", f"{SERIES} series of a week", "raised in days 1 to 3", "in days 4 to 7")
    text = (
        f"{__doc__.split(chr(10), 2)[2]}\n{ROUNDS} rounds each; least / median / most. The interval is to "
        f"hold nine of ten, and is looked at from {_SETTLED} min after a disk began to fill.\n\n"
        f"{table(head, filled)}\n\n{table(other, vain)}"
    )
    record("forecast-simulated", "Full disks, foretold", command, versions, text)


def _three(minutes: Any) -> str:
    return " / ".join(f"{one:.0f}" for one in (minutes.min(), np.median(minutes), minutes.max()))
