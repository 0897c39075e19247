"""Additive Holt-Winters with a damped trend and a daily season. Pure functions of (state, reading, slot).

All series of one figure are one state, as arrays; a reading a step, NaN where there is none. The recursions
are the classical ones in their error form (Holt 1957, Winters 1960; Hyndman, Koehler, Ord and Snyder,
"Forecasting with Exponential Smoothing", 2008, ETS(A,Ad,A)), and so are the variances of what is ahead.

Rules:
1. A new line is fitted faster than an old one: its first steps weigh as much as in a straight line through
   all of them. What was silent for more than `LOST` steps begins a new line.
2. What goes towards the limit by more than `clip` spreads at once moves the level and hardly the trend, as a
   file that was copied says nothing of the hours to come (Gelper, Fried and Croux, "Robust forecasting with
   exponential and Holt-Winters smoothing", 2010). What goes away from it counts in full: who is cleaned up
   now and then does not fill.
3. For the first `DAYS` days there is no season; what each slot of the day was on the mean is kept, and how
   that differs from day to day. Then these means, less the growth from day to day, are the season where they
   differ by more than the days do: three days of chance differ by less. Where they do not, they are looked
   at again a day later.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Whole: TypeAlias = NDArray[np.int64]

LOST: Final = 15
DAYS: Final = 3
LEAST_SPREAD: Final = 0.0001
"""Of the unit that readings are in: a share of the limit where there is one."""
SWING: Final = 2.0
"""How many times the variance from day to day a season's has to be; of three days without one it is 1/3."""
_KNOWN: Final = 10  # steps that a spread has to be made of before it clips anything
_WIDE: Final = 3.0
"""Times that an error counts for the spread: who goes on jumping is soon believed, and is not sure."""
_SEEN: Final = 0.9  # of a day's slots, that have to have been seen to tell a season


class Manner(msgspec.Struct, frozen=True):
    """How a figure is smoothed.

    Attributes:
        alpha: Share of an error that moves the level.
        beta: The same of the trend, per step (Hyndman's beta: alpha times Holt's).
        gamma: The same of the season.
        damping: What is left of the trend a step later.
        pace: Share of a squared error that moves the variance.
        clip: See rule 2; infinity: never.
        doubt: Share of the growth ahead that is a standard deviation in any case: what makes a series grow
            goes by the hour, however evenly it did lately.
        towards: 1 where a limit is reached from below, -1 from above.
    """

    alpha: float
    beta: float
    gamma: float
    damping: float
    pace: float
    clip: float = 3.0
    doubt: float = 0.2
    towards: float = 1.0


class State(msgspec.Struct, frozen=True):
    """What is remembered of all series of a figure.

    Attributes:
        level: Without the season.
        trend: A step.
        variance: Of one step's error.
        told: Steps of the line, see rule 1; 0: it has not begun.
        missed: Steps since the last reading.
        age: Steps since the series was first heard of.
        seasonal: Which have a season.
        slots: By slot of the day: the season, or before there is one the mean.
        slot_told: Readings that a slot's mean is of.
        slot_squares: Sum of the squares of how they differ from it.
        day_sum: Of the readings of the day that is not over; days are counted from a series' birth.
        day_told: How many these are.
        first_day: Mean of the first day that was.
        last_day: Mean of the last.
        days: How many there were between them, both included.
    """

    level: Floats
    trend: Floats
    variance: Floats
    told: Whole
    missed: Whole
    age: Whole
    seasonal: Flags
    slots: NDArray[np.float32]
    slot_told: NDArray[np.uint16]
    slot_squares: NDArray[np.float32]
    day_sum: Floats
    day_told: Whole
    first_day: Floats
    last_day: Floats
    days: Whole


def empty(series: int, slots: int) -> State:
    """So many series of which nothing is known, with so many slots a day."""
    none, number = np.zeros(series), np.zeros(series, dtype=np.int64)
    return State(
        level=none,
        trend=none,
        variance=none,
        told=number,
        missed=number,
        age=number,
        seasonal=np.zeros(series, dtype=bool),
        slots=np.zeros((series, slots), dtype=np.float32),
        slot_told=np.zeros((series, slots), dtype=np.uint16),
        slot_squares=np.zeros((series, slots), dtype=np.float32),
        day_sum=none,
        day_told=number,
        first_day=none,
        last_day=none,
        days=number,
    )


