"""Rollouts at their limits: verdicts on a canary, shares of a route, and when a step ends."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bridge_core.counts import BOUNDS, Counts
from bridge_core.errors import BridgeError
from bridge_core.probe import Probe, Question
from bridge_core.snapshot import Backend, Instance, MemberModel, Node, Route
from bridge_registry.rollouts.effect_rules import eligible, probes, route_under
from bridge_registry.rollouts.guard_rules import lower_bound, verdict
from bridge_registry.rollouts.plan import Guards, RolloutPlan, Step
from bridge_registry.rollouts.rollout_rules import (
    Commanded,
    Happening,
    Probed,
    RolloutPosition,
    Save,
    Tell,
    Ticked,
    begin,
    decide,
    step_of,
    validate,
)

OFF = Guards(20, None, None, None, None, 0.0, None)
FAST, SLOW = 30, 32  # buckets: SLOW is 1.5625 times FAST


def guards(**on: Any) -> Guards:
    return msgspec.structs.replace(OFF, **on)


def answered(fast: int, slow: int = 0, **more: Any) -> Counts:
    ttft = (*(0 for _ in range(FAST)), fast, 0, slow)
    return Counts(fast + slow, ttft=ttft, **more)


def errors(bad: int, requests: int, *, stream: bool = False) -> Counts:
    return Counts(requests, 0 if stream else bad, bad if stream else 0)


def test_the_lower_end_of_wilsons_interval() -> None:
    assert lower_bound(0, 10) == lower_bound(5, 0) == 0.0
    z2 = 3.29 * 3.29
    assert lower_bound(1, 1) == pytest.approx(1 / (1 + z2))
    half = (0.5 + z2 / 20 - 3.29 * math.sqrt(0.025 + z2 / 400)) / (1 + z2 / 10)
    assert lower_bound(5, 10) == pytest.approx(half)
    assert lower_bound(5, 10) == pytest.approx(0.13952, abs=1e-5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("stable_bad", "least_bad"), [(0, 12), (10, 36), (50, 112)])
def test_an_error_rate_is_too_high_when_it_surely_is(stable_bad: int, least_bad: int, stream: bool) -> None:
    on = guards(stream_error_rate=0.02) if stream else guards(error_rate=0.02)
    stable = errors(stable_bad, 100, stream=stream)
    assert verdict(on, stable, errors(least_bad - 1, 200, stream=stream)) == ""
    said = verdict(on, stable, errors(least_bad, 200, stream=stream))
    assert f"({least_bad} of 200) against {stable_bad} of 100" in said
    assert said.startswith("in-stream error rate" if stream else "error rate")
    assert verdict(OFF, stable, errors(200, 200, stream=stream)) == ""
    assert verdict(on, stable, errors(200, 200, stream=not stream)) == ""


@pytest.mark.parametrize(
    ("least", "requests", "judged"),
    [(20, 19, False), (20, 20, True), (0, 0, False), (0, 1, False), (0, 9, True)],
)
def test_a_canary_is_judged_from_its_least_requests_on(least: int, requests: int, judged: bool) -> None:
    found = verdict(guards(min_requests=least, error_rate=0.0), Counts(100), errors(requests, requests))
    assert bool(found) is judged or requests == 1  # one failure is never sure
    assert verdict(guards(min_requests=least, error_rate=-1.0), Counts(100), Counts(0)) == ""
    sure = verdict(guards(min_requests=0, error_rate=-1.0), Counts(100), Counts(1))
    assert sure


@pytest.mark.parametrize(
    ("stable", "canary", "fails"),
    [
        (answered(100), answered(0, 100), True),
        (answered(100), answered(39, 61), True),
        (answered(100), answered(40, 60), False),  # two deviations of the rank to one side
        (answered(60, 40), answered(0, 100), True),
        (answered(59, 41), answered(0, 100), False),  # and to the other
        (answered(20), answered(0, 20), True),
        (answered(19), answered(0, 20), False),
        (answered(20), answered(0, 20, errors=0), True),
    ],
)
def test_a_median_is_compared_two_deviations_apart(stable: Counts, canary: Counts, fails: bool) -> None:
    found = verdict(guards(ttft_p50=1.5), stable, canary)
    assert bool(found) is fails
    assert not fails or found.startswith("time to first byte p50")


def test_canaries_answers_count_and_not_its_requests() -> None:
    canary = Counts(40, 21, ttft=answered(0, 19).ttft)
    assert verdict(guards(ttft_p50=1.5), answered(100), canary) == ""


@pytest.mark.parametrize(
    ("stable", "canary", "fails"),
    [
        (answered(100), answered(90, 10), True),
        (answered(100), answered(91, 9), False),
        (answered(99, 1), answered(0, 100), False),
        (answered(1000, 36), answered(0, 100), True),
        (answered(60), answered(0, 60), True),
        (answered(59), answered(0, 60), False),
        (answered(60), answered(0, 59), False),
    ],
)
def test_a_95th_percentile_needs_three_times_as_many(stable: Counts, canary: Counts, fails: bool) -> None:
    found = verdict(guards(ttft_p95=1.5), stable, canary)
    assert bool(found) is fails
    assert not fails or "p95 1.262 s against 0.808 s" in found


def test_of_few_answers_the_slowest_is_what_a_rank_beyond_all_means() -> None:
    assert verdict(guards(ttft_p95=1.5), answered(60), answered(60)) == ""
    one = verdict(guards(min_requests=0, ttft_p50=1.5), answered(1), answered(0, 1))
    assert one.startswith("time to first byte p50")


@pytest.mark.parametrize(
    ("times", "slack", "fails"),
    [
        (1.5, 0.05, True),
        (1.57, 0.05, False),
        (1.5, BOUNDS[SLOW] - BOUNDS[FAST], False),
        (1.5, BOUNDS[SLOW] - BOUNDS[FAST] - 1e-9, True),
    ],
)
def test_a_time_is_too_long_by_its_factor_and_by_more_than_the_slack(
    times: float, slack: float, fails: bool
) -> None:
    on = guards(ttft_p50=times, ttft_slack_s=slack)
    assert bool(verdict(on, answered(20), answered(0, 20))) is fails
    equal = guards(ttft_p50=1.0, ttft_slack_s=-1.0)
    assert verdict(equal, answered(20), answered(20)) == "", "as long as allowed is not too long"


@pytest.mark.parametrize(
    ("old", "new", "count", "fails"),
    [
        (100, 69, 60, True),
        (100, 70, 60, False),
        (100, 0, 60, False),
        (0, 50, 60, False),
        (100, 69, 59, False),
    ],
)
def test_a_speed_is_too_low_below_its_share(old: int, new: int, count: int, fails: bool) -> None:
    stable = answered(count, tokens=old, generating_s=1.0)
    canary = answered(60, tokens=new, generating_s=1.0)
    found = verdict(guards(tokens_per_s=0.7), stable, canary)
    assert bool(found) is fails
    assert not fails or found == f"{new:.1f} tokens/s against {old:.1f}"
    assert verdict(OFF, stable, canary) == ""
    few = guards(tokens_per_s=0.7, min_requests=0)
    assert verdict(few, Counts(), canary) == "", "without an answer there is nothing to compare"


# -- effects


PLAN = RolloutPlan("roll", "chat", "old", "new", (Step(10, 10), Step(0, 10, 2), Step(100, 10)))
ROUTE = Route("chat", (Backend("old", 90), Backend("new", 10), Backend("other", 7)))
NODES = {name: Node(name, "p", labels={"k": name}) for name in "abc"}


def instance(node: str, *models: str, state: Any = "ready") -> Instance:
    return Instance(f"{node}/0", node, state=state, models=tuple(map(MemberModel, models)))


ALL = (instance("a", "old", "new"), instance("b", "new"), instance("c", "old"))


def position(**fields: Any) -> RolloutPosition:
    return RolloutPosition(PLAN.identity, **fields)


def under(
    where: RolloutPosition, plan: RolloutPlan = PLAN, instances: tuple[Instance, ...] = ALL
) -> list[Any]:
    route = route_under(ROUTE, plan, where, instances, NODES)
    return [(one.weight, one.instances, one.on_trial) for one in route.backends]


def test_a_share_is_of_both_sides_and_others_keep_theirs() -> None:
    assert under(position()) == [(90_000, (), False), (10_000, (), True), (7_000, (), False)]
    assert under(position(phase="paused"))[1] == (10_000, (), True)
    assert under(position(phase="complete")) == [(0, (), False), (100_000, (), False), (7_000, (), False)]
    for phase in ("rolled-back", "aborted"):
        assert under(position(phase=phase))[:2] == [(100_000, (), False), (0, (), False)]
    small = msgspec.structs.replace(PLAN, steps=(Step(0.001, 10),))
    assert [one[0] for one in under(position(), small)] == [99_999, 1, 7_000]


def test_a_step_of_instances_gets_their_share_of_all() -> None:
    third, two_thirds = 33_333, 66_667
    assert under(position(step=1))[:2] == [(third, (), False), (two_thirds, ("a/0", "b/0"), True)]
    one = msgspec.structs.replace(PLAN, steps=(Step(0, 10, 1),))
    assert under(position(), one)[:2] == [(two_thirds, (), False), (third, ("a/0",), True)]
    assert under(position(), one, ())[:2] == [(100_000, (), False), (0, (), True)]
    assert under(position(), one, ALL[2:])[:2] == [(100_000, (), False), (0, (), True)]


@pytest.mark.parametrize("missing", ["old", "new"])
def test_a_route_without_one_of_its_sides_stays_as_it_is(missing: str) -> None:
    backends = tuple(one for one in ROUTE.backends if one.model != missing)
    route = msgspec.structs.replace(ROUTE, backends=backends)
    assert route_under(route, PLAN, position(), ALL, NODES) is route
    assert not set(probes(ASKING, position(round=1, step=1), route)) & {
        f"probe/roll/{'stable' if missing == 'old' else 'canary'}"
    }


@pytest.mark.parametrize(
    ("backend", "ids"),
    [
        (Backend("new"), ("a/0", "b/0")),
        (Backend("new", instances=("b/0",)), ("b/0",)),
        (Backend("new", labels={"k": "a"}), ("a/0",)),
        (Backend("new", labels={"k": "a", "m": "n"}), ()),
        (Backend("NEW:latest"), ("a/0", "b/0")),
        (Backend("nobody"), ()),
    ],
)
def test_who_can_serve_a_backend(backend: Backend, ids: tuple[str, ...]) -> None:
    assert eligible(backend, ALL[::-1], NODES) == ids


def test_who_is_not_ready_or_on_no_active_node_serves_nothing() -> None:
    new = Backend("new")
    assert eligible(new, (instance("a", "new", state="draining"),), NODES) == ()
    assert eligible(new, (instance("z", "new"),), NODES) == ()
    drained = {"a": Node("a", "p", state="drained")}
    assert eligible(new, (instance("a", "new"),), drained) == ()


ASKING = msgspec.structs.replace(PLAN, questions=(Question("2+2", "4"),), probe_every_s=5.0, keep_warm_s=60.0)


def test_what_agents_are_asked_meanwhile() -> None:
    both = probes(ASKING, position(round=3, step=1), ROUTE)
    assert both == {
        "probe/roll/canary": Probe("roll", 3, "new", questions=ASKING.questions),
        "probe/roll/stable": Probe("roll", 0, "old", keep_alive_s=60.0),
    }
    assert set(probes(ASKING, position(round=0, step=1), ROUTE)) == {"probe/roll/stable"}
    assert set(probes(ASKING, position(round=1, step=0), ROUTE)) == {"probe/roll/canary"}
    assert probes(ASKING, position(round=1, step=1, phase="complete"), ROUTE) == {}
    assert set(probes(ASKING, position(round=1, step=1, phase="paused"), ROUTE)) == set(both)
    assert probes(PLAN, position(round=1, step=1), ROUTE) == {}


# -- the machine


HEALTHY = answered(20)


def ticked(where: RolloutPosition, *events: Ticked, plan: RolloutPlan = PLAN) -> RolloutPosition:
    for event in events:
        where, _ = decide(plan, where, event, 0.0)
        validate(plan, where)
    return where


def tick(seconds: float = 1.0, requests: int = 0, **more: Any) -> Ticked:
    return Ticked(seconds, answered(requests), answered(requests), **more)


def test_a_step_ends_when_it_was_held_and_the_canary_had_enough() -> None:
    assert ticked(position(), tick(9.9, 20)).step == 0
    assert ticked(position(), tick(10.0, 20)).step == 1
    assert ticked(position(), tick(10.0, 19)).step == 0
    assert "1 more requests" in ticked(position(), tick(10.0, 19)).reason
    assert ticked(position(), tick(9.0, 20)).reason == "held for 1 s more"
    moved = ticked(position(), tick(10.0, 20))
    assert (moved.elapsed_s, moved.canary, moved.stable, moved.reason) == (0.0, Counts(), Counts(), "")
    assert moved.reference.requests == 20
    assert ticked(position(step=2), tick(10.0, 20)).phase == "complete"
    assert ticked(position(step=9), tick(10.0, 20)).phase == "complete", "a schedule may have become shorter"


def test_a_step_that_gives_nothing_waits_for_no_requests() -> None:
    nothing = msgspec.structs.replace(PLAN, steps=(Step(0, 10), Step(0, 10, 1), Step(5, 10)))
    assert ticked(position(), tick(10.0), plan=nothing).step == 1
    assert ticked(position(step=1), tick(10.0), plan=nothing).step == 1
    assert ticked(position(step=2), tick(10.0), plan=nothing).phase == "progressing"


def test_a_pause_adds_no_time_and_still_judges() -> None:
    paused = position(phase="paused", elapsed_s=3.0)
    later = ticked(paused, tick(50.0, 20))
    assert (later.elapsed_s, later.round_age_s, later.phase, later.step) == (3.0, 50.0, "paused", 0)
    bad = Ticked(1.0, HEALTHY, errors(50, 50))
    assert ticked(paused, bad).phase == "rolled-back"
    assert ticked(position(), bad).reason.startswith("error rate")


@pytest.mark.parametrize(
    ("own", "reference", "rolls_back"), [(19, 100, False), (20, 100, True), (19, 0, True)]
)
def test_where_the_stable_side_had_too_little_the_last_step_is_what_counts(
    own: int, reference: int, rolls_back: bool
) -> None:
    """The reference failed as often as the canary does: against it the canary is no worse."""
    failing = Counts(reference, reference // 2, ttft=answered(reference - reference // 2).ttft)
    where = position(reference=failing if reference else Counts())
    canary = Counts(100, 50, ttft=answered(50).ttft)
    ended = ticked(where, Ticked(1.0, answered(own), canary))
    assert (ended.phase == "rolled-back") is rolls_back


def test_a_reference_is_kept_until_another_step_had_enough() -> None:
    free = msgspec.structs.replace(PLAN, steps=(Step(0, 10), Step(0, 10), Step(0, 10)))
    first = ticked(position(), Ticked(10.0, answered(20)), plan=free)
    assert first.reference.requests == 20
    second = ticked(first, Ticked(10.0, answered(19)), plan=free)
    assert (second.step, second.reference.requests) == (2, 20)


def asked(where: RolloutPosition, event: Ticked) -> tuple[RolloutPosition, tuple[object, ...]]:
    return decide(ASKING, where, event, 0.0)


def test_rounds_begin_when_they_are_due_and_are_saved() -> None:
    first, effects = asked(position(), tick(1.0))
    assert (first.round, first.round_age_s, effects) == (1, 0.0, (Save(),))
    same, effects = asked(first, tick(4.9))
    assert (same.round, same.round_age_s, effects) == (1, 4.9, ())
    second, _ = asked(first, tick(5.0))
    assert (second.round, second.round_age_s) == (2, 0.0)
    assert ticked(position(), tick(1.0)).round == 0, "without questions there are none"


def test_a_step_ends_only_after_a_round_that_every_instance_passed() -> None:
    where = position(round=4)
    right = tuple(Probed(name, 4, True) for name in ("a", "b"))
    both = ("a", "b")
    held = tick(4.0, 20)
    assert not asked(where, held)[0].probed
    assert asked(where, msgspec.structs.replace(held, instances=both, probed=right))[0].probed
    assert not asked(where, msgspec.structs.replace(held, instances=both, probed=right[:1]))[0].probed
    assert not asked(where, msgspec.structs.replace(held, instances=(), probed=right))[0].probed
    old = tuple(Probed(name, 3, True) for name in both)
    assert not asked(where, msgspec.structs.replace(held, instances=both, probed=old))[0].probed
    late = position(round=4, elapsed_s=10.0)
    waits = asked(late, msgspec.structs.replace(held, instances=both, probed=right[:1]))[0]
    assert waits.reason == "waits for the probe of b"
    assert asked(late, held)[0].reason == "no instance has the canary's model"
    moved = asked(late, msgspec.structs.replace(held, instances=both, probed=right))[0]
    assert (moved.step, moved.probed, moved.round, moved.round_age_s) == (1, False, 4, 5.0)
    assert asked(position(round=4, probed=True, elapsed_s=10.0), held)[0].step == 1


def test_a_wrong_answer_to_this_round_rolls_back_and_to_another_does_not() -> None:
    where = position(round=4)
    wrong = tick(1.0, instances=("a",), probed=(Probed("b", 4, True), Probed("a", 4, False, "said 5")))
    ended = asked(where, wrong)[0]
    assert (ended.phase, ended.reason) == ("rolled-back", "the probe failed on a: said 5")
    old = tick(1.0, instances=("a",), probed=(Probed("a", 3, False),))
    assert asked(where, old)[0].phase == "progressing"
    assert ticked(where, wrong).phase == "progressing", "where nothing is asked nothing is wrong"


def test_a_beginning_under_the_same_name_asks_a_round_that_was_never_asked() -> None:
    assert begin(PLAN, 5.0)[0].round == 0
    assert begin(PLAN, 5.0, 7)[0].round == 8
    other = msgspec.structs.replace(PLAN, born=9)
    assert decide(other, position(round=7, step=2), tick(), 0.0)[0].round == 8
    again = decide(PLAN, position(round=7, step=2), Commanded("restart", "me"), 0.0)[0]
    assert (again.round, again.step, again.phase) == (8, 0, "progressing")
    assert again.events[-1].what == "restart by me: step 1 of 3: 10 % to new"
    assert decide(PLAN, position(step=2), Commanded("restart", "me"), 0.0)[0].round == 0


def test_what_is_logged() -> None:
    began, effects = begin(PLAN, 5.0)
    assert began.events == (Happening(5.0, "began: step 1 of 3: 10 % to new"),)
    assert effects == (Save(), Tell("began: step 1 of 3: 10 % to new"))
    assert ticked(position(), tick(10.0, 20)).events[-1].what == "step 2 of 3: 2 instance(s) to new"
    many = position(events=tuple(Happening(at, "x") for at in range(50)))
    events = decide(PLAN, many, Commanded("pause", "me"), 99.0)[0].events
    assert (len(events), events[0].at, events[-1]) == (50, 1, Happening(99.0, "pause by me"))


COMMANDS = {
    "pause": {"progressing": "paused"},
    "resume": {"paused": "progressing"},
    "promote": {"progressing": "complete", "paused": "complete"},
    "abort": {"progressing": "aborted", "paused": "aborted", "complete": "aborted"},
    "restart": dict.fromkeys(("progressing", "paused", "complete", "rolled-back", "aborted"), "progressing"),
    "dance": {},
}


@pytest.mark.parametrize("phase", COMMANDS["restart"])
@pytest.mark.parametrize("verb", COMMANDS)
def test_which_command_leads_where(verb: str, phase: Any) -> None:
    where = position(phase=phase, reason="because", step=1)
    then = COMMANDS[verb].get(phase)
    if then is None:
        with pytest.raises(BridgeError, match="does nothing there" if verb != "dance" else "does not know"):
            decide(PLAN, where, Commanded(verb, "me"), 0.0)
        return
    found, _ = decide(PLAN, where, Commanded(verb, "me"), 0.0)
    assert (found.phase, found.step) == (then, 0 if verb == "restart" else 1)
    validate(PLAN, found)


@pytest.mark.parametrize("phase", ["complete", "rolled-back", "aborted"])
def test_what_is_over_stays_over(phase: Any) -> None:
    where = position(phase=phase, reason="x")
    assert decide(PLAN, where, tick(100.0, 20), 0.0) == (where, ())


@pytest.mark.parametrize(("step", "percent"), [(0, 10), (2, 100), (3, 100), (99, 100)])
def test_the_step_it_is_in(step: int, percent: float) -> None:
    assert step_of(PLAN, position(step=step)).percent == percent


@pytest.mark.parametrize(
    ("where", "broken"),
    [
        (position(step=2), False),
        (position(step=3), True),
        (position(step=-1), True),
        (position(phase="complete"), True),
        (position(phase="paused"), False),
        (position(events=tuple(Happening(0, "x") for _ in range(50))), False),
        (position(events=tuple(Happening(0, "x") for _ in range(51))), True),
    ],
)
def test_an_impossible_position_is_told(where: RolloutPosition, broken: bool) -> None:
    if not broken:
        validate(PLAN, where)
        return
    with pytest.raises(AssertionError):
        validate(PLAN, where)


def test_what_a_position_begins_with() -> None:
    assert position() == RolloutPosition(
        PLAN.identity, "progressing", 0, 0.0, Counts(), Counts(), Counts(), 0, 0.0, False, "", ()
    )
