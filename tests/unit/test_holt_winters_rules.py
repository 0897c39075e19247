"""Holt-Winters: what statsmodels makes of the same readings, and what is ours: beginnings, jumps, seasons."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_registry.forecasts import holt_winters_rules as rules
from bridge_registry.forecasts.holt_winters_rules import Manner, State

VECTORS: Any = json.loads((Path(__file__).parent / "vectors/holt_winters.json").read_text())
PLAIN = Manner(0.6, 0.02, 0.05, 0.999, 0.03)
DAY = 48  # steps of these tests' days
SLOTS = 24


@pytest.mark.parametrize("case", ["with_season", "without"])
def test_vectors_of_statsmodels(case: str) -> None:
    expected, seasonal = VECTORS[case], case == "with_season"
    slots = len(VECTORS["season"])
    manner = Manner(
        VECTORS["alpha"], VECTORS["beta"], VECTORS["gamma"], VECTORS["damping"], 0.01, math.inf, 0.0
    )
    state = msgspec.structs.replace(
        rules.empty(1, slots),
        level=np.array([VECTORS["level"]]),
        trend=np.array([VECTORS["trend"]]),
        variance=np.array([1.0]),
        told=np.array([1_000_000]),
        seasonal=np.array([seasonal]),
        slots=np.array([VECTORS["season"]], dtype=np.float64),
    )
    fitted = []
    for at, reading in enumerate(VECTORS["readings"]):
        season = state.slots[0, at % slots] if seasonal else 0.0
        fitted.append(state.level[0] + manner.damping * state.trend[0] + season)
        state = rules.step(state, manner, np.array([reading]), at % slots, slots if seasonal else 1 << 20)
    np.testing.assert_allclose(fitted, expected["fitted"], atol=1e-6)
    steps = np.arange(1, len(expected["ahead"]) + 1)
    if not seasonal:
        manner = msgspec.structs.replace(manner, gamma=0.0)
    state = msgspec.structs.replace(state, variance=np.array([expected["error_variance"]]))
    many = len(VECTORS["readings"]) - 1
    tables = rules.ahead(manner, steps, slots)
    mean, spread = rules.path(state, manner, np.array([0]), tables, (many + steps) % slots)
    np.testing.assert_allclose(mean[0], expected["ahead"], atol=1e-6)
    np.testing.assert_allclose(spread[0] ** 2, expected["ahead_variance"], atol=1e-6)


def fed(state: State, readings: list[float], *, manner: Manner = PLAIN, begin: int = 0) -> State:
    """One series, reading by reading from step `begin` of a day of `DAY`."""
    for at, reading in enumerate(readings, begin):
        slot = at % DAY * SLOTS // DAY
        state = rules.step(state, manner, np.array([reading]), slot, DAY)
    return state


def new() -> State:
    return rules.empty(1, SLOTS)


def test_a_straight_line_is_followed_from_its_third_reading_on() -> None:
    line = [0.2 + 0.01 * at for at in range(10)]
    even = msgspec.structs.replace(PLAIN, damping=1.0)
    assert fed(new(), line[:1], manner=even).trend[0] == 0.0
    after = fed(new(), line, manner=even)
    assert after.level[0] == pytest.approx(line[-1], abs=1e-3)
    assert after.trend[0] == pytest.approx(0.01, abs=1e-3)
    assert after.told[0] == after.age[0] == 10


def test_what_is_wanted_of_the_first_steps_is_what_a_straight_line_through_them_has() -> None:
    slow = Manner(1e-6, 1e-9, 0.0, 1.0, 0.01, math.inf)
    noisy = [3.0, 5.0, 4.0, 8.0]
    after = fed(new(), noisy, manner=slow)
    ((slope, _),) = (np.polyfit(range(4), noisy, 1),)
    assert 0.5 * slope < after.trend[0] < 1.5 * slope


def test_a_jump_towards_the_limit_moves_the_level_and_hardly_the_trend_and_a_fall_counts_in_full() -> None:
    rng = np.random.default_rng(1)
    calm = [0.5 + 0.001 * float(one) for one in rng.standard_normal(60)]
    before = fed(new(), calm)
    up, down = fed(before, [0.7], begin=60), fed(before, [0.3], begin=60)
    assert up.level[0] > 0.6
    assert down.level[0] < 0.4
    moved = (up.trend - before.trend)[0], (before.trend - down.trend)[0]
    assert moved[0] == pytest.approx(PLAIN.beta * 3.0 * math.sqrt(before.variance[0]), abs=1e-5)
    assert moved[1] == pytest.approx(PLAIN.beta * 0.2, abs=1e-3)
    falling = msgspec.structs.replace(PLAIN, towards=-1.0)
    assert (fed(before, [0.3], manner=falling, begin=60).trend - before.trend)[0] > -0.001


def test_who_is_silent_goes_on_and_who_was_for_long_begins_anew() -> None:
    line = [0.2 + 0.01 * at for at in range(20)]
    before = fed(new(), line)
    short = fed(before, [math.nan] * 5, begin=20)
    assert short.level[0] == pytest.approx(0.39 + 0.05, abs=0.005)
    assert (short.told[0], short.missed[0]) == (20, 5)
    long = fed(before, [math.nan] * (rules.LOST + 50), begin=20)
    assert long.level[0] == pytest.approx(0.39 + 0.01 * rules.LOST, abs=0.02), "and stands still in the end"
    back = fed(long, [0.9], begin=20 + rules.LOST + 50)
    assert (back.level[0], back.trend[0], back.told[0], back.missed[0]) == (0.9, 0.0, 1, 0)
    kept = fed(fed(before, [math.nan] * rules.LOST, begin=20), [0.9], begin=20 + rules.LOST)
    assert kept.told[0] == 21


def days(
    count: int, *, swing: float, noise: float = 0.002, growth: float = 0.0, seed: int = 1
) -> list[float]:
    rng = np.random.default_rng(seed)
    at = np.arange(count * DAY)
    wave = swing * np.sin(2 * np.pi * at / DAY)
    return [float(one) for one in 0.5 + wave + growth * at / DAY + noise * rng.standard_normal(len(at))]


def test_a_season_is_known_after_three_days_and_its_growth_is_not_part_of_it() -> None:
    readings = days(4, swing=0.2, growth=0.01)
    assert not fed(new(), readings[: 3 * DAY - 1]).seasonal[0]
    after = fed(new(), readings[: 3 * DAY])
    assert after.seasonal[0]
    assert after.trend[0] * DAY == pytest.approx(0.01, abs=0.003)
    wave = 0.2 * np.sin(2 * np.pi * (np.arange(SLOTS) + 0.25) / SLOTS)
    np.testing.assert_allclose(after.slots[0], wave, atol=0.02)
    steps = np.array([DAY // 4, DAY // 2, 3 * DAY // 4])
    mean, _ = rules.path(
        after,
        PLAIN,
        np.array([0]),
        rules.ahead(PLAIN, steps, DAY),
        (3 * DAY - 1 + steps) % DAY * SLOTS // DAY,
    )
    np.testing.assert_allclose(mean[0], [readings[3 * DAY - 1 + int(one)] for one in steps], atol=0.04)


def test_a_day_that_tells_nothing_of_the_next_is_no_season() -> None:
    rng = np.random.default_rng(2)
    wandering = np.cumsum(0.01 * rng.standard_normal(5 * DAY))
    assert not fed(new(), [float(one) for one in wandering]).seasonal[0]
    assert not fed(new(), days(5, swing=0.0, noise=0.02)).seasonal[0]
    growing = [0.1 + 0.0001 * at for at in range(5 * DAY)]
    assert not fed(new(), growing).seasonal[0]


def test_days_that_were_hardly_seen_are_no_season() -> None:
    readings = [one if at % DAY < DAY // 2 else math.nan for at, one in enumerate(days(5, swing=0.2))]
    assert not fed(new(), readings).seasonal[0]


def test_the_interval_grows_with_what_is_ahead_and_is_never_nothing() -> None:
    after = fed(new(), [0.5] * 30)
    steps = np.array([1, 10, 40])
    _, spread = rules.path(after, PLAIN, np.array([0]), rules.ahead(PLAIN, steps, DAY), steps % SLOTS)
    assert spread[0, 0] >= rules.LEAST_SPREAD
    assert list(spread[0]) == sorted(spread[0])
    assert spread[0, 2] > spread[0, 0]
    rising = fed(new(), [0.2 + 0.01 * at for at in range(30)])
    tables = rules.ahead(PLAIN, steps, DAY)
    _, spread = rules.path(rising, PLAIN, np.array([0]), tables, steps % SLOTS)
    assert spread[0, 2] >= PLAIN.doubt * rising.trend[0] * tables[0][2]


def test_series_come_and_go() -> None:
    both = rules.grown(fed(new(), [0.2, 0.3, 0.4]), 1)
    assert list(both.told) == [3, 0]
    assert both.slots.shape == (2, SLOTS)
    alone = rules.chosen(both, [1])
    assert (alone.told[0], alone.slots.shape) == (0, (1, SLOTS))


@settings(max_examples=30)
@given(
    st.lists(
        st.lists(st.one_of(st.floats(0.0, 1e15), st.just(math.nan)), min_size=2, max_size=2), max_size=60
    )
)
def test_whatever_comes_numbers_stay_numbers_and_series_do_not_mix(rows: list[list[float]]) -> None:
    both, alone = rules.empty(2, 4), rules.empty(1, 4)
    for at, row in enumerate(rows):
        both = rules.step(both, PLAIN, np.array(row), at % 4, 4)
        alone = rules.step(alone, PLAIN, np.array(row[:1]), at % 4, 4)
    for name in State.__struct_fields__:
        values = getattr(both, name)
        assert np.isfinite(values.astype(np.float64)).all(), name
        np.testing.assert_array_equal(values[:1], getattr(alone, name))
    assert (both.variance >= 0.0).all()