def grown(state: State, more: int) -> State:
    """The state with so many series more."""
    fresh = empty(more, state.slots.shape[1])
    return _each(state, lambda name: np.concatenate((getattr(state, name), getattr(fresh, name))))


def chosen(state: State, rows: list[int]) -> State:
    """The state of these series alone, in this order."""
    return _each(state, lambda name: getattr(state, name)[rows])


def step(state: State, manner: Manner, reading: Floats, slot: int, day: int) -> State:
    """The state a step later.

    Args:
        state: The one before.
        manner: Of the figure.
        reading: Of each series; NaN: there is none.
        slot: Of the day, in which the readings are.
        day: Steps of one.
    """
    there = np.isfinite(reading)
    begins = there & ((state.told == 0) | (state.missed > LOST))
    season = np.where(state.seasonal, state.slots[:, slot], 0.0)
    many = np.where(begins, 1, np.minimum(state.told + 1, 1 << 30))
    alpha, beta = _shares(manner, many)
    carried = manner.damping * state.trend
    expected = state.level + carried + season
    error = np.where(there, reading - expected, 0.0)
    kept = _kept(manner, manner.clip, error, state, many)
    wide = _kept(manner, _WIDE * manner.clip, error, state, many)
    pace = np.maximum(manner.pace, 1.0 / np.maximum(1, many - 2))
    measured = many > 2  # two readings are a line, which has no error
    variance = np.where(measured, state.variance + pace * (wide**2 - state.variance), 0.0)
    after = msgspec.structs.replace(
        state,
        level=np.where(begins, reading - season, state.level + carried + alpha * error),
        trend=np.where(begins, 0.0, carried + beta * kept),
        variance=np.where(there & ~begins, variance, np.where(begins, 0.0, state.variance)),
        told=np.where(there, many, state.told),
        missed=np.where(there, 0, np.minimum(state.missed + 1, 1 << 30)),
        age=np.minimum(state.age + 1, 1 << 30),
    )
    # A line that has not begun, or has been lost, stands still.
    still = ~there & ((state.told == 0) | (state.missed >= LOST))
    after = msgspec.structs.replace(
        after,
        level=np.where(still, state.level, after.level),
        trend=np.where(still, state.trend, after.trend),
    )
    return _days(_noted(after, manner, reading, kept, slot), reading, slot, day)


def ahead(manner: Manner, steps: Whole, day: int) -> tuple[Floats, Floats]:
    """For each of so many steps ahead: how many times the trend is added, and how many times the variance of
    one step's error what will be then differs from what is forecast. These are the same for all series.
    """
    last = int(steps.max())
    damped = np.cumsum(manner.damping ** np.arange(1, last + 1))
    moved = manner.alpha + manner.beta * damped + manner.gamma * (np.arange(1, last + 1) % day == 0)
    spread = 1.0 + np.concatenate(([0.0], np.cumsum(moved**2)[:-1]))
    return damped[steps - 1], spread[steps - 1]


def path(
    state: State, manner: Manner, rows: Whole, tables: tuple[Floats, Floats], slots: Whole
) -> tuple[Floats, Floats]:
    """What some series will be, and the standard deviations of that: a row each, a column for each of the
    steps that `tables` were made for by `ahead`, which lie in these `slots` of the day.
    """
    times, factor = tables
    season = np.where(state.seasonal[rows, None], state.slots[rows][:, slots], 0.0)
    growth = state.trend[rows, None] * times
    variance = spread_of(state)[rows, None] * factor + (manner.doubt * growth) ** 2
    return state.level[rows, None] + growth + season, np.sqrt(variance)


def spread_of(state: State) -> Floats:
    """The variance of one step's error: nothing is known better than `LEAST_SPREAD`."""
    return np.asarray(np.maximum(state.variance, LEAST_SPREAD**2), dtype=np.float64)


def now(state: State, slot: int) -> Floats:
    """What each series is at this slot of the day, smoothed."""
    return np.asarray(state.level + np.where(state.seasonal, state.slots[:, slot], 0.0), dtype=np.float64)


