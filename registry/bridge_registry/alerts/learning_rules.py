"""Thresholds that learn: series that leave what they are used to. Pure functions of (state, sample, now).

A series is one figure of one instance (times to the first byte, tokens a second of a stream), as the
logarithm of its middle in a window of `WINDOW_S`, with the number of requests that it was made of. All series
are judged at once, as arrays; one that has too few requests is NaN in a window, and that neither raises nor
clears anything.

Rules:
1. What is expected is the series' median at the load that its instance has (`LOADS` steps of slots in use),
   and on top of it the median of the same hour of other days after `DAYS`, of the same hour of the week after
   `WEEKS`. Its spread is the median absolute deviation for one request, never less than `LEAST_SPREAD`.
2. What the other nodes with the same model show at the same time beyond what is expected of them is load or
   the model, and no node's fault: their median is taken off.
3. What is left is added up as evidence, the logarithm of how much likelier it is under a change by `SHIFT`
   than under none (Page's CUSUM). A change of less than the root of that (a factor of 1.5) is never evidence.
   One window adds a third of what is needed at most, so it takes `PERSIST` of them, or more.
4. It is raised where the evidence reaches what chance alone reaches `budget` times a week in all series, with
   a margin; it is over when the evidence is used up.
5. Evidence is not learnt from, for `FREEZE_S`: a fault does not become what one is used to, and a change that
   stays does.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Whole: TypeAlias = NDArray[np.int64]

WINDOW_S: Final = 5.0
LOADS: Final = 6
DAYS: Final = 3
WEEKS: Final = 2
SHIFT: Final = math.log(2.25)
PERSIST: Final = 3
LEAST_SPREAD: Final = 0.1
FIRST_SPREAD: Final = 2.0
"""Wide, until it is known: who knows little says little."""
FREEZE_S: Final = 3600.0
BUDGET_PER_WEEK: Final = 1.0
"""False alarms to be expected of a mesh."""
MARGIN: Final = 1.5

_SIGMA: Final = 1.4826  # of a normal distribution, per median absolute deviation
_SYSTEMATIC: Final = 0.12  # what more requests make no smaller: buckets, and load within one step of it
_WARM: Final = 60  # windows at a load before anything is said there
_SLOWEST: Final = 1.0 / 240.0  # of a spread, that one window moves a median: 20 minutes' worth remembered
_HOUR_S: Final = 3600.0
_DAY_S: Final = 86_400.0
_FRESH: Final = 3  # windows for which another node's last word counts
_MOST: Final = 1.5  # of what is needed, that evidence adds up to: so it is used up soon
_BY_SERIES: Final = (
    "level", "told", "of_day", "day_told", "of_week", "week_told", "spread", "evidence", "raised",
    "since", "residual", "heard",
)  # fmt: skip


class Kinds(msgspec.Struct, frozen=True):
    """What each series is like; arrays of one length.

    Attributes:
        sign: 1 where more is worse, -1 where less is.
        group: Series of one group are the same figure of one model.
        node: Whose it is.
    """

    sign: Floats
    group: Whole
    node: Whole


class Sample(msgspec.Struct, frozen=True):
    """One window of all series; arrays of one length.

    Attributes:
        value: The logarithm of each one's middle; NaN: too few requests.
        requests: That it was made of.
        load: Of each one's instance: slots in use, as a share; above 1 some wait.
    """

    value: Floats
    requests: Floats
    load: Floats


class _Judged(msgspec.Struct, frozen=True):
    """What a window was compared with: its step of load, and what is left beyond the level, and the hour."""

    place: Whole
    plain: Floats
    residual: Floats


class State(msgspec.Struct, frozen=True):
    """What is remembered of all series.

    Attributes:
        began: Unix seconds.
        windows: How many there were.
        level: Medians by load; NaN: nothing is known.
        told: Windows that they were learnt from.
        of_day: What hours of the day add.
        day_told: Windows that was learnt from.
        of_week: What hours of the week add.
        week_told: The same.
        spread: Of one request.
        evidence: See rule 3.
        raised: Which are raised.
        since: Since when there was evidence without a break; 0: there is none.
        residual: What was last left of each, before rule 2.
        heard: In which window that was.
    """

    began: float
    windows: int
    level: Floats
    told: Whole
    of_day: Floats
    day_told: Whole
    of_week: Floats
    week_told: Whole
    spread: Floats
    evidence: Floats
    raised: Flags
    since: Floats
    residual: Floats
    heard: Whole


def empty(series: int, now: float) -> State:
    """The state of so many series of which nothing is known."""
    return State(
        now,
        0,
        np.full((series, LOADS), np.nan),
        np.zeros((series, LOADS), dtype=np.int64),
        np.zeros((series, 24)),
        np.zeros((series, 24), dtype=np.int64),
        np.zeros((series, 168)),
        np.zeros((series, 168), dtype=np.int64),
        np.full(series, FIRST_SPREAD),
        np.zeros(series),
        np.zeros(series, dtype=bool),
        np.zeros(series),
        np.zeros(series),
        np.full(series, -_FRESH),
    )


def needed(series: int, budget: float = BUDGET_PER_WEEK) -> float:
    """The evidence that chance alone reaches `budget` times a week in so many series (nats)."""
    return MARGIN * math.log(max(1, series) * 7 * _DAY_S / WINDOW_S / budget)


def step(state: State, kinds: Kinds, sample: Sample, now: float) -> State:
    """The state after one window more, that ended at Unix time `now`."""
    rows, requests = np.arange(len(sample.value)), sample.requests
    there = np.isfinite(sample.value) & (requests > 0)
    place = np.clip(np.nan_to_num(sample.load) * (LOADS - 1), 0, LOADS - 1).astype(np.int64)
    hour, week_hour = int(now // _HOUR_S) % 24, int(now // _HOUR_S) % 168
    known = there & (state.told[rows, place] >= _WARM)
    plain = np.where(there, sample.value - state.level[rows, place], np.nan)
    residual = plain - _season(state, hour, week_hour, now)
    worse = kinds.sign * residual
    windows = state.windows + 1
    heard = np.where(known, windows, state.heard)
    latest = np.where(known, worse, state.residual)
    left = worse - np.maximum(0.0, _others(latest, windows - heard <= _FRESH, kinds))
    variance = state.spread**2 / np.maximum(requests, 1.0) + _SYSTEMATIC**2
    need = needed(len(rows))
    told = np.clip(SHIFT * (left - SHIFT / 2) / variance, -need / PERSIST, need / PERSIST)
    evidence = np.where(known, np.clip(state.evidence + told, 0.0, _MOST * need), state.evidence)
    raised = (state.raised & (evidence > 0.0)) | (evidence >= need)
    since = np.where(evidence > 0.0, np.where(state.since > 0.0, state.since, now), 0.0)
    learns = there & ((evidence < need / PERSIST) | (now - since > FREEZE_S))
    after = msgspec.structs.replace(
        state, windows=windows, evidence=evidence, raised=raised, since=since, residual=latest, heard=heard
    )
    return _learnt(after, sample, _Judged(place, plain, residual), np.flatnonzero(learns), (hour, week_hour))


def compared(state: State, kinds: Kinds) -> Flags:
    """Which have another node's series beside them that was heard of lately, and that is as expected."""
    fresh = state.windows - state.heard <= _FRESH
    found = np.zeros(len(fresh), dtype=bool)
    for at in np.flatnonzero(state.raised):
        others = (kinds.group == kinds.group[at]) & (kinds.node != kinds.node[at]) & fresh
        found[at] = bool(others.any()) and float(np.median(state.residual[others])) < SHIFT / 2
    return found


