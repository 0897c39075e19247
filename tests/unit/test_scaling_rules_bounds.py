"""The autoscaler at its limits: each number of its rules, a moment before and at it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bridge_core.counts import Counter, Counts
from bridge_core.errors import BridgeError
from bridge_core.snapshot import Instance, MemberModel, Node, Version
from bridge_registry.membership.load_book import ModelFigures, NodeLoad
from bridge_registry.scaling import forecast_rules, need_rules, outside_rules, placement_rules
from bridge_registry.scaling.plan import BUCKETS, Loading, ScalingPlan, ScalingPosition, Seen, Sight
from bridge_registry.scaling.scaling_rules import begin, decide
from bridge_registry.scaling.sight_rules import Mesh, sight

PLAN = ScalingPlan("p", "m", max=8, forecast=False)
NOW = 1_800_000_000.0
MIDNIGHT = NOW - NOW % 86_400


def plan(**fields: Any) -> ScalingPlan:
    return msgspec.structs.replace(PLAN, **fields)


def seen(number: int, **fields: Any) -> Seen:
    return Seen(f"n{number}/0", f"n{number}", **{"slots": 4, "loaded": True, **fields})


def at(active: int, need: float = 0.0, **fields: Any) -> ScalingPosition:
    """A position that measured `need` just now."""
    ids = tuple(f"n{number}/0" for number in range(active))
    known = {"asked_at": NOW, "measured_at": NOW, "wanted": active, **fields}
    return ScalingPosition("m", active=ids, need=need, **known)


def fleet(count: int, filled: float = 2.8, **fields: Any) -> Sight:
    """So many that have it loaded, one of which does the work of all."""
    work = {"in_flight": round(filled * count)} if filled else {}
    return Sight((seen(0, **work), *(seen(number) for number in range(1, count))), **fields)


def told(position: ScalingPosition, sight_: Sight, plan_: ScalingPlan = PLAN, now: float = NOW) -> list[str]:
    return [one.what for one in decide(plan_, position, sight_, now)[1]]


def after(
    position: ScalingPosition, sight_: Sight, plan_: ScalingPlan = PLAN, now: float = NOW
) -> ScalingPosition:
    return decide(plan_, position, sight_, now)[0]


# -- what is needed


def measured(position: ScalingPosition, instances: tuple[Seen, ...], now: float, **more: Any) -> Any:
    return need_rules.measured(PLAN, position, Sight(instances, **more), instances, now)


def test_need_and_queue_follow_with_their_own_time_constants() -> None:
    busy = (seen(0, in_flight=10, queued=6),)
    found = measured(at(1), busy, NOW + 60.0)
    assert found.need == pytest.approx(10 * (1 - math.exp(-1)), rel=1e-9)
    found = measured(at(1, usual=2.0), busy, NOW + 450.0)
    assert found.usual == pytest.approx(2 + 8 * (1 - math.exp(-1)), rel=1e-9)
    found = measured(at(1, queued=0.0), busy, NOW + 10.0)
    assert found.queued == pytest.approx(6 * (1 - math.exp(-1)), rel=1e-9)
    assert found.measured_at == NOW + 10.0


def test_a_policy_that_measures_over_less_time_follows_as_much_sooner() -> None:
    busy, quick = (seen(0, in_flight=3),), msgspec.structs.replace(PLAN, measured_s=45.0)
    usual, short = (
        need_rules.measured(plan, at(1, need=0.0, usual=0.0), Sight(busy), busy, NOW + seconds)
        for plan, seconds in ((PLAN, 90.0), (quick, 9.0))
    )
    assert (short.need, short.usual, short.trim) == pytest.approx((usual.need, usual.usual, usual.trim))
    assert short.trim != 0


def test_a_clock_that_went_back_measures_nothing_new() -> None:
    found = measured(at(1, need=3.0), (seen(0, in_flight=9),), NOW - 50.0)
    assert (found.need, found.queued) == (3.0, 0.0)
    same = measured(at(1, need=3.0), (seen(0, in_flight=9),), NOW)
    assert same.need == 3.0


def test_the_first_measurement_counts_whole_and_so_does_having_none_active() -> None:
    new = measured(at(1, need=-1.0), (seen(0, in_flight=9, queued=2),), NOW)
    assert (new.need, new.queued) == (9.0, 2.0)
    assert measured(at(1, need=0.0), (seen(0, in_flight=9),), NOW).need == 0.0
    assert measured(at(0, need=7.0, queued=7.0), (), NOW + 1).need == 0.0


def test_the_queue_of_who_does_not_report_is_not_counted() -> None:
    found = measured(at(2, need=-1.0), (seen(0, queued=2), seen(1, queued=50, known=False)), NOW)
    assert found.queued == 2.0


def counted(seconds: float, times: int) -> Counts:
    counter = Counter()
    for _ in range(times):
        counter.answered(seconds, tokens=0, generating_s=0.0, broken=False)
    return counter.counts


def test_first_bytes_are_judged_once_a_window() -> None:
    goal = plan(ttft_p95_s=0.001)  # a bound of the buckets, so that the comparison is exact

    def judged(seconds: float, now: float, times: int = 20, **fields: Any) -> ScalingPosition:
        sight_ = Sight((seen(0),), ttft=counted(seconds, times))
        position = at(1, **{"ttft_at": NOW, **fields})
        return need_rules.measured(goal, position, sight_, sight_.instances, now)

    assert judged(2.0, NOW + 30.0).slow
    assert judged(2.0, NOW + 30.0).ttft == Counts()
    assert judged(2.0, NOW + 30.0).ttft_at == NOW + 30.0
    assert not judged(2.0, NOW + 29.9).slow
    assert judged(2.0, NOW + 29.9).ttft.answered == 20
    assert judged(2.0, NOW + 29.9, slow=True).slow, "it stays so until the window ends"
    assert not judged(0.001, NOW + 30.0, slow=True).slow, "as late as the goal is in time"
    assert not judged(2.0, NOW + 30.0, times=19).slow
    assert judged(2.0, NOW + 31.0, ttft_at=0.0).ttft_at == NOW + 31.0
    assert not judged(2.0, NOW + 31.0, ttft_at=0.0).slow, "the first window has only begun"
    early = need_rules.measured(PLAN, at(1, ttft_at=NOW), Sight((seen(0),)), (), NOW + 30)
    assert not early.slow


def recommended(position: ScalingPosition, active: int, **fields: Any) -> tuple[int, str]:
    return need_rules.recommended(plan(**fields), position, active, 4.0)


def test_the_band_is_five_hundredths_wide_on_both_sides() -> None:
    assert need_rules.sized(plan(target=0.05), at(4, need=0.0), 4, 4.0) == 4  # exactly the band below
    assert need_rules.sized(plan(target=0.06), at(4, need=0.0), 4, 4.0) == 0
    assert need_rules.sized(plan(target=0.5), at(10, need=21.9), 10, 4.0) == 10
    assert need_rules.sized(plan(target=0.5), at(10, need=22.1), 10, 4.0) == 11


def test_small_instances_are_as_large_as_they_are() -> None:
    assert need_rules.sized(PLAN, at(0, need=0.75), 0, 1.0) == 1
    assert need_rules.nearest(0.5, 4.0, 1.0) == 8
    assert need_rules.nearest(0.5, 0.5500001, 1.0) == 1


def test_an_eighth_more_for_a_queue_and_who_says_so() -> None:
    long_queue = at(16, need=44.8, queued=33.0)
    assert recommended(long_queue, 16) == (18, "33 requests wait for a slot")
    assert recommended(at(16, need=44.8, queued=32.0), 16)[0] == 16
    assert recommended(at(4, need=11.2, queued=9.0), 4) == (5, "9 requests wait for a slot")
    # What the slots alone ask for is what is told where the queue asks for no more than that.
    wanted, why = recommended(at(4, need=14.0, queued=9.0), 4)
    assert (wanted, why) == (5, "88% of the slots are in use, 70% are the target")
    assert recommended(at(0, need=2.0), 0) == (1, "2.0 slots are needed")


def test_late_first_bytes_help_where_slots_are_nearly_full_or_requests_wait() -> None:
    def asked(need: float, queued: float = 0.0, active: int = 4) -> tuple[int, str]:
        position = at(active, need=need, queued=queued, slow=True)
        return need_rules.recommended(plan(target=0.9, queued_per_instance=None), position, active, 4.0)

    assert asked(12.0) == (5, "first bytes are later than their goal")  # 0.75: exactly as near as it takes
    assert "would not help" in asked(11.9)[1]
    assert asked(11.9, queued=1.0) == (5, "first bytes are later than their goal")
    assert "would not help" in asked(11.9, queued=0.9)[1]
    wanted, why = asked(20.0)
    assert (wanted, why) == (6, "125% of the slots are in use, 90% are the target")


# -- the time of day


def test_buckets_are_five_minutes_and_a_day_begins_anew() -> None:
    assert BUCKETS * forecast_rules.BUCKET_S == 86_400
    _, bucket = forecast_rules.note((), (-1, 0.0, 0), 2.0, MIDNIGHT)
    assert bucket == (0, 2.0, 1)
    _, bucket = forecast_rules.note((), bucket, 2.0, MIDNIGHT + 299.9)
    assert bucket == (0, 4.0, 2)
    profile, bucket = forecast_rules.note((), bucket, 2.0, MIDNIGHT + 300.0)
    assert (profile[0], bucket) == (2.0, (1, 2.0, 1))
    _, bucket = forecast_rules.note(profile, bucket, 2.0, MIDNIGHT + 86_400)
    assert bucket[0] == 0


def test_a_bucket_that_was_quiet_is_seen_and_means_are_kept_to_hundredths() -> None:
    profile = tuple(0.0 for _ in range(BUCKETS))
    found, _ = forecast_rules.note(profile, (7, 4.0, 1), 0.0, MIDNIGHT)
    assert found[7] == 2.0
    found, _ = forecast_rules.note((), (7, 1.0, 3), 0.0, MIDNIGHT)
    assert found[7] == 0.33
    assert found[8] < 0


@pytest.mark.parametrize("bucket", [(5, 0.0, 0), (-1, 1.0, 3), (BUCKETS, 1.0, 3), (10**9, 1.0, 3)])
def test_what_a_store_says_that_makes_no_sense_is_not_learnt_from(bucket: tuple[int, float, int]) -> None:
    assert forecast_rules.note((), bucket, 2.0, MIDNIGHT) == ((), (0, 2.0, 1))


def test_a_profile_of_another_length_is_begun_anew() -> None:
    found, _ = forecast_rules.note((1.0, 2.0), (7, 4.0, 1), 0.0, MIDNIGHT)
    assert len(found) == BUCKETS
    assert found[7] == 4.0
    assert found[0] < 0
    assert forecast_rules.expected((1.0, 2.0), 1.0, MIDNIGHT, 600.0) == 0.0


def expected(needs: dict[int, float], need: float, ahead_s: float = 300.0) -> float:
    profile = tuple(needs.get(bucket, -1.0) for bucket in range(BUCKETS))
    return forecast_rules.expected(profile, need, MIDNIGHT, ahead_s)


def test_what_is_expected_after_a_quiet_hour() -> None:
    assert expected({0: 0.0, 1: 4.0}, 3.0) == 4.0, "nothing to compare today with"
    assert expected({0: 0.04, 1: 4.0}, 3.0) == 4.0
    assert expected({0: 0.05, 1: 4.0}, 3.0) == 8.0
    assert expected({0: 0.9, 1: 4.0}, 1.8) == 8.0
    assert expected({0: 1.0, 1: 0.5}, 1.0) == 0.5
    assert expected({0: 1.0}, 1.0) == 0.0, "not seen"
    assert expected({1: 4.0}, 1.0) == 0.0
    assert expected({0: 1.0, 1: 4.0}, 1.0, 299.0) == 0.0


def test_the_floor_looks_ahead_by_the_lead_time_and_ten_minutes() -> None:
    profile = tuple(28.0 if bucket == 4 else 0.5 for bucket in range(BUCKETS))
    position = at(1, need=0.5, profile=profile, leads={"disk": 20.0})
    for moment, floor in ((MIDNIGHT + 1200 - 620, 8), (MIDNIGHT + 1200 - 620.5, 1)):
        still = msgspec.structs.replace(position, measured_at=moment, asked_at=moment)
        assert after(still, fleet(1, 0.5), plan(forecast=True), moment).floor == floor


def test_for_less_than_a_tenth_of_a_slot_nobody_is_kept() -> None:
    def floor(soon: float) -> int:
        profile = tuple(1.0 if bucket in {0, BUCKETS - 1} else soon for bucket in range(BUCKETS))
        position = at(1, need=1.0, profile=profile, measured_at=MIDNIGHT)
        return after(position, Sight((seen(0),)), plan(forecast=True), MIDNIGHT).floor

    assert (floor(0.1), floor(0.09), floor(0.9), floor(5.7)) == (1, 0, 1, 2)


def test_the_forecast_is_named_only_where_it_asks_for_more() -> None:
    profile = tuple(2.8 for _ in range(BUCKETS))
    even = after(at(1, need=2.8, profile=profile), fleet(1, 2.8), plan(forecast=True))
    assert (even.floor, even.wanted) == (1, 1)
    assert "time of day" not in even.reason


# -- the whole, in time


def test_a_load_has_ten_minutes_and_what_failed_waits_five() -> None:
    position = at(0, loading={"n0/0": Loading(NOW)})
    cold = Sight((seen(0, loaded=False),))
    assert "n0/0" in after(position, cold, now=NOW + 600.0).loading
    given_up = after(position, cold, now=NOW + 600.1)
    assert given_up.failed == {"n0/0": NOW + 600.1}
    failed = at(0, failed={"n0/0": NOW})
    assert not after(failed, cold, now=NOW + 299.9).loading
    assert after(failed, cold, now=NOW + 299.9).failed
    again = after(failed, cold, now=NOW + 300.0)
    assert (list(again.loading), again.failed) == (["n0/0"], {})


def test_how_long_a_load_took_is_smoothed() -> None:
    ready = fleet(1)

    def lead(took: float, **leads: float) -> dict[str, float]:
        return after(at(0, loading={"n0/0": Loading(NOW - took, "disk")}, leads=leads), ready).leads

    assert lead(20.0, disk=10.0) == {"disk": 13.0}
    assert lead(0.5) == {"disk": 0.5}
    assert lead(-5.0) == {"disk": 0.0}, "a clock that went back"
    assert lead(1 / 3) == {"disk": 0.333}


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"in_flight": 1}, True),
        ({"queued": 1}, True),
        ({}, False),
        ({"in_flight": 1, "loaded": False}, False),
        ({"in_flight": 1, "alone": False}, False),
        ({"in_flight": 1, "known": False}, False),
    ],
)
def test_a_request_in_flight_is_one_for_the_model_where_it_can_be_no_other(
    fields: dict[str, Any], asked: bool
) -> None:
    position = at(0, asked_at=NOW - 1000)
    found = after(position, Sight((seen(0, **fields),)), plan(min=0, zero_after_s=900.0))
    assert (found.asked_at == NOW) is asked


def test_half_of_the_active_ones_known_is_enough() -> None:
    def blind(known: int, of: int) -> bool:
        sight_ = Sight(tuple(seen(number, known=number < known) for number in range(of)))
        return "do not report" in after(at(of, need=2.8 * of), sight_).reason.partition(";")[0]

    assert [blind(*one) for one in ((2, 4), (1, 4), (1, 3), (1, 2), (0, 1), (4, 4))] == [
        False,
        True,
        True,
        False,
        True,
        False,
    ]


def test_without_anybody_there_is_no_one_to_be_blind_for() -> None:
    assert after(at(0), Sight()).reason == "0.0 slots are needed"
    assert after(at(0), Sight()).unmet == 1
    assert after(at(0), Sight(), plan(max=3, min=3)).unmet == 3
    profile = tuple(2.8 for _ in range(BUCKETS))
    assert after(at(0, profile=profile), Sight(), plan(forecast=True)).floor == 2, (
        "half of that day, of one slot each"
    )


def test_the_size_of_the_active_ones_counts_and_not_that_of_others() -> None:
    mixed = Sight((seen(0, slots=2, in_flight=2), seen(1, slots=64, loaded=False)))
    found = after(at(1, need=2.0), mixed)
    assert found.reason.startswith("100% of the slots")
    assert found.wanted == 2


def test_inwards_goes_by_what_is_usual_and_not_by_a_quiet_minute() -> None:
    assert after(at(8, need=0.0, usual=22.4), fleet(8, 0.0)).wanted == 8
    assert after(at(8, need=22.4, usual=11.2), fleet(8)).wanted == 4


def test_the_cool_downs() -> None:
    full = fleet(2, 4.0)
    for since, added in ((14.9, False), (15.0, True)):
        position = at(2, need=9.0, out_at=NOW - since)
        found = after(position, Sight((*full.instances, seen(7))))
        assert (len(found.active) == 3) is added
        assert (found.out_at == NOW) is added
    for fields in ({"in_at": NOW - 59.9}, {"out_at": NOW - 59.9}):
        assert len(after(at(2, **fields), fleet(2, 0.0)).active) == 2
    gone_in = after(at(2, in_at=NOW - 60.0, out_at=NOW - 60.0), fleet(2, 0.0))
    assert (gone_in.active, gone_in.in_at) == (("n1/0",), NOW)


def test_below_min_a_replacement_waits_for_nothing_and_at_min_a_step_does() -> None:
    spare = Sight((seen(0, in_flight=9), seen(1), seen(2)))
    lately = {"out_at": NOW - 1}
    assert len(after(at(1, need=9.0, **lately), spare).active) == 1
    assert len(after(at(1, need=9.0, **lately), spare, plan(min=2)).active) == 3


def test_nothing_is_said_of_a_step_inwards_where_none_is_wanted() -> None:
    even = fleet(2)
    moving = msgspec.structs.replace(even, moving=True)
    assert "rollout" not in after(at(2, need=5.6), moving).reason
    less = msgspec.structs.replace(fleet(2, 0.0), moving=True)
    assert "a rollout is moving requests" in after(at(2), less).reason


def test_at_max_a_step_inwards_waits_and_above_it_does_not() -> None:
    waits = {"in_at": NOW - 1}
    assert len(after(at(4, **waits), fleet(4, 0.0), plan(max=4)).active) == 4
    assert len(after(at(4, **waits), fleet(4, 0.0), plan(max=3)).active) == 3
    assert len(after(at(4, **waits), fleet(4, 2.8), plan(max=1)).active) == 1


def test_inwards_a_tenth_at_a_time_and_loads_are_given_up_first() -> None:
    def left(active: int, **fields: Any) -> ScalingPosition:
        size = msgspec.structs.replace(at(active), **fields)
        return after(size, fleet(30, 0.0), plan(max=40))

    assert [len(left(count).active) for count in (4, 19, 20, 30)] == [3, 18, 18, 27]
    loading = {"n20/0": Loading(NOW - 5), "n21/0": Loading(NOW - 1)}
    cold = Sight(tuple(seen(number, loaded=number < 20) for number in range(30)))
    found = after(at(2, need=5.0, loading=loading), cold)
    assert (len(found.active), list(found.loading)) == (2, [])
    assert found.released == dict.fromkeys(loading, NOW)
    assert found.in_at == NOW
    one = after(at(2, need=7.8, loading=loading), cold)
    assert list(one.loading) == ["n20/0"], "the newest is given up first"


def test_one_step_outwards_may_be_many_staggered_loads() -> None:
    def began(count: int, wanted: float) -> float:
        loading = {"n9/0": Loading(NOW - 1)}
        cold = (seen(number, loaded=False) for number in range(10, 10 + count))
        sight_ = Sight((seen(0, in_flight=20), seen(9, loaded=False), *cold))
        position = at(1, need=wanted, loading=loading, out_at=NOW - 100)
        found = after(position, sight_, plan(loads_at_once=2))
        assert len(found.loading) == 2
        return NOW - found.out_at

    assert began(1, 8.4) == 0.0, "all that are wanted have been asked"
    assert began(5, 16.0) == 100.0, "the rest of the same step follows"
    first = after(at(1, need=16.0, out_at=NOW - 100), Sight((seen(0), seen(1, loaded=False))))
    assert first.out_at == NOW


ZERO = plan(min=0, zero_after_s=900.0)


def test_what_may_go_to_zero_keeps_one_while_it_is_asked_for() -> None:
    quiet = at(1, asked_at=NOW - 899.9)
    assert after(quiet, fleet(1, 0.0), ZERO).wanted == 1
    assert (
        "nobody asked"
        in after(msgspec.structs.replace(quiet, asked_at=NOW - 900), fleet(1, 0.0), ZERO).reason
    )
    woken = after(at(0, asked_at=NOW - 1), fleet(1, 0.0), ZERO)
    assert (woken.wanted, woken.reason) == (1, "it was asked for")
    coming = at(0, asked_at=NOW - 1, loading={"n0/0": Loading(NOW)})
    assert after(coming, Sight((seen(0, loaded=False),)), ZERO).reason == "0.0 slots are needed"
    assert after(at(1, asked_at=NOW - 1), fleet(1, 0.0), ZERO).reason != "it was asked for"


def test_a_policy_with_a_least_number_does_not_go_to_zero_whatever_else_it_says() -> None:
    found = after(at(1, asked_at=0.0), fleet(1, 0.0), plan(min=1, zero_after_s=900.0))
    assert "nobody asked" not in found.reason
    assert len(found.active) == 1
    assert len(after(at(1, asked_at=0.0), fleet(1, 0.0), plan(min=0)).active) == 1


def test_what_is_expected_is_kept_awake() -> None:
    profile = tuple(5.6 for _ in range(BUCKETS))
    position = at(2, need=5.6, asked_at=0.0, profile=profile)
    found = after(position, fleet(2), plan(min=0, zero_after_s=900.0, forecast=True))
    assert (found.floor, found.wanted) == (2, 2)


@pytest.mark.parametrize("way", ["disk", "page-cache"])
def test_the_wake_budget(way: str) -> None:
    def wanted(took: float | None, budget: float) -> int:
        leads = {} if took is None else {way: took}
        position = at(3, asked_at=0.0, leads=leads)
        return after(position, fleet(3, 0.0), plan(min=0, zero_after_s=900.0, wake_budget_s=budget)).wanted

    assert wanted(None, 0.5) == 0, "it was never loaded: nobody knows how long it takes"
    assert wanted(5.0, 5.0) == 0
    assert wanted(5.1, 5.0) == 1


def test_who_was_taken_out_is_released_after_an_hour_though_busy() -> None:
    def released(since: float, **fields: Any) -> bool:
        sight_ = Sight((seen(0, in_flight=3), seen(1, **fields)))
        found = after(at(1, need=3.0, warm={"n1/0": NOW - since}), sight_)
        return "n1/0" in found.released

    assert [released(60.0), released(59.9), released(60.0, queued=1)] == [True, False, False]
    assert [released(3660.0, in_flight=1), released(3660.1, in_flight=1)] == [False, True]


def test_whom_the_page_cache_may_still_have_is_remembered_for_an_hour_and_bounded() -> None:
    warm = {"n1/0": NOW - 60.0}
    old = {"a": NOW - 3600.0, "b": NOW - 3599.9}
    found = after(at(1, need=3.0, warm=warm, released=old), fleet(2))
    assert set(found.released) == {"b", "n1/0"}
    many = {f"x{number}": NOW - 1 for number in range(5000)}
    found = after(at(1, need=3.0, warm=warm, released=many), fleet(2))
    assert len(found.released) == 4096
    assert "n1/0" in found.released


def test_it_begins_wanting_what_it_finds_and_at_least_min() -> None:
    assert begin(plan(min=2), fleet(4), NOW).wanted == 4
    assert begin(plan(min=2), fleet(1), NOW).wanted == 2


# -- whom


def test_the_page_cache_keeps_a_file_for_an_hour_and_a_fault_five_minutes() -> None:
    cold = seen(0, loaded=False)
    for since, way in ((3599.9, "page-cache"), (3600.0, "disk")):
        assert placement_rules.way_of(cold, at(0, released={"n0/0": NOW - since}), NOW) == way
    assert placement_rules.way_of(cold, at(0, warm={"n0/0": NOW}), NOW) == "disk"
    for since, count in ((299.9, 0), (300.0, 1)):
        failed = at(0, failed={"n0/0": NOW - since})
        assert placement_rules.possible(PLAN, failed, [cold], NOW) == count


def added(position: ScalingPosition, *instances: Seen, count: int = 9, **fields: Any) -> list[str]:
    found = placement_rules.additions(
        plan(**fields), position, instances, count=count, loading_nodes=(), now=NOW
    )
    return [one.id for one, _ in found]


def test_loads_at_once_are_counted_with_those_under_way() -> None:
    cold = [seen(number, loaded=False) for number in range(5)]
    assert len(added(at(0), *cold)) == 2
    assert len(added(at(0, loading={"n4/0": Loading(NOW)}), *cold)) == 1
    assert added(at(0, loading={"n3/0": Loading(NOW), "n4/0": Loading(NOW)}), *cold) == []
    assert len(added(at(0), *cold, loads_at_once=3)) == 3
    # What has it in memory is no load.
    assert len(added(at(0, loading={"n3/0": Loading(NOW), "n4/0": Loading(NOW)}), seen(0), seen(1))) == 2


def test_no_more_are_added_than_asked_for() -> None:
    for count in (-3, 0, 1, 2):
        assert len(added(at(0), seen(0), seen(1), seen(2), count=count)) == max(0, count)


def test_of_equal_cost_the_least_busy_comes_first_with_those_that_wait_counted() -> None:
    busy = (seen(0, in_flight=2), seen(1, in_flight=1, queued=2), seen(2, queued=1), seen(3, taken=True))
    assert added(at(0), *busy) == ["n2/0", "n0/0", "n1/0", "n3/0"]
    assert placement_rules.removals(PLAN, busy[:3], 3) == ["n2/0", "n0/0", "n1/0"]


def test_a_class_without_a_budget_has_none() -> None:
    cpu, gpu = seen(0, node_class="cpu"), seen(1, node_class="gpu")
    assert added(at(0), cpu, gpu, budgets={"gpu": 1}) == ["n1/0"]
    assert placement_rules.removals(plan(budgets={"gpu": 1}), [cpu, gpu], 1) == ["n0/0"]
    assert placement_rules.removals(plan(budgets={"gpu": 1, "cpu": 1}), [gpu, cpu], 1) == ["n0/0"]
    assert placement_rules.removals(plan(budgets={"cpu": 1}), [gpu, cpu], 1) == ["n1/0"]
    holding = at(1)  # n0/0
    assert (
        placement_rules.possible(plan(budgets={"cpu": 1}), holding, [cpu, seen(2, node_class="cpu")], NOW)
        == 1
    )
    gone = msgspec.structs.replace(cpu, available=False)
    assert placement_rules.possible(PLAN, at(0), [gone, gpu], NOW) == 1
    assert placement_rules.possible(PLAN, at(0, loading={"n0/0": Loading(NOW)}), [gone, gpu], NOW) == 2


# -- what is seen, and what the outside is told


def looked(one: Instance, load: NodeLoad | None, now: float = 100.0) -> Seen:
    mesh = Mesh((one,), {"a": Node("a")}, (), {} if load is None else {"a": load})
    (found,) = sight(ScalingPlan("p", "x", max=3), mesh, ModelFigures(), {}, now).instances
    return found


def load(at_: float, counts: tuple[int, int] = (5, 2)) -> NodeLoad:
    return NodeLoad(at_, 1, 5, Version(), instances={"a/0": counts})


def test_figures_are_good_for_ten_seconds() -> None:
    one = Instance("a/0", "a", models=(MemberModel("x"),), slots=0)
    assert looked(one, load(90.0)) == Seen("a/0", "a", slots=1, in_flight=3, queued=2)
    assert not looked(one, load(89.9)).known
    assert looked(one, None) == Seen("a/0", "a", slots=1, known=False)
    assert looked(one, load(100.0, (1, 2))).in_flight == 0
    other = NodeLoad(100.0, 1, 5, Version(), instances={"a/1": (5, 2)})
    assert looked(one, other) == Seen("a/0", "a", slots=1, known=False)


@pytest.mark.parametrize(
    ("loaded", "own", "alone"), [((), False, True), (("x",), True, True), (("x", "y"), True, False)]
)
def test_alone_in_memory(loaded: tuple[str, ...], own: bool, alone: bool) -> None:
    one = Instance("a/0", "a", models=(MemberModel("x"),), slots=2, loaded=loaded)
    found = looked(one, load(100.0))
    assert (found.loaded, found.alone, found.slots) == (own, alone, 2)


@pytest.mark.parametrize("text", ["1", "7", "1000"])
def test_counts_of_a_scaled_object(text: str) -> None:
    assert outside_rules.asked_of({"policy": "p", "instancesPerPod": text}).instances_per_pod == int(text)


@pytest.mark.parametrize("text", ["0", "1001", "00001", "²", "", "1.0"])
def test_what_is_no_count_of_a_scaled_object(text: str) -> None:
    with pytest.raises(BridgeError, match="is no number of 1 to 1000"):
        outside_rules.asked_of({"policy": "p", "instancesPerPod": text})


def test_no_more_of_a_long_word_is_repeated_than_fits_a_line() -> None:
    with pytest.raises(BridgeError, match=f"slotsPerPod '{'9' * 20}' is no number"):
        outside_rules.asked_of({"policy": "p", "slotsPerPod": "9" * 21})


def test_a_pod_s_slots_where_nothing_is_said() -> None:
    asked = outside_rules.asked_of({"policy": "p", "metric": "slots", "instancesPerPod": "2"})
    assert (asked.slots_per_pod, asked.metric_name) == (0, "bridge-slots-p")
    assert outside_rules.target(asked, PLAN, Sight((seen(0), seen(1, slots=3)))) == pytest.approx(8 * 0.7)
    assert outside_rules.target(asked, PLAN, Sight()) == pytest.approx(0.7)
    plain = outside_rules.asked_of({"policy": "p"})
    assert (plain.metric, plain.instances_per_pod) == ("instances", 1)
    assert outside_rules.target(plain, PLAN, Sight()) == 1.0
    assert outside_rules.Asked("p") == plain
    assert outside_rules.value(asked, ScalingPosition("m", need=1.23456)) == 1.235
    assert outside_rules.value(asked, ScalingPosition("m")) == 0.0
    assert outside_rules.is_active(ScalingPosition("m", wanted=1))


# -- what an operator reads


def test_what_is_told_of_each_step() -> None:
    warm = at(1, need=8.0, warm={"n1/0": NOW})
    assert told(warm, fleet(2, 4.0)) == [
        "adds n1/0, which has it in memory: 200% of the slots are in use, 70% are the target"
    ]
    cold = Sight((seen(0, in_flight=8), seen(1, loaded=False)))
    (loads,) = told(at(1, need=8.0), cold)
    assert loads.startswith("has n1/0 (disk) load it: 200% of the slots")
    (out,) = told(at(2), fleet(2, 0.0))
    assert out.startswith("takes out n0/0: 0% of the slots")
    loading = at(2, need=5.0, loading={"n5/0": Loading(NOW)})
    assert told(loading, Sight((seen(0, in_flight=5), seen(1), seen(5, loaded=False)))) == []
    gone = told(at(2, need=2.8), Sight((seen(0, in_flight=2, available=False),)))
    assert gone == [
        "n0/0 serves no longer: it is not available",
        "n1/0 serves no longer: it is gone",
    ]


def test_why_a_step_inwards_waits_is_told_where_there_is_a_reason() -> None:
    dark = Sight((seen(0), seen(1), seen(2, known=False)))
    assert after(at(3), dark).reason.endswith("; some do not report")
    assert ";" not in after(at(3, in_at=NOW - 1), fleet(3, 0.0)).reason


def test_what_cannot_be_had_is_counted() -> None:
    assert after(at(1, need=2.8), fleet(3)).unmet == 0
    assert after(at(1, need=11.2), Sight((seen(0, in_flight=11),))).unmet == 3


def test_a_second_instance_of_a_class_takes_its_second_place() -> None:
    three = [seen(number, node_class="gpu") for number in range(3)]
    assert added(at(0), *three, budgets={"gpu": 2}) == ["n0/0", "n1/0"]
    assert placement_rules.removals(plan(budgets={"gpu": 2}), [*three, seen(9, node_class="")], 4) == [
        "n0/0",
        "n9/0",
        "n1/0",
        "n2/0",
    ]