def _shares(manner: Manner, many: Whole) -> tuple[Floats, Floats]:
    """Of the level and the trend: those of a straight line through all readings while there are few."""
    alpha = np.maximum(manner.alpha, 2.0 * (2.0 * many - 1.0) / (many * (many + 1.0)))
    alpha = np.minimum(1.0, alpha)
    return alpha, np.maximum(manner.beta, np.minimum(1.0 / many, alpha**2 / (2.0 - alpha)))


def _kept(manner: Manner, clip: float, error: Floats, state: State, many: Whole) -> Floats:
    """The errors as they count (rule 2)."""
    most = np.where(many > _KNOWN, clip * np.sqrt(spread_of(state)), np.inf)
    return np.asarray(manner.towards * np.minimum(manner.towards * error, most), dtype=np.float64)


def _noted(state: State, manner: Manner, reading: Floats, kept: Floats, slot: int) -> State:
    """The state with what a slot of the day is, or was on the mean so far."""
    there = np.isfinite(reading)
    slots, told, squares = state.slots.copy(), state.slot_told.copy(), state.slot_squares.copy()
    count = np.minimum(told[:, slot].astype(np.int64) + there, 60_000)
    mean = slots[:, slot].astype(np.float64)
    off = np.where(there, np.nan_to_num(reading) - mean, 0.0)
    learnt = mean + off / np.maximum(1, count)
    squares[:, slot] += off * np.where(there, np.nan_to_num(reading) - learnt, 0.0)
    slots[:, slot] = np.where(state.seasonal, mean + manner.gamma * np.where(there, kept, 0.0), learnt)
    told[:, slot] = count
    return msgspec.structs.replace(state, slots=slots, slot_told=told, slot_squares=squares)


def _days(state: State, reading: Floats, slot: int, day: int) -> State:
    """Adds the reading to its day; of days that end the mean is kept, and a season is looked for (rule 3)."""
    there = np.isfinite(reading)
    total, told = state.day_sum + np.where(there, np.nan_to_num(reading), 0.0), state.day_told + there
    over = (state.age % day == 0) & (told > 0)
    mean = total / np.maximum(1, told)
    days = state.days + over
    after = msgspec.structs.replace(
        state,
        day_sum=np.where(over, 0.0, total),
        day_told=np.where(over, 0, told),
        first_day=np.where(over & (state.days == 0), mean, state.first_day),
        last_day=np.where(over, mean, state.last_day),
        days=days,
    )
    due = over & ~state.seasonal & (days >= DAYS) & (state.told > _KNOWN)
    return _seasoned(after, np.flatnonzero(due), slot, day) if due.any() else after


def _seasoned(state: State, rows: Whole, slot: int, day: int) -> State:
    """The state with a season for those of the rows whose days swing."""
    count, days = state.slots.shape[1], state.days[rows]
    told = state.slot_told[rows].astype(np.float64)
    mean = np.where(told > 0, state.slots[rows], np.nan)
    growth = (state.last_day[rows] - state.first_day[rows]) / np.maximum(1, days - 1)
    # The day of a series ends with this slot: the one after it is its first.
    place = (np.arange(count) - slot - 1) % count - (count - 1) / 2.0
    season = mean - growth[:, None] / count * place
    season = np.nan_to_num(season - np.nanmean(season, axis=1, keepdims=True))
    by_day = state.slot_squares[rows].sum(axis=1) / told.sum(axis=1) * days / np.maximum(1, days - 1)
    by_day = np.maximum(by_day - growth**2 * days * (days + 1) / 12.0, LEAST_SPREAD**2)
    fits = (season.var(axis=1) > SWING * by_day) & ((told > 0).mean(axis=1) >= _SEEN)
    rows, season, growth = rows[fits], season[fits], growth[fits]
    level, trend, seasonal = state.level.copy(), state.trend.copy(), state.seasonal.copy()
    slots = state.slots.copy()
    level[rows] -= season[:, slot]
    trend[rows] = growth / day
    seasonal[rows] = True
    slots[rows] = season
    return msgspec.structs.replace(state, level=level, trend=trend, seasonal=seasonal, slots=slots)


def _each(state: State, made: Any) -> State:
    return State(**{name: made(name) for name in State.__struct_fields__})
