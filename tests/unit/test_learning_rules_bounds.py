"""Thresholds that learn, window by window: where each of their limits is, and what one window moves."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from bridge_core.counts import Counter, Counts
from bridge_registry.alerts import learning_rules as rules
from bridge_registry.alerts.learning_rules import Kinds, Sample, State
from bridge_registry.alerts.series_rules import Growing, windows

HOUR = 3600.0
DAY = 24 * HOUR
LEAST_SEEN = math.log(1.5)
NEED = 1.5 * math.log(120_960)  # of one series: a week has so many windows
FULL = NEED / 3
"""The evidence that one window adds at most."""


def kinds(series: int = 1, **other: Any) -> Kinds:
    """Series of one figure of one model, each on a node of its own."""
    made = Kinds(np.ones(series), np.zeros(series, dtype=np.int64), np.arange(series))
    return msgspec.structs.replace(made, **other)


def used_to(series: int = 1, *, windows: int = 10_000, **other: Any) -> State:
    """Series that were always 0.0 at every load, for so many windows, and vary as little as can be."""
    shape = (series, 6)
    before = msgspec.structs.replace(
        rules.empty(series, 0.0),
        windows=windows,
        level=np.zeros(shape),
        told=np.full(shape, windows),
        spread=np.full(series, 0.1),
    )
    return msgspec.structs.replace(before, **{name: np.array(value) for name, value in other.items()})


def stepped(
    state: State,
    *values: float,
    now: float = 5.0,
    requests: float = 10.0,
    load: float = 0.0,
    of: Kinds | None = None,
) -> State:
    many = len(values)
    sample = Sample(np.array(values), np.full(many, requests), np.full(many, load))
    return rules.step(state, of or kinds(many), sample, now)


# -- what is kept


def test_of_a_new_series_nothing_is_known() -> None:
    new = rules.empty(3, 7.0)
    assert (new.began, new.windows) == (7.0, 0)
    assert new.level.shape == new.told.shape == (3, 6)
    assert new.of_day.shape == new.day_told.shape == (3, 24)
    assert new.of_week.shape == new.week_told.shape == (3, 168)
    assert list(new.spread) == [2.0] * 3
    assert not new.raised.any()


def test_a_series_that_was_never_heard_of_is_nobodys_neighbour() -> None:
    state = msgspec.structs.replace(used_to(2), windows=0, told=np.array([[60] * 6, [0] * 6]))
    state = msgspec.structs.replace(state, residual=np.array([0.0, 0.9]))
    after = stepped(state, 0.9, math.nan)
    assert after.windows == 1
    assert after.evidence[0] > 0.0


def test_evidence_is_needed_for_one_false_alarm_a_week() -> None:
    assert rules.needed(1) == pytest.approx(NEED)
    assert rules.needed(1, 2.0) == pytest.approx(1.5 * math.log(60_480))
    assert rules.needed(2) == pytest.approx(1.5 * math.log(241_920))
    assert rules.needed(0) == rules.needed(1)


def counts(answers: int, *, tokens: int = 10) -> Counts:
    made = Counter()
    for _ in range(answers):
        made.answered(0.1, tokens=tokens, generating_s=2.0, broken=False)
    return made.counts


def test_a_window_grows_by_six_at_most_and_needs_four_answers() -> None:
    state, over = windows({}, {"n/0": counts(9)})
    for grown in (1, 2, 3, 4, 5):
        state, over = windows(state, {"n/0": counts(9 if grown == 1 else 10)})
        assert state == {"n/0": Growing(counts(9), grown)}
        assert not over
    state, over = windows(state, {"n/0": counts(11)})
    assert state == {"n/0": Growing(counts(11))}
    assert not over
    state, over = windows(state, {"n/0": counts(14)})
    assert not over
    state, over = windows(state, {"n/0": counts(15)})
    assert over["n/0"].answers == 4


def test_of_answers_without_tokens_there_is_no_pace() -> None:
    _, over = windows({"n/0": Growing(counts(0))}, {"n/0": counts(4, tokens=0)})
    assert math.isnan(over["n/0"].of("slow-tokens"))
    assert not math.isnan(over["n/0"].of("slow-first-byte"))


# -- what is expected


@pytest.mark.parametrize(
    ("load", "place"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.39, 1), (0.99, 4), (1.0, 5), (7.0, 5)]
)
def test_loads_go_by_fifths_and_all_that_wait_are_one(load: float, place: int) -> None:
    state = used_to(level=[[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]])
    assert stepped(state, 1.0, load=load).residual[0] == pytest.approx(1.0 - place / 10)


@pytest.mark.parametrize(("told", "judged"), [(59, False), (60, True)])
def test_nothing_is_said_of_a_load_before_five_minutes_at_it(told: int, judged: bool) -> None:
    state = used_to(told=[[told] + [10_000] * 5])
    after = stepped(state, 5.0)
    assert bool(after.evidence[0] > 0.0) is judged
    assert after.residual[0] == (5.0 if judged else 0.0)
    assert bool(after.heard[0] == after.windows) is judged


@pytest.mark.parametrize("hours", [72, 73, 95, 96, 335])
def test_an_hour_of_the_day_is_expected_to_be_as_that_hour_was(hours: int) -> None:
    state = used_to(of_day=[np.arange(24) / 100], day_told=[[60] * 24])
    assert stepped(state, 1.0, now=hours * HOUR).residual[0] == pytest.approx(1 - hours % 24 / 100)
    late = stepped(state, 1.0, now=hours * HOUR + HOUR - 1)
    assert late.residual[0] == pytest.approx(1 - hours % 24 / 100)


@pytest.mark.parametrize("hours", [336, 337, 400, 503, 504])
def test_an_hour_of_the_week_is_expected_to_be_as_that_hour_was(hours: int) -> None:
    state = used_to(of_week=[np.arange(168) / 1000], week_told=[[60] * 168])
    assert stepped(state, 1.0, now=hours * HOUR).residual[0] == pytest.approx(1 - hours % 168 / 1000)


@pytest.mark.parametrize(
    ("day_told", "week_told", "left"), [(59, 59, 1.0), (60, 59, 0.75), (59, 60, 0.5), (60, 60, 0.5)]
)
def test_an_hour_counts_from_sixty_of_its_windows(day_told: int, week_told: int, left: float) -> None:
    state = used_to(
        of_day=[[0.25] * 24], of_week=[[0.5] * 168], day_told=[[day_told] * 24], week_told=[[week_told] * 168]
    )
    assert stepped(state, 1.0, now=20 * DAY).residual[0] == left


# -- evidence


@pytest.mark.parametrize(("requests", "varies"), [(1.0, 0.01), (2.0, 0.005), (10.0, 0.001), (0.5, 0.01)])
def test_a_window_is_worth_how_much_likelier_it_is_after_the_change(requests: float, varies: float) -> None:
    likelier = math.log(2.25) * (0.45 - LEAST_SEEN) / (varies + 0.12**2)
    assert stepped(used_to(), 0.45, requests=requests).evidence[0] == pytest.approx(likelier)
    assert stepped(used_to(), 0.45, requests=requests, of=kinds(sign=-np.ones(1))).evidence[0] == 0.0
    assert stepped(used_to(), -0.45, requests=requests, of=kinds(sign=-np.ones(1))).evidence[0] > 0.0


def test_what_varies_more_says_less() -> None:
    likelier = math.log(2.25) * (0.6 - LEAST_SEEN) / (0.5**2 / 10 + 0.12**2)
    assert stepped(used_to(spread=[0.5]), 0.6).evidence[0] == pytest.approx(likelier)


def test_half_as_much_again_is_where_evidence_begins() -> None:
    assert stepped(used_to(), LEAST_SEEN + 0.001).evidence[0] > 0.0
    assert stepped(used_to(), LEAST_SEEN - 0.001).evidence[0] == 0.0


def test_one_window_adds_or_takes_a_third_of_what_is_needed_at_most() -> None:
    assert stepped(used_to(), 50.0).evidence[0] == pytest.approx(FULL)
    assert stepped(used_to(evidence=[10.0]), -50.0).evidence[0] == pytest.approx(10.0 - FULL)


def test_it_is_raised_with_the_third_window_and_over_with_the_fifth_good_one_at_the_latest() -> None:
    state, raised = used_to(), []
    for value in [9.0] * 9 + [0.0] * 6:
        state = stepped(state, value)
        raised.append(bool(state.raised[0]))
    assert raised == [False] * 2 + [True] * 11 + [False] * 2
    state = used_to()
    for _ in range(20):
        state = stepped(state, 9.0)
    assert state.evidence[0] == pytest.approx(1.5 * NEED)


@pytest.mark.parametrize(("left", "raised"), [(0.5, True), (0.0, False)])
def test_it_lasts_while_any_evidence_is_left(left: float, raised: bool) -> None:
    after = stepped(used_to(evidence=[FULL + left], raised=[True], since=[0.5]), -9.0)
    assert after.evidence[0] == pytest.approx(left)
    assert bool(after.raised[0]) is raised
    assert after.since[0] == (0.5 if raised else 0.0), "since when there was some without a break"


def test_since_when_there_is_evidence_is_when_it_began() -> None:
    assert stepped(used_to(), 0.41, now=77.0).since[0] == 77.0
    assert 0.0 < stepped(used_to(), 0.41).evidence[0] < 1.0
    assert stepped(used_to(), 0.0, now=77.0).since[0] == 0.0


# -- the other nodes


@pytest.mark.parametrize(("silent", "excused"), [(3, True), (4, False)])
def test_another_nodes_last_word_counts_for_three_windows(silent: int, excused: bool) -> None:
    state = used_to(2, residual=[0.0, 0.6], heard=[10_000, 10_001 - silent])
    assert bool(stepped(state, 0.6, math.nan).evidence[0] == 0.0) is excused
    seen = used_to(2, raised=[True, False], heard=[10_000, 10_000 - silent])
    assert list(rules.compared(seen, kinds(2))) == [excused, False]


def test_that_others_do_better_than_expected_is_no_evidence() -> None:
    assert stepped(used_to(2), 0.0, -9.0).evidence[0] == 0.0
    assert stepped(used_to(2), 0.45, -9.0).evidence[0] == stepped(used_to(2), 0.45, 0.0).evidence[0] > 0.0


def test_among_eight_nodes_each_is_held_against_the_seven_others_and_among_nine_against_all() -> None:
    eight = stepped(used_to(8), *[0.9] * 4, *[0.0] * 4)
    assert eight.evidence[0] == pytest.approx(rules.needed(8) / 3), "the middle of seven others is 0"
    nine = stepped(used_to(9), *[0.9] * 5, *[0.0] * 4)
    assert not nine.evidence.any(), "the middle of all nine is 0.9"


@pytest.mark.parametrize(
    ("residual", "node", "group", "found"),
    [
        (LEAST_SEEN - 0.001, 1, 0, True),
        (math.log(2.25) / 2, 1, 0, False),
        (9.0, 1, 0, False),
        (0.0, 0, 0, False),
        (0.0, 1, 1, False),
    ],
)
def test_compared_is_with_another_node_of_the_model_that_is_as_expected(
    residual: float, node: int, group: int, found: bool
) -> None:
    state = used_to(2, raised=[True, False], residual=[9.0, residual], heard=[10_000, 10_000])
    beside = kinds(2, node=np.array([0, node]), group=np.array([0, group]))
    assert list(rules.compared(state, beside)) == [found, False]


# -- what is learnt


def test_the_first_windows_count_as_much_as_those_before_them_together() -> None:
    state = stepped(rules.empty(1, 0.0), 3.0, requests=4.0)
    assert (state.level[0, 0], state.told[0, 0]) == (3.0, 1)
    noise = math.sqrt(2.0**2 / 4 + 0.12**2)
    second = stepped(state, 9.0, requests=4.0)
    assert second.level[0, 0] == pytest.approx(3.0 + 1.5 * noise / 2)
    assert second.told[0, 0] == 2
    third = stepped(second, -9.0, requests=4.0)
    assert third.level[0, 0] == pytest.approx(3.0 + 1.5 * noise / 2 - 1.5 * noise / 3)
    assert np.isnan(third.level[0, 1:]).all(), "of other loads nothing is learnt"


@pytest.mark.parametrize(("value", "steps"), [(0.2, 1), (-0.2, -1), (0.0, 0)])
def test_what_was_learnt_for_long_moves_by_a_240th_of_what_varies(value: float, steps: int) -> None:
    after = stepped(used_to(), value)
    assert after.level[0, 0] == pytest.approx(steps * 1.5 * math.sqrt(0.001 + 0.12**2) / 240, rel=1e-9)


def test_of_a_window_without_requests_nothing_is_learnt() -> None:
    new = rules.empty(1, 0.0)
    assert stepped(new, 3.0, requests=0.0).told[0, 0] == 0
    assert stepped(new, math.nan).told[0, 0] == 0
    assert stepped(new, math.inf).told[0, 0] == 0
    assert stepped(new, 3.0, requests=1.0).told[0, 0] == 1


def test_evidence_is_not_learnt_from_before_it_has_lasted_an_hour() -> None:
    before = used_to(evidence=[NEED], since=[1000.0])
    assert stepped(before, 9.0, now=4600.0).level[0, 0] == 0.0
    assert stepped(before, 9.0, now=4600.5).level[0, 0] > 0.0


@pytest.mark.parametrize(("value", "learnt"), [(9.0, 0), (0.45, 1)])
def test_a_third_of_what_is_needed_is_evidence_enough_not_to_learn(value: float, learnt: int) -> None:
    assert stepped(used_to(), value).told[0, 0] == 10_000 + learnt


@pytest.mark.parametrize(("told", "known"), [(29, False), (30, True)])
def test_what_varies_and_what_hours_add_is_learnt_from_half_of_what_a_level_takes(
    told: int, known: bool
) -> None:
    state = used_to(told=[[told] * 6], spread=[1.0])
    after = stepped(state, 5.0, now=30 * HOUR, requests=4.0)
    assert after.spread[0] == pytest.approx(math.exp(0.02) if known else 1.0)
    added = math.sqrt(1 / 4 + 0.12**2) / 4 if known else 0.0
    expected = {
        "of_day": (6, added),
        "day_told": (6, known),
        "of_week": (30, added),
        "week_told": (30, known),
    }
    for name, (hour, value) in expected.items():
        found = getattr(after, name)[0]
        assert found[hour] == pytest.approx(float(value)), name
        assert np.count_nonzero(found) == known, name


@pytest.mark.parametrize(("off", "factor"), [(0.99, -1), (1.01, 1)])
def test_the_spread_goes_to_the_median_deviation_of_one_request(off: float, factor: int) -> None:
    state = used_to(spread=[0.5])
    for sign in (1, -1):
        deviation = sign * off * 0.5 / 1.4826 / math.sqrt(4.0)
        after = stepped(state, deviation, requests=4.0)
        assert after.spread[0] == pytest.approx(0.5 * math.exp(factor * 0.02))


def test_the_spread_is_never_less_than_a_tenth() -> None:
    assert stepped(used_to(spread=[0.101]), 0.0).spread[0] == 0.1
    assert stepped(used_to(spread=[0.1]), 0.0).spread[0] == 0.1


@pytest.mark.parametrize(
    ("told", "part"), [(0, 1 / 4), (6, 1 / 10), (235, 1 / 239), (236, 1 / 240), (9999, 1 / 240)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_an_hour_adds_moves_less_the_better_it_is_known(told: int, part: float, sign: int) -> None:
    state = used_to(
        of_day=[[0.1] * 24], day_told=[[told] * 24], of_week=[[0.1] * 168], week_told=[[told] * 168]
    )
    after = stepped(state, 0.1 + sign * 0.05)
    noise = math.sqrt(0.001 + 0.12**2)
    for found in (after.of_day[0], after.of_week[0]):
        assert found[0] == pytest.approx(0.1 + sign * noise * part, rel=1e-9)
        assert found[1] == 0.1


def test_windows_of_different_loads_are_learnt_at_their_own() -> None:
    sample = Sample(np.array([0.2, 0.2]), np.full(2, 10.0), np.array([0.0, 1.0]))
    after = rules.step(used_to(2), kinds(2), sample, 5.0)
    assert (after.level > 0.0).tolist() == [[True] + [False] * 5, [False] * 5 + [True]]