def grown(state: State, more: int, now: float) -> State:
    """The state with so many series more, of which nothing is known."""
    fresh = empty(more, now)

    def joined(name: str) -> Any:
        return np.concatenate((getattr(state, name), getattr(fresh, name)))

    return msgspec.structs.replace(state, **{name: joined(name) for name in _BY_SERIES})


def chosen(state: State, rows: list[int]) -> State:
    """The state of these series alone, in this order."""
    return msgspec.structs.replace(state, **{name: getattr(state, name)[rows] for name in _BY_SERIES})


def _season(state: State, hour: int, week_hour: int, now: float) -> Floats:
    age = now - state.began
    found = np.zeros(len(state.spread))
    if age >= DAYS * _DAY_S:
        found = np.where(state.day_told[:, hour] >= _WARM, state.of_day[:, hour], found)
    if age >= WEEKS * 7 * _DAY_S:
        found = np.where(state.week_told[:, week_hour] >= _WARM, state.of_week[:, week_hour], found)
    return found


def _others(worse: Floats, fresh: Flags, kinds: Kinds) -> Floats:
    """The median of the other nodes of each one's group; 0 where there are none."""
    found = np.zeros(len(worse))
    for group in np.unique(kinds.group):
        everybody = np.flatnonzero(kinds.group == group)
        members = everybody[fresh[everybody]]
        if len(members) > 8:  # own weight in a median of many is small
            found[everybody] = np.median(worse[members])
            continue
        for at in everybody:
            others = members[kinds.node[members] != kinds.node[at]]
            if len(others):
                found[at] = np.median(worse[others])
    return found


def _learnt(state: State, sample: Sample, judged: _Judged, at: Whole, hours: tuple[int, int]) -> State:
    """The medians after the series `at` were learnt from: each moves by a step of the spread, and stays where
    as many steps go up as down.
    """
    if not len(at):
        return state
    level, told = state.level.copy(), state.told.copy()
    where, value, requests = judged.place[at], sample.value[at], sample.requests[at]
    count = told[at, where]
    old = level[at, where]
    fresh = ~np.isfinite(old)
    noise = np.sqrt(state.spread[at] ** 2 / requests + _SYSTEMATIC**2)
    pace = np.maximum(_SLOWEST, 1.0 / (1.0 + count)) * noise
    level[at, where] = np.where(fresh, value, old + 1.5 * pace * np.sign(value - old))
    told[at, where] = count + 1
    spread = state.spread.copy()
    off = np.abs(np.nan_to_num(judged.residual[at])) * np.sqrt(requests) * _SIGMA
    known = count >= _WARM // 2
    moved = spread[at] * np.exp(np.where(known, 0.02 * np.sign(off - spread[at]), 0.0))
    spread[at] = np.maximum(LEAST_SPREAD, moved)
    seasons = {}
    for name, hour in zip(("day", "week"), hours, strict=True):
        season, many = getattr(state, f"of_{name}").copy(), getattr(state, f"{name}_told").copy()
        gap = np.nan_to_num(judged.plain[at]) - season[at, hour]
        slow = np.maximum(_SLOWEST, 1.0 / (4.0 + many[at, hour])) * noise
        season[at, hour] += np.where(known, slow * np.sign(gap), 0.0)
        many[at, hour] += known
        seasons[f"of_{name}"], seasons[f"{name}_told"] = season, many
    return msgspec.structs.replace(state, level=level, told=told, spread=spread, **seasons)
