"""When a limit will be hit, and whether that is worth an alert. Pure functions of (state, forecast).

Rules:
1. A limit is hit where the forecast's mean gets there (likely), where the upper end of its interval does
   (earliest) and where the lower end does (latest), within a day; later is never. The interval holds nine of
   ten where the series goes on as it did.
2. It is worth an alert where the mean hits it soon enough to act, and the lower end does within the day,
   too: who is not sure that it fills says nothing. Nobody looks further ahead than twice as long as he has
   watched.
3. It takes `persist` steps in a row to raise it, and `CALM` steps in a row in which the mean hits the limit
   in no less than `SLACK` times as long to end it. Nothing is raised or ended where nothing was read.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np

from bridge_core import gauges
from bridge_core.quantities import say_size, say_span
from bridge_registry.forecasts import holt_winters_rules as hw
from bridge_registry.forecasts.holt_winters_rules import Flags, Floats, Manner, State, Whole

STEP_S: Final = 60.0
DAY: Final = 1440  # steps
SLOTS: Final = 288  # of the day
HORIZON_S: Final = 86_400.0
WARM: Final = 15  # steps that a line is watched for before anything is said of it
CALM: Final = 15
SLACK: Final = 1.5
STEPS: Final = np.concatenate((np.arange(1, 31), np.arange(35, DAY + 1, 5)))
"""Ahead: minutes first, then five of them."""
Z: Final = 1.6449
"""Of a normal distribution nine of ten are within so many standard deviations."""
NOW: Final = "now"
_AT_A_TIME: Final = 512  # series whose paths are in memory


class Figure(msgspec.Struct, frozen=True):
    """How a figure of `bridge_core.gauges` is forecast.

    Attributes:
        alert: What kind of alert it makes.
        manner: How it is smoothed before it has a season.
        act_s: How soon is soon.
        persist: See rule 3.
        moved: Whether a rollout that moves may be why.
    """

    alert: str
    manner: Manner
    act_s: float
    persist: int
    moved: bool = False


FIGURES: Final[dict[str, Figure]] = {
    # What is stored is what it was and what came: errors stay in the level, and growth goes on for hours.
    gauges.DISK: Figure("disk-will-fill", Manner(0.7, 0.03, 0.05, 0.9998, 0.03), 6 * 3600.0, 10),
    # A model is loaded at once, and caches grow with the load of the hour.
    gauges.VRAM: Figure("vram-will-fill", Manner(0.7, 0.03, 0.05, 0.998, 0.03), 2 * 3600.0, 10),
    gauges.QUEUE: Figure("queue-will-fill", Manner(0.3, 0.04, 0.02, 0.99, 0.03), 1800.0, 3, moved=True),
    gauges.TOKENS: Figure(
        "tokens-will-fall", Manner(0.2, 0.02, 0.02, 0.995, 0.03, towards=-1.0), 1800.0, 5, moved=True
    ),
}


class Hits(msgspec.Struct, frozen=True):
    """Seconds until each series hits its limit; infinity: not within a day. Of what has no limit, too."""

    earliest: Floats
    likely: Floats
    latest: Floats


class Alarm(msgspec.Struct, frozen=True):
    """What is raised, and for how many steps in a row there was, and was not, a reason to."""

    soon: Whole
    calm: Whole
    raised: Flags


def no_alarm(series: int) -> Alarm:
    """Of so many new series."""
    none = np.zeros(series, dtype=np.int64)
    return Alarm(none, none, np.zeros(series, dtype=bool))


def alarm_grown(alarm: Alarm, raised: list[bool]) -> Alarm:
    """The alarm with series more, some of which are raised already."""
    none = np.zeros(len(raised), dtype=np.int64)
    flags = np.concatenate((alarm.raised, np.array(raised, dtype=bool)))
    return Alarm(np.concatenate((alarm.soon, none)), np.concatenate((alarm.calm, none)), flags)


def alarm_of(alarm: Alarm, rows: list[int]) -> Alarm:
    """The alarm of these series alone, in this order."""
    return Alarm(alarm.soon[rows], alarm.calm[rows], alarm.raised[rows])


def three(found: Hits) -> tuple[Floats, Floats, Floats]:
    """Earliest, likely, latest."""
    return found.earliest, found.likely, found.latest


def known(state: State) -> Flags:
    """Of which there is something to say."""
    return np.asarray((state.told >= WARM) & (state.missed <= hw.LOST), dtype=bool)


def hits(state: State, manner: Manner, limit: Floats, step: int) -> Hits:
    """When the series hit their limits (NaN: there is none), the last of their readings in step `step` of the
    day.
    """
    towards = manner.towards
    found = Hits(*(np.full(len(limit), np.inf) for _ in range(3)))
    tables = hw.ahead(manner, STEPS, DAY)
    slots = (step + STEPS) % DAY * SLOTS // DAY
    beyond = known(state) & (towards * (hw.now(state, step * SLOTS // DAY) - limit) >= 0)
    for one in three(found):
        one[beyond] = 0.0
    rows = np.flatnonzero(_can_hit(state, manner, limit, tables) & ~beyond)
    for begin in range(0, len(rows), _AT_A_TIME):
        part = rows[begin : begin + _AT_A_TIME]
        mean, spread = hw.path(state, manner, part, tables, slots)
        for into, off in zip(three(found), (Z, 0.0, -Z), strict=True):
            into[part] = _first(towards * (mean - limit[part, None]) + off * spread >= 0.0)
    return found


def watched(alarm: Alarm, state: State, figure: Figure, found: Hits, read: Flags) -> Alarm:
    """The alarm a step later; `read`: which series have a reading in it."""
    says = read & known(state)
    act_s = np.minimum(figure.act_s, 2.0 * STEP_S * state.age)
    soon = says & (found.likely <= act_s) & np.isfinite(found.latest)
    calm = says & (found.likely > SLACK * figure.act_s)
    steps_soon = np.where(soon, alarm.soon + 1, np.where(says, 0, alarm.soon))
    steps_calm = np.where(calm, alarm.calm + 1, np.where(says, 0, alarm.calm))
    raised = (alarm.raised & (steps_calm < CALM)) | (steps_soon >= figure.persist)
    return Alarm(np.minimum(steps_soon, DAY), np.minimum(steps_calm, DAY), raised)


def when(earliest_s: float, likely_s: float, latest_s: float) -> str:
    """The three in words: "in 3 h (2 h to 5 h)"."""
    if likely_s <= 0.0:
        return NOW
    if not math.isfinite(likely_s):
        return "no sooner than in a day"
    latest = say_span(latest_s) if math.isfinite(latest_s) else "never"
    return f"in {say_span(likely_s)} ({say_span(earliest_s)} to {latest})"


def what(figure: str, place: str, of: str) -> str:
    """What fills: `place` is a node or an instance, `of` which of its disks or GPUs."""
    if figure == gauges.DISK:
        return f"the disk of node {place} that has {of}"
    if figure == gauges.VRAM:
        return f"the memory of GPU {of} of node {place}"
    return f"the queue of {place}" if figure == gauges.QUEUE else f"a stream of {place}"


def sentence(figure: str, said: str, until: str, now: float, limit: float) -> str:
    """What a forecast comes to, in words: `said` by `what`, `until` by `when`."""
    will = "is" if until == NOW else "will be"
    if figure == gauges.TOKENS:
        return f"{said} {will} below {say(figure, limit)} {until}: {say(figure, now)} now"
    return f"{said} {will} full {until}: {say(figure, now)} of {say(figure, limit)} now"


def say(figure: str, value: float) -> str:
    """A value in its figure's unit."""
    if figure in {gauges.DISK, gauges.VRAM}:
        return say_size(max(0, int(value)))
    return f"{value:.3g} requests" if figure == gauges.QUEUE else f"{value:.3g} tokens/s"


def _can_hit(state: State, manner: Manner, limit: Floats, tables: tuple[Floats, Floats]) -> Flags:
    """Which the upper end of their intervals brings to their limit at all, in a glance: few do."""
    times, factor = tables
    top = np.where(state.seasonal, (manner.towards * state.slots).max(axis=1), 0.0)
    best = manner.towards * state.level + np.maximum(0.0, manner.towards * state.trend) * times[-1] + top
    best = best + Z * np.sqrt(hw.spread_of(state) * factor[-1])
    return np.asarray(known(state) & np.isfinite(limit) & (best >= manner.towards * limit), dtype=bool)


def _first(there: Flags) -> Floats:
    """Seconds until the first step of each row that is true."""
    return np.where(there.any(axis=1), STEPS[there.argmax(axis=1)] * STEP_S, np.inf)
