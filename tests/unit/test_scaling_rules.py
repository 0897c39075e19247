"""The autoscaler's decisions: tables for what it says, properties for what it must never do."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_core.counts import Counter, Counts
from bridge_registry.scaling import forecast_rules, need_rules
from bridge_registry.scaling.placement_rules import FAILED_S, additions, possible, removals, way_of
from bridge_registry.scaling.plan import (
    BUCKETS,
    Loading,
    ScalingPlan,
    ScalingPosition,
    Seen,
    Sight,
)
from bridge_registry.scaling.scaling_rules import begin, decide

PLAN = ScalingPlan("p", "m", max=8, min=1)
NOW = 1_800_000_000.0


def seen(number: int, **fields: Any) -> Seen:
    return Seen(f"n{number}/0", f"n{number}", slots=4, **fields)


def fleet(count: int, active: int = 0, busy: int = 0, **fields: Any) -> Sight:
    """So many instances; the first `active` have it loaded with `busy` requests each."""
    return Sight(
        tuple(
            seen(at, loaded=at < active, in_flight=busy if at < active else 0, **fields)
            for at in range(count)
        )
    )


def standing(active: int, **fields: Any) -> ScalingPosition:
    return ScalingPosition(
        "m", active=tuple(f"n{at}/0" for at in range(active)), asked_at=NOW, wanted=active, **fields
    )


def counted(seconds: float, times: int) -> Counts:
    counter = Counter()
    for _ in range(times):
        counter.answered(seconds, tokens=0, generating_s=0.0, broken=False)
    return counter.counts


# -- the fast loop


@pytest.mark.parametrize(
    ("need", "instances"),
    [(0.0, 0), (0.1, 1), (2.8, 1), (3.0, 1), (3.1, 2), (5.6, 2), (8.3, 3), (28.0, 10), (29.5, 11)],
)
def test_as_many_as_come_nearest_to_the_target_and_not_past_the_band(need: float, instances: int) -> None:
    assert need_rules.nearest(0.7, need, 4) == instances


@given(st.floats(0.0, 1000.0), st.floats(0.2, 0.9), st.integers(1, 64))
def test_the_band_above_the_target_is_never_passed(need: float, target: float, slots: int) -> None:
    found = need_rules.nearest(target, need, slots)
    assert need <= found * slots * (target + need_rules.BAND) + 1e-3
    assert found == 0 or need > (found - 1.5) * slots * target - 1e-3 or found == 1


@pytest.mark.parametrize(
    ("usual", "wanted"), [(11.2, 4), (12.59, 4), (12.61, 5), (8.41, 4), (8.39, 3), (5.0, 2), (16.0, 6)]
)
def test_a_number_is_left_for_half_an_instance_more_and_for_a_whole_one_less(
    usual: float, wanted: int
) -> None:
    assert need_rules.recommended(PLAN, standing(4, need=8.0, usual=usual), 4, 4.0)[0] == wanted


def test_minutes_that_are_busy_move_the_fleet_only_where_they_fill_it() -> None:
    def asked(need: float) -> tuple[int, str]:
        return need_rules.recommended(PLAN, standing(4, need=need, usual=11.2), 4, 4.0)

    assert asked(13.6)[0] == 4  # 85 %: halfway from the target to full
    assert asked(14.5) == (5, "91% of the slots came into use, 70% are the target")
    assert asked(0.0)[0] == 4


@settings(max_examples=200)
@given(
    st.floats(0.05, 1.0),
    st.floats(0.0, 200.0),
    st.integers(1, 64),
    st.floats(-0.05, 0.05),
    st.integers(1, 16),
)
def test_what_it_is_sized_to_is_left_neither_upwards_nor_downwards(
    target: float, usual: float, active: int, trim: float, slots: int
) -> None:
    """It does not swing between two numbers while the load stays: where it goes, it stays."""
    plan = msgspec.structs.replace(PLAN, target=target)
    position = standing(active, need=0.0, usual=usual, trim=trim)
    size = need_rules.sized(plan, position, active, float(slots))
    again = need_rules.sized(plan, position, size, float(slots))
    assert again == size
    more = msgspec.structs.replace(position, usual=usual + 1.0)
    assert need_rules.sized(plan, more, active, float(slots)) >= size


@pytest.mark.parametrize("load", [13, 16, 20])
def test_a_load_that_moves_has_the_target_as_its_mean(load: int) -> None:
    """Of numbers of instances that would, some of them, be out of the band for hours; eight hours."""
    world = World(msgspec.structs.replace(PLAN, forecast=False), 8)
    rng, now, used, there = random.Random(load), NOW, 0.0, 0.0
    for tick in range(10 * 240):
        now += 15.0
        if tick % 4 == 0:
            minute = round(rng.gauss(load, 0.22 * load))
        world.streams = {}
        sight = world.sight(max(0, minute), -1, dark=False)
        world.position, _ = decide(world.plan, world.position, sight, now)
        world.loaded = {*world.position.active, *world.position.loading, *world.position.warm}
        if tick >= 2 * 240:
            used += min(max(0, minute), 4 * len(world.position.active))
            there += 4 * len(world.position.active)
    assert 0.65 <= used / there <= 0.75, used / there


def test_the_trim_is_an_hour_s_integral_and_keeps_within_the_band() -> None:
    def after(busy: int, seconds: float, **fields: Any) -> float:
        position = standing(2, need=5.6, usual=5.6, measured_at=NOW, **fields)
        sight = Sight((seen(0, in_flight=busy, loaded=True), seen(1, loaded=True)))
        return need_rules.measured(PLAN, position, sight, sight.instances, NOW + seconds).trim

    assert after(4, 360.0) == pytest.approx(0.02)  # 20 points off, a tenth of an hour
    assert after(7, 360.0) == pytest.approx(-0.0175)
    assert after(0, 3600.0) == need_rules.BAND
    assert after(8, 3600.0) == -need_rules.BAND
    assert after(4, 0.0, trim=0.04) == 0.04
    assert after(4, -5.0, trim=0.04) == 0.04
    assert after(4, 0.0, trim=float("nan")) == 0.0
    assert after(4, 0.0, trim=9.0) == need_rules.BAND


def test_where_something_else_holds_the_fleet_the_trim_fades() -> None:
    def after(plan: ScalingPlan, active: int, busy: int, **fields: Any) -> float:
        position = standing(active, need=1.0, measured_at=NOW, trim=0.04, **fields)
        sight = Sight(tuple(seen(at, loaded=True, in_flight=busy) for at in range(active)))
        return need_rules.measured(plan, position, sight, sight.instances, NOW + 360.0).trim

    faded = pytest.approx(0.04 * math.exp(-0.1))
    least = msgspec.structs.replace(PLAN, min=2)
    assert after(PLAN, 1, 1) == faded
    assert after(least, 2, 1) == faded
    assert after(PLAN, 3, 1, floor=3) == pytest.approx(0.05)  # a forecast is no bound: it has days behind it
    assert after(msgspec.structs.replace(PLAN, max=2), 2, 4) == faded
    assert after(PLAN, 2, 1) == pytest.approx(0.05)  # nothing holds it
    assert after(least, 2, 4) == pytest.approx(0.01)
    assert after(msgspec.structs.replace(PLAN, max=2), 2, 1) == pytest.approx(0.05)


def test_what_is_aimed_at_keeps_within_what_can_be() -> None:
    def aimed(target: float, trim: float) -> float:
        return need_rules.aim(msgspec.structs.replace(PLAN, target=target), standing(1, trim=trim))

    assert aimed(0.7, 0.05) == pytest.approx(0.75)
    assert aimed(0.7, -9.0) == pytest.approx(0.65)
    assert aimed(0.99, 0.05) == 1.0
    assert aimed(0.04, -0.05) == pytest.approx(0.02)


def test_a_position_of_before_there_was_a_usual_goes_on_from_its_need() -> None:
    old = msgspec.json.decode(
        b'{"model":"m","active":["n0/0"],"need":2.0,"recent":[[1.5,3]]}', type=ScalingPosition
    )
    assert need_rules.usual_of(old) == 2.0
    sight = Sight((seen(0, loaded=True, in_flight=4),))
    found = need_rules.measured(PLAN, old, sight, sight.instances, NOW)
    assert found.usual == pytest.approx(4.0)


def test_a_queue_beyond_its_goal_asks_for_an_eighth_more() -> None:
    few = standing(4, need=11.2, queued=8.1)
    many = standing(4, need=11.2, queued=100.0)
    none = standing(4, need=11.2, queued=8.0)
    assert [need_rules.recommended(PLAN, one, 4, 4.0)[0] for one in (few, many, none)] == [5, 5, 4]
    eight = standing(8, need=22.4, queued=17.0)
    assert need_rules.recommended(PLAN, eight, 8, 4.0)[0] == 9
    full = standing(8, need=32.0, usual=22.4, queued=17.0)
    assert need_rules.recommended(PLAN, full, 8, 4.0)[0] == 11  # all that fills the slots now, at the target
    assert need_rules.sized(PLAN, eight, 8, 4.0) == 8
    off = msgspec.structs.replace(PLAN, queued_per_instance=None)
    assert need_rules.recommended(off, many, 4, 4.0)[0] == 4


def test_late_first_bytes_ask_for_one_more_only_where_that_could_help() -> None:
    full, idle = standing(4, need=10.4, slow=True), standing(4, need=1.0, slow=True)
    assert need_rules.recommended(PLAN, full, 4, 4.0)[0] == 5
    wanted, why = need_rules.recommended(PLAN, idle, 4, 4.0)
    assert wanted < 4
    assert "would not help" in why


def test_first_bytes_are_judged_over_a_window_with_enough_of_them() -> None:
    plan = msgspec.structs.replace(PLAN, ttft_p95_s=1.0)

    def judged(ttft: Counts) -> bool:
        position = standing(1, need=2.8, measured_at=NOW, ttft_at=NOW)
        sight = msgspec.structs.replace(fleet(1, 1, 3), ttft=ttft)
        return need_rules.measured(plan, position, sight, sight.instances, NOW + 30.0).slow

    assert judged(counted(2.0, 20))
    assert not judged(counted(2.0, 19))
    assert not judged(counted(0.5, 100))


def test_an_instance_that_does_not_report_counts_as_filled_to_the_target() -> None:
    sight = Sight((seen(0, in_flight=0, loaded=True), seen(1, known=False, in_flight=99, loaded=True)))
    position = need_rules.measured(PLAN, standing(2), sight, sight.instances, NOW)
    assert position.need == pytest.approx(0.7 * 4)


# -- the slow loop


def profile_of(needs: dict[int, float]) -> tuple[float, ...]:
    return tuple(needs.get(at, -1.0) for at in range(BUCKETS))


def test_a_day_is_learnt_and_the_newest_counts_half() -> None:
    profile, bucket = (), (-1, 0.0, 0)
    for day in range(2):
        for tick in range(10):
            at = day * 86_400 + 300.0 + tick
            profile, bucket = forecast_rules.note(profile, bucket, 4.0 + 4.0 * day, at)
        profile, bucket = forecast_rules.note(profile, bucket, 0.0, day * 86_400 + 600.0)
    assert profile[1] == 6.0
    assert profile[5] < 0


def test_expected_is_the_most_ahead_times_how_today_compares() -> None:
    profile = profile_of({0: 10.0, 1: 20.0, 2: 40.0, 3: 90.0})
    assert forecast_rules.expected(profile, 10.0, 0.0, 600.0) == 40.0
    assert forecast_rules.expected(profile, 10.0, 0.0, 599.0) == 20.0
    assert forecast_rules.expected(profile, 15.0, 0.0, 600.0) == 60.0
    assert forecast_rules.expected(profile, 100.0, 0.0, 600.0) == 80.0  # twice at most
    assert forecast_rules.expected(profile, 0.0, 0.0, 600.0) == 20.0  # half at least
    assert forecast_rules.expected((), 10.0, 0.0, 600.0) == 0.0
    assert forecast_rules.expected(profile, 10.0, 7 * 300.0, 600.0) == 0.0


def test_a_rise_that_may_be_chance_is_not_forecast() -> None:
    for ahead, soon in ((12.4, 10.0), (12.5, 12.5), (9.0, 9.0), (30.0, 30.0)):
        profile = profile_of({0: 10.0, 1: 10.0, 2: ahead})
        assert forecast_rules.expected(profile, 10.0, 300.0, 300.0) == soon
    # What it rises from is the mean of two.
    falling = profile_of({0: 14.0, 1: 10.0, 2: 14.0})
    assert forecast_rules.expected(falling, 12.0, 300.0, 300.0) == 12.0


@given(st.floats(0.5, 100.0), st.integers(1, 16))
def test_the_same_again_asks_for_no_more_than_what_is_left_as_it_is(usual: float, slots: int) -> None:
    """A day like the day before: the forecast moves nothing that the usual would not."""
    position = standing(1, need=0.0, usual=usual)
    floor = need_rules.floor_of(PLAN, position, usual, float(slots))
    for active in range(1, floor):
        assert (
            need_rules.sized(PLAN, position, active, float(slots)) > active
            or abs(usual / (active * slots) - PLAN.target) <= need_rules.BAND
        )


def test_the_floor_has_instances_there_before_the_load_is() -> None:
    here = int(NOW // 300) % BUCKETS
    profile = profile_of({here: 2.8, (here + 1) % BUCKETS: 2.8, (here + 2) % BUCKETS: 14.0})
    position = standing(1, profile=profile, need=2.8, measured_at=NOW)
    after, told = decide(PLAN, position, fleet(8, 1, 3), NOW)
    assert after.floor >= 5
    assert after.wanted == after.floor
    assert len(after.loading) == 2  # loads are staggered
    assert any("time of day" in one.what for one in told)
    deaf = msgspec.structs.replace(PLAN, forecast=False)
    assert decide(deaf, position, fleet(8, 1, 3), NOW)[0].wanted == 1


# -- whom


def test_the_cheapest_come_first() -> None:
    position = standing(
        1, warm={"n1/0": NOW - 10}, released={"n3/0": NOW - 60, "n4/0": NOW - 3600}, out_at=NOW - 100
    )
    instances = (
        seen(0, loaded=True),
        seen(1, loaded=True),
        seen(2, loaded=True),
        *(seen(at) for at in (3, 4, 5)),
    )
    ways = [way_of(one, position, NOW) for one in instances[1:]]
    assert ways == ["unhide", "resident", "page-cache", "disk", "disk"]
    found = additions(PLAN, position, reversed(instances), count=8, loading_nodes=(), now=NOW)
    assert [(one.id, way) for one, way in found] == [
        ("n1/0", "unhide"),
        ("n2/0", "resident"),
        ("n3/0", "page-cache"),
        ("n4/0", "disk"),  # two loads at once
    ]


def test_one_load_a_node_and_nobody_who_holds_another_model_before_others() -> None:
    two = (Seen("a/0", "a"), Seen("a/1", "a"), Seen("b/0", "b", taken=True), Seen("c/0", "c"))
    found = additions(PLAN, standing(0), two, count=9, loading_nodes=(), now=NOW)
    assert [one.id for one, _ in found] == ["a/0", "c/0"]
    elsewhere = additions(PLAN, standing(0), two, count=9, loading_nodes={"a"}, now=NOW)
    assert [one.id for one, _ in elsewhere] == ["c/0", "b/0"]


def test_budgets_hold_and_what_is_over_them_goes_first() -> None:
    plan = msgspec.structs.replace(PLAN, budgets={"gpu": 1}, loads_at_once=9)
    mixed = (
        Seen("a/0", "a", "gpu"),
        Seen("b/0", "b", "gpu", in_flight=9),
        Seen("c/0", "c", "cpu"),
    )
    assert [one.id for one, _ in additions(plan, standing(0), mixed, count=9, loading_nodes=(), now=NOW)] == [
        "a/0"
    ]
    assert possible(plan, standing(0), mixed, NOW) == 1
    assert removals(plan, mixed, 1) == ["a/0"]
    assert removals(plan, mixed, 3) == ["a/0", "c/0", "b/0"]
    assert removals(PLAN, mixed, 2) == ["a/0", "c/0"]
    several = [Seen(f"a/{load}", "a", "gpu", in_flight=load) for load in (0, 2, 3)]
    several.append(Seen("b/0", "b", "cpu", in_flight=1))
    within = msgspec.structs.replace(plan, budgets={"gpu": 1, "cpu": 1})
    assert removals(within, several, 4) == ["a/0", "a/2", "b/0", "a/3"], "two are over, whoever is idler"


def test_what_did_not_load_is_left_alone_for_a_time() -> None:
    position = standing(0, loading={"n0/0": Loading(NOW)})
    sight = fleet(1)
    after, _ = decide(PLAN, position, sight, NOW + 600.0)
    assert after.loading == {"n0/0": Loading(NOW)}
    after, told = decide(PLAN, position, sight, NOW + 600.0 + 1)
    assert not after.loading
    assert after.unmet == 1
    assert any("did not load" in one.what for one in told)
    again, _ = decide(PLAN, after, sight, NOW + 600.0 + 1 + FAILED_S)
    assert "n0/0" in again.loading


# -- the whole


def test_it_begins_with_whom_it_finds() -> None:
    assert begin(PLAN, fleet(4, 2), NOW).active == ("n0/0", "n1/0")
    assert begin(msgspec.structs.replace(PLAN, max=1), fleet(4, 2), NOW).active == ("n0/0",)
    empty = begin(PLAN, fleet(4), NOW)
    after, _ = decide(PLAN, empty, fleet(4), NOW)
    assert list(after.loading) == ["n0/0"]
    loaded, told = decide(PLAN, after, fleet(4, 1), NOW + 3)
    assert loaded.active == ("n0/0",)
    assert loaded.leads == {"disk": 3.0}
    assert any("after 3.0 s (disk)" in one.what for one in told)


def test_metrics_gone_holds_and_replaces() -> None:
    dark = Sight(tuple(seen(at, known=False, loaded=at < 4) for at in range(6)))
    position = standing(4, need=16.0, measured_at=NOW - 600)
    after, told = decide(PLAN, position, dark, NOW)
    assert (after.active, after.loading, after.wanted) == (position.active, {}, 4)
    assert not told
    assert "4 of 4 do not report" in after.reason
    gone = Sight(dark.instances[1:])
    after, _ = decide(PLAN, position, gone, NOW)
    assert after.active == ("n1/0", "n2/0", "n3/0")
    assert len(after.loading) == 1
    # One that is not known is enough to keep the others from going.
    one_dark = Sight((*(seen(at, loaded=True) for at in range(3)), seen(3, loaded=True, known=False)))
    still, _ = decide(PLAN, standing(4, need=0.0, measured_at=NOW), one_dark, NOW)
    assert len(still.active) == 4


def test_a_rollout_is_not_fought() -> None:
    position = standing(4, need=0.0, measured_at=NOW)
    quiet = fleet(4, 4)
    assert len(decide(PLAN, position, quiet, NOW)[0].active) == 3
    moving = msgspec.structs.replace(quiet, moving=True)
    after, _ = decide(PLAN, position, moving, NOW)
    assert len(after.active) == 4
    assert "a rollout is moving requests" in after.reason


def test_a_drained_node_is_replaced_and_not_unloaded() -> None:
    sight = Sight((seen(0, loaded=True, available=False, in_flight=2), seen(1)))
    after, _ = decide(PLAN, standing(1), sight, NOW)
    assert after.active == ()
    assert after.warm == {"n0/0": NOW}
    assert list(after.loading) == ["n1/0"]


def test_a_paused_policy_changes_nothing_and_one_with_a_lower_max_obeys_at_once() -> None:
    position = standing(4, need=16.0, out_at=NOW, in_at=NOW)
    paused = msgspec.structs.replace(PLAN, paused=True, max=1)
    assert decide(paused, position, fleet(4, 4, 4), NOW)[0].active == position.active
    lower = msgspec.structs.replace(PLAN, max=1)
    after, _ = decide(lower, position, fleet(4, 4, 4), NOW)
    assert len(after.active) == 1
    assert len(after.warm) == 3


def test_who_is_taken_out_finishes_before_it_is_released() -> None:
    position = standing(1, warm={"n1/0": NOW})
    busy = Sight((seen(0, loaded=True, in_flight=3), seen(1, loaded=True, in_flight=1)))
    idle = Sight((seen(0, loaded=True, in_flight=3), seen(1, loaded=True)))
    dark = Sight((seen(0, loaded=True, in_flight=3), seen(1, loaded=True, known=False)))
    late = NOW + PLAN.keep_warm_s
    for sight, at, released in [
        (busy, late, False),
        (dark, late, False),
        (idle, late - 1, False),
        (idle, late, True),
        (busy, late + 3600.0 + 1, True),
    ]:
        after, _ = decide(PLAN, position, sight, at)
        assert ("n1/0" not in after.warm) is released, (sight, at)
        assert ("n1/0" in after.released) is released


ZERO = msgspec.structs.replace(PLAN, min=0, zero_after_s=900.0, forecast=False)


def test_to_zero_and_awake_again() -> None:
    position = standing(2, need=0.0, measured_at=NOW)
    assert decide(ZERO, position, fleet(4, 2), NOW + 899)[0].active
    asleep, _ = decide(ZERO, position, fleet(4, 2), NOW + 900)
    assert asleep.active == ()
    assert set(asleep.warm) == {"n0/0", "n1/0"}
    awake, _ = decide(ZERO, asleep, msgspec.structs.replace(fleet(4, 2), asked=1), NOW + 901)
    assert len(awake.active) == 1  # unhidden at once
    # A request that is still being answered by whom the engine loaded it for counts, too.
    cold = msgspec.structs.replace(asleep, warm={})
    busy = Sight((seen(0), seen(1, loaded=True, in_flight=1)))
    assert decide(ZERO, cold, busy, NOW + 901)[0].active == ("n1/0",)


def test_it_does_not_go_to_zero_where_a_wake_takes_longer_than_its_budget() -> None:
    slow = standing(1, need=0.0, measured_at=NOW, leads={"disk": 31.0})
    after, _ = decide(ZERO, slow, fleet(2, 1), NOW + 5000)
    assert after.active == ("n0/0",)
    assert "wake budget" in after.reason
    quick = msgspec.structs.replace(slow, leads={"disk": 30.0})
    assert decide(ZERO, quick, fleet(2, 1), NOW + 5000)[0].active == ()


# -- properties: a fleet that does what it is told, under any load


class World:
    """A fleet of `size` instances that load within a time, some of which go and come back."""

    def __init__(self, plan: ScalingPlan, size: int) -> None:
        self.plan, self.size = plan, size
        self.loaded: set[str] = set()
        self.streams: dict[str, int] = {}
        self.position = ScalingPosition(plan.model, asked_at=NOW)
        self.history: list[tuple[float, int]] = []

    def sight(self, load: int, gone: int, dark: bool) -> Sight:
        ids = [f"n{at}/0" for at in range(self.size) if at != gone]
        active = [id_ for id_ in self.position.active if id_ in ids]
        for at in range(load):
            if active:
                id_ = active[at % len(active)]
                self.streams[id_] = self.streams.get(id_, 0) + 1
        return Sight(
            tuple(
                Seen(
                    id_,
                    id_.partition("/")[0],
                    slots=4,
                    in_flight=min(4, self.streams.get(id_, 0)),
                    queued=max(0, self.streams.get(id_, 0) - 4),
                    loaded=id_ in self.loaded,
                    known=not dark,
                )
                for id_ in ids
            ),
            asked=load,
        )


STEPS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 120), st.integers(-8, 7), st.integers(0, 9)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 3), st.integers(0, 5), st.booleans())
def test_whatever_the_load_does(
    steps: list[tuple[int, int, int, int]], least: int, more: int, forecast: bool
) -> None:
    plan = ScalingPlan(
        "p",
        "m",
        min=least,
        max=max(1, least + more),
        zero_after_s=None if least else 300.0,
        forecast=forecast,
        keep_warm_s=60.0,
    )
    world, now = World(plan, 8), NOW
    outwards = now
    for load, seconds, gone, dark in steps:
        now += seconds
        world.streams = {}
        sight = world.sight(load, gone, dark == 0)
        before = world.position
        after, _ = decide(plan, before, sight, now)
        present = {one.id: one for one in sight.instances}
        held = {*after.active, *after.loading, *after.warm}
        # Never above max, nor asked for beyond it.
        assert len(after.active) + len(after.loading) <= plan.max
        # Never below min while there is anybody left to ask.
        spare = [one for one in sight.instances if one.id not in held and one.id not in after.failed]
        assert len(after.active) + len(after.loading) >= min(plan.min, plan.loads_at_once) or not spare
        # Only who has the model in memory gets requests, and nobody is two things.
        assert all(present[id_].loaded for id_ in set(after.active) - set(before.active))
        assert not set(after.active) & set(after.loading)
        assert not set(after.warm) & {*after.active, *after.loading}
        # No stream is cut: who has requests is never let go of.
        let_go = {*before.active, *before.warm} - held
        assert all(not present[id_].in_flight for id_ in let_go if id_ in present)
        # No load while somebody has it in memory and could be put back.
        if set(after.loading) - set(before.loading):
            ready = {id_ for id_, one in present.items() if one.loaded and one.available}
            assert ready <= {*after.active, *after.failed}
        # No flapping: inwards only when the last step outwards and the last one inwards are over.
        taken = set(before.active) - set(after.active) - (set(before.active) - present.keys())
        if taken:
            assert (
                now - max(before.in_at, outwards) >= plan.in_s
                or now - max(before.in_at, before.out_at) >= plan.in_s
            )
            assert dark  # nothing goes inwards in the dark
        if set(after.active) - set(before.active):
            outwards = max(outwards, before.out_at)
        assert msgspec.json.decode(msgspec.json.encode(after), type=ScalingPosition) == after
        for id_ in after.loading:
            world.loaded.add(id_)
        world.loaded &= held
        world.position = after


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 28), st.integers(1, 8))
def test_a_steady_load_comes_to_rest(load: int, start: int) -> None:
    """In the end nothing moves any more, and the slots are filled as they are meant to be."""
    plan = msgspec.structs.replace(PLAN, keep_warm_s=60.0)
    active = tuple(f"n{at}/0" for at in range(start))
    position = ScalingPosition("m", active=active, asked_at=NOW)
    loaded, moves, now = set(active), 0, NOW
    for tick in range(900):
        now += 4.0
        here = position.active
        share, rest = divmod(load, max(1, len(here)))
        sight = Sight(
            tuple(
                seen(
                    at,
                    loaded=f"n{at}/0" in loaded,
                    in_flight=(share + (here.index(f"n{at}/0") < rest)) if f"n{at}/0" in here else 0,
                )
                for at in range(8)
            ),
            asked=1,
        )
        after, _ = decide(plan, position, sight, now)
        moves += tick > 700 and after.active != position.active
        loaded = {*after.active, *after.loading, *after.warm}
        position = after
    assert moves == 0
    filled = load / (4 * len(position.active))
    assert filled <= 0.75 + 1e-6 or len(position.active) == 8
