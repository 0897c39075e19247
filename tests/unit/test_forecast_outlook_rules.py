"""When limits are hit: what is earliest, likely and latest, what is worth an alert, and the words for it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from bridge_core import gauges
from bridge_registry.forecasts import holt_winters_rules as hw
from bridge_registry.forecasts import outlook_rules as rules
from bridge_registry.forecasts.holt_winters_rules import State
from bridge_registry.forecasts.outlook_rules import CALM, FIGURES, SLOTS, STEP_S, WARM, Alarm, Figure, Hits

HOUR = 3600.0
DISK = FIGURES[gauges.DISK]
EVEN = msgspec.structs.replace(DISK.manner, damping=1.0)
"""As disks, and a trend that stays."""


def at(level: float, trend: float = 0.0, *, spread: float = 0.0, **other: Any) -> State:
    """One series, known for long."""
    made = {
        "level": np.array([level]),
        "trend": np.array([trend]),
        "variance": np.array([spread**2]),
        "told": np.array([10_000]),
        "age": np.array([10_000]),
        **other,
    }
    return msgspec.structs.replace(hw.empty(1, SLOTS), **made)


def hits(state: State, limit: float = 1.0, *, step: int = 0, **manner: Any) -> tuple[float, float, float]:
    found = rules.hits(state, msgspec.structs.replace(EVEN, **manner), np.array([limit]), step)
    return tuple(float(one[0]) for one in rules.three(found))  # type: ignore[return-value]  # three


def test_a_line_is_at_its_limit_when_it_gets_there() -> None:
    earliest, likely, latest = hits(at(0.4, 0.01))
    assert likely == 60 * STEP_S
    assert earliest < likely < latest
    assert hits(at(0.4, 0.0099))[1] == 65 * STEP_S, "after half an hour, in five minutes"
    assert hits(at(0.9, 0.01))[1] == 10 * STEP_S


def test_nine_of_ten_are_within_the_interval() -> None:
    """With a level that stays as it is and errors that stay in it, what is ahead is a random walk."""
    state = at(0.5, 0.0, spread=0.01)
    earliest, likely, latest = hits(state, 0.6, alpha=1.0, beta=0.0, doubt=0.0)
    steps = math.ceil((0.1 / 0.01 / rules.Z) ** 2)
    assert earliest == 5 * math.ceil(steps / 5) * STEP_S
    assert likely == latest == math.inf


def test_what_will_not_be_there_within_a_day_is_never() -> None:
    assert hits(at(0.5)) == (math.inf,) * 3
    assert hits(at(0.5, -0.01)) == (math.inf,) * 3
    assert hits(at(1.0 - 1439.5 * 1e-4, 1e-4))[1] == rules.HORIZON_S
    assert hits(at(1.0 - 1441 * 1e-4, 1e-4))[1] == math.inf


def test_what_has_no_limit_or_is_not_known_says_nothing() -> None:
    assert hits(at(0.9, 0.01), math.nan) == (math.inf,) * 3
    assert hits(at(0.9, 0.01, told=np.array([WARM - 1]))) == (math.inf,) * 3
    assert hits(at(0.9, 0.01, told=np.array([WARM])))[1] < math.inf
    assert hits(at(0.9, 0.01, missed=np.array([hw.LOST + 1]))) == (math.inf,) * 3
    assert hits(at(0.9, 0.01, missed=np.array([hw.LOST])))[1] < math.inf


def test_what_is_at_its_limit_is_there_now() -> None:
    assert hits(at(1.0)) == (0.0, 0.0, 0.0)
    assert hits(at(0.9999))[1] > 0.0
    assert hits(at(10.0), 10.0, towards=-1.0) == (0.0, 0.0, 0.0)


def test_what_falls_hits_its_limit_from_above() -> None:
    earliest, likely, latest = hits(at(20.0, -0.1), 14.0, towards=-1.0)
    assert likely == 60 * STEP_S
    assert earliest < likely < latest
    assert hits(at(20.0, 0.1), 14.0, towards=-1.0)[1] == math.inf


def test_a_season_hits_a_limit_without_any_trend() -> None:
    slots = np.zeros((1, SLOTS), dtype=np.float32)
    slots[0, 144:150] = 0.6  # from noon to half past
    state = at(0.5, slots=slots, seasonal=np.array([True]))
    assert hits(state, step=600)[1] == 120 * STEP_S
    assert hits(state, step=750)[1] == (1440 - 30) * STEP_S, "tomorrow"
    assert hits(at(0.5, slots=slots), step=600)[1] == math.inf, "who has no season knows nothing of noon"
    assert hits(state, 0.4, step=600, towards=-1.0)[1] == math.inf
    assert hits(state, step=720) == (0.0, 0.0, 0.0)


def test_many_series_are_looked_at_in_parts() -> None:
    many = 1100
    state = msgspec.structs.replace(
        hw.empty(many, 288),
        level=np.full(many, 0.4),
        trend=np.full(many, 0.01),
        told=np.full(many, 100),
    )
    found = rules.hits(state, EVEN, np.ones(many), 0)
    assert (found.likely == 60 * STEP_S).all()


# -- alarms


def look(
    alarm: Alarm,
    likely: float,
    latest: float = HOUR,
    *,
    age: int = 10_000,
    told: int = 10_000,
    read: bool = True,
) -> Alarm:
    state = at(0.5, age=np.array([age]), told=np.array([told]))
    found = Hits(np.array([likely / 2]), np.array([likely]), np.array([latest]))
    return rules.watched(alarm, state, DISK, found, np.array([read]))


def looks(count: int, likely: float, alarm: Alarm | None = None, **more: Any) -> Alarm:
    alarm = alarm or rules.no_alarm(1)
    for _ in range(count):
        alarm = look(alarm, likely, **more)
    return alarm


def test_it_is_raised_by_so_many_looks_in_a_row() -> None:
    assert not looks(DISK.persist - 1, DISK.act_s).raised[0]
    assert looks(DISK.persist, DISK.act_s).raised[0]
    broken = looks(DISK.persist - 1, DISK.act_s, look(looks(DISK.persist - 1, DISK.act_s), DISK.act_s + 1))
    assert not broken.raised[0]
    assert looks(1, DISK.act_s, broken).raised[0]


@pytest.mark.parametrize(
    ("likely", "more"),
    [
        (DISK.act_s + 1.0, {}),
        (math.inf, {}),
        (HOUR, {"latest": math.inf}),
        (HOUR, {"told": WARM - 1}),
        (HOUR, {"read": False}),
        (HOUR, {"age": 29}),
    ],
)
def test_it_is_not_raised_where_that_is_late_or_not_sure_or_hardly_watched(
    likely: float, more: dict[str, Any]
) -> None:
    assert not looks(100, likely, **more).raised[0]


def test_nobody_looks_further_than_twice_as_long_as_he_watched() -> None:
    assert looks(DISK.persist, HOUR, age=30).raised[0]


def test_it_is_over_when_the_limit_has_been_far_away_for_long_enough() -> None:
    raised = looks(DISK.persist, HOUR)
    near, far = rules.SLACK * DISK.act_s, rules.SLACK * DISK.act_s + 1
    assert looks(1000, near, raised).raised[0]
    assert looks(CALM - 1, far, raised).raised[0]
    assert not looks(CALM, far, raised).raised[0]
    assert looks(1000, far, raised, read=False).raised[0], "silence ends nothing"
    assert looks(1000, far, raised, told=WARM - 1).raised[0], "and neither does who knows nothing yet"
    interrupted = looks(CALM - 1, far, look(looks(CALM - 1, far, raised), near))
    assert interrupted.raised[0]


def test_silence_neither_breaks_a_row_nor_goes_on_with_it() -> None:
    before = looks(DISK.persist - 1, HOUR)
    assert not looks(50, HOUR, before, read=False).raised[0]
    assert looks(1, HOUR, looks(50, HOUR, before, read=False)).raised[0]


def test_alarms_come_and_go() -> None:
    grown = rules.alarm_grown(looks(DISK.persist, HOUR), [True, False])
    assert list(grown.raised) == [True, True, False]
    assert list(rules.alarm_of(grown, [2, 1]).raised) == [False, True]


def test_every_figure_has_an_alert_of_its_own() -> None:
    assert {one.alert for one in FIGURES.values()} == {
        "disk-will-fill",
        "vram-will-fill",
        "queue-will-fill",
        "tokens-will-fall",
    }
    assert all(isinstance(one, Figure) and 0.0 < one.act_s < rules.HORIZON_S for one in FIGURES.values())


# -- words


def test_words() -> None:
    assert rules.when(2 * HOUR, 3 * HOUR, 5 * HOUR) == "in 3 h (2 h to 5 h)"
    assert rules.when(2 * HOUR, 3 * HOUR, math.inf) == "in 3 h (2 h to never)"
    assert rules.when(0.0, 0.0, 0.0) == "now"
    assert rules.when(2 * HOUR, math.inf, math.inf) == "no sooner than in a day"
    assert rules.when(math.inf, math.inf, math.inf) == "no sooner than in a day"
    disk = rules.what(gauges.DISK, "b", "models")
    assert rules.sentence(gauges.DISK, disk, "in 3 h (2 h to 5 h)", 400 * 2**30, 500 * 2**30) == (
        "the disk of node b that has models will be full in 3 h (2 h to 5 h): 400 GiB of 500 GiB now"
    )
    gpu = rules.what(gauges.VRAM, "b", "GPU-1")
    assert rules.sentence(gauges.VRAM, gpu, rules.NOW, 2**30, 2**30) == (
        "the memory of GPU GPU-1 of node b is full now: 1 GiB of 1 GiB now"
    )
    queue = rules.what(gauges.QUEUE, "b/0", "")
    assert rules.sentence(gauges.QUEUE, queue, "in 20 min (…)", 400, 512) == (
        "the queue of b/0 will be full in 20 min (…): 400 requests of 512 requests now"
    )
    stream = rules.what(gauges.TOKENS, "b/0", "")
    assert rules.sentence(gauges.TOKENS, stream, "in 20 min (…)", 14.0, 10.0) == (
        "a stream of b/0 will be below 10 tokens/s in 20 min (…): 14 tokens/s now"
    )
