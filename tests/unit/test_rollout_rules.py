"""Rollouts as a machine: steps, guards, probes, commands, and that nothing stops it half-way."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_core.config import load
from bridge_core.config.rollout_spec import RolloutDocument
from bridge_core.counts import Counter, Counts
from bridge_core.errors import BridgeError
from bridge_core.probe import Question
from bridge_core.snapshot import Backend, Instance, MemberModel, Node, Route
from bridge_core.traffic import shares
from bridge_registry.rollouts.effect_rules import eligible, probes, route_under
from bridge_registry.rollouts.guard_rules import lower_bound, verdict
from bridge_registry.rollouts.plan import Guards, RolloutPlan, Step, plan_of
from bridge_registry.rollouts.rollout_rules import (
    Commanded,
    Probed,
    RolloutPosition,
    Save,
    Tell,
    Ticked,
    begin,
    decide,
    validate,
)

ROUTE = Route("chat", (Backend("old", 90), Backend("new", 10)))
STEPS = (Step(10, 10), Step(50, 10), Step(100, 10))
PLAN = RolloutPlan("roll", "chat", "old", "new", STEPS)
ASKING = msgspec.structs.replace(PLAN, questions=(Question("2+2", "4"),), probe_every_s=5.0)


def counts(
    requests: int, *, errors: int = 0, broken: int = 0, ttft_s: float = 0.2, speed: float = 50.0
) -> Counts:
    counter = Counter()
    for at in range(requests):
        if at < errors:
            counter.failed()
        else:
            counter.answered(ttft_s, tokens=100, generating_s=100 / speed, broken=at - errors < broken)
    return counter.counts


def run(plan: RolloutPlan, position: RolloutPosition, *events: object) -> RolloutPosition:
    for event in events:
        position, _ = decide(plan, position, event, 0.0)  # type: ignore[arg-type]  # test shorthand
        validate(plan, position)
    return position


def start(plan: RolloutPlan = PLAN) -> RolloutPosition:
    return begin(plan, 0.0)[0]


def healthy(seconds: float = 5.0, requests: int = 15) -> Ticked:
    return Ticked(seconds, counts(requests), counts(requests))


def test_a_healthy_canary_goes_through_every_step_to_the_end() -> None:
    position, seen = start(), []
    for _ in range(20):
        position = run(PLAN, position, healthy())
        seen.append((position.phase, position.step))
    assert seen[:6] == [
        ("progressing", 0),
        ("progressing", 1),
        ("progressing", 1),
        ("progressing", 2),
        ("progressing", 2),
        ("complete", 2),
    ]
    assert [event.what for event in position.events] == [
        "began: step 1 of 3: 10 % to new",
        "step 2 of 3: 50 % to new",
        "step 3 of 3: 100 % to new",
        "complete: every step passed",
    ]


def test_a_step_without_enough_requests_is_held_and_says_so() -> None:
    position = run(PLAN, start(), Ticked(60.0, counts(50), counts(3)))
    assert (position.step, position.reason) == (0, "waits for 17 more requests to the canary")
    assert run(PLAN, position, Ticked(1.0, Counts(), counts(17))).step == 1


@pytest.mark.parametrize(
    ("canary", "reason"),
    [
        (counts(30, errors=6), "error rate 20.0% (6 of 30) against 0 of 30"),
        (counts(30, broken=9), "in-stream error rate 30.0% (9 of 30) against 0 of 30"),
        (counts(30, ttft_s=0.6), "time to first byte p50 0.646"),
        (counts(60, speed=20.0), "20.0 tokens/s against 50.0"),
    ],
)
def test_a_bad_canary_is_rolled_back_with_the_reason(canary: Counts, reason: str) -> None:
    position, effects = decide(PLAN, start(), Ticked(1.0, counts(canary.requests), canary), 7.0)
    assert position.phase == "rolled-back"
    assert reason in position.reason
    assert position.events[-1].at == 7.0
    assert reason in position.events[-1].what
    assert Save() in effects
    assert shares(route_under(ROUTE, PLAN, position, (), {}).backends) == {"old": 1.0, "new": 0.0}


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        (counts(30), counts(19, errors=19)),  # too few to judge
        (counts(30), counts(30, errors=1)),  # one failure is no verdict
        (counts(30, errors=6), counts(30, errors=6)),  # no worse than stable
        (counts(30, ttft_s=0.010), counts(30, ttft_s=0.030)),  # within the slack
        (counts(5), counts(30, ttft_s=2.0)),  # nothing to compare with
        (counts(60, speed=50), counts(60, speed=40)),
        (counts(30, speed=50), counts(30, speed=20)),  # too few for speeds
    ],
)
def test_what_is_no_reason_to_roll_back(stable: Counts, canary: Counts) -> None:
    assert verdict(Guards(), stable, canary) == ""


def test_guards_that_are_off_do_not_judge() -> None:
    off = Guards(20, None, None, None, None, 0.0, None)
    assert verdict(off, counts(30), counts(30, errors=10, broken=10, ttft_s=5.0, speed=1.0)) == ""


def test_the_last_step_is_judged_against_the_last_window_of_the_stable_side() -> None:
    position = run(PLAN, start(), *[healthy()] * 4)
    assert position.step == 2
    slow = Ticked(1.0, Counts(), counts(30, ttft_s=0.9))
    assert "p50" in run(PLAN, position, slow).reason


def test_a_wrong_answer_rolls_back_and_only_of_the_round_that_is_asked() -> None:
    position = run(ASKING, start(ASKING), Ticked(1.0))
    assert position.round == 1
    late = Probed("n1/0", 0, passed=False, detail="'5'")
    assert run(ASKING, position, Ticked(1.0, probed=(late,))).phase == "progressing"
    wrong = msgspec.structs.replace(late, round=1)
    assert run(ASKING, position, Ticked(1.0, probed=(wrong,))).reason == "the probe failed on n1/0: '5'"


def test_a_step_waits_until_every_instance_has_answered_rightly_in_it() -> None:
    right = tuple(Probed(f"n{at}/0", 1, passed=True) for at in range(2))
    ids = tuple(one.instance for one in right)
    event = Ticked(5.0, counts(30), counts(30), ids)
    position = run(ASKING, start(ASKING), msgspec.structs.replace(event, seconds=1.0))
    long_ago = msgspec.structs.replace(event, probed=right[:1], seconds=4.5)
    position = run(ASKING, position, long_ago)
    assert not position.probed
    position = run(ASKING, position, msgspec.structs.replace(event, seconds=0.1, probed=right))
    assert position.probed
    position = run(ASKING, position, msgspec.structs.replace(event, seconds=6.0))
    assert (position.step, position.probed) == (1, False)
    asked = position.round
    assert run(ASKING, position, msgspec.structs.replace(event, seconds=0.1)).round == asked + 1


def test_a_rollout_without_the_canarys_model_waits_and_says_so() -> None:
    position = run(ASKING, start(ASKING), *[Ticked(5.0, counts(30), counts(30))] * 4)
    assert (position.step, position.reason) == (0, "no instance has the canary's model")


def test_pause_holds_the_step_but_not_the_guards() -> None:
    paused = run(PLAN, start(), Commanded("pause", "ann"), healthy(100.0, 50))
    assert (paused.phase, paused.step, paused.elapsed_s, paused.reason) == ("paused", 0, 0.0, "pause by ann")
    assert run(PLAN, paused, Commanded("resume", "ann"), healthy(10.0)).step == 1
    assert run(PLAN, paused, Ticked(1.0, counts(50), counts(50, errors=50))).phase == "rolled-back"


def test_promote_abort_and_restart() -> None:
    promoted = run(PLAN, start(), Commanded("promote", "ann"))
    assert (promoted.phase, promoted.reason) == ("complete", "promote by ann")
    aborted = run(PLAN, promoted, Commanded("abort", "bob"))
    assert (aborted.phase, aborted.reason) == ("aborted", "abort by bob")
    again = run(PLAN, aborted, Commanded("restart", "bob"))
    assert (again.phase, again.step, len(again.events)) == ("progressing", 0, 4)


def test_what_was_answered_before_says_nothing_of_a_new_beginning() -> None:
    wrong = Probed("n1/0", 1, passed=False, detail="'5'")
    asked = run(ASKING, start(ASKING), Ticked(1.0))
    failed = run(ASKING, asked, Ticked(1.0, probed=(wrong,)))
    assert failed.phase == "rolled-back"
    # Agents ask each round once, and the registry remembers the last answer of each instance.
    again = run(ASKING, failed, Commanded("restart", "ann"), Ticked(1.0, probed=(wrong,)))
    assert (again.phase, again.round) == ("progressing", 2)
    other = msgspec.structs.replace(ASKING, canary="newer")
    replaced = run(other, failed, Ticked(1.0), *[Ticked(1.0, probed=(wrong,))] * 3)
    assert (replaced.phase, replaced.round) == ("progressing", 2)


@pytest.mark.parametrize(
    ("verbs", "says"),
    [
        (("resume",), "is progressing"),
        (("pause", "pause"), "is paused"),
        (("abort", "promote"), "is aborted"),
        (("abort", "abort"), "is aborted"),
        (("dance",), "does not know 'dance'"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(verbs: tuple[str, ...], says: str) -> None:
    with pytest.raises(BridgeError, match=says):
        run(PLAN, start(), *(Commanded(verb, "ann") for verb in verbs))


def test_another_pair_of_backends_is_another_rollout() -> None:
    position = run(PLAN, start(), *[healthy()] * 3)
    other = msgspec.structs.replace(PLAN, canary="newer")
    assert decide(other, position, healthy(), 0.0)[0].step == 0
    shorter = msgspec.structs.replace(PLAN, steps=STEPS[:1])
    assert run(shorter, run(PLAN, position, healthy(), healthy()), healthy()).step == 0


# Shares


@pytest.mark.parametrize(
    ("position", "share"),
    [
        (RolloutPosition(PLAN.identity), 0.1),
        (RolloutPosition(PLAN.identity, step=1), 0.5),
        (RolloutPosition(PLAN.identity, "paused", step=1), 0.5),
        (RolloutPosition(PLAN.identity, "complete"), 1.0),
        (RolloutPosition(PLAN.identity, "rolled-back", step=1), 0.0),
        (RolloutPosition(PLAN.identity, "aborted", step=1), 0.0),
    ],
)
def test_what_a_position_makes_of_the_weights(position: RolloutPosition, share: float) -> None:
    three = msgspec.structs.replace(ROUTE, backends=(*ROUTE.backends, Backend("third", 100)))
    found = shares(route_under(three, PLAN, position, (), {}).backends)
    assert found == pytest.approx({"old": (1 - share) / 2, "new": share / 2, "third": 0.5})


def fleet(*homes: str) -> tuple[tuple[Instance, ...], dict[str, Node]]:
    models = (MemberModel("old"), MemberModel("new:latest"))
    instances = tuple(Instance(f"{home}/0", home, models=models) for home in homes)
    return instances, {home: Node(home, labels={"zone": home[-1]}) for home in homes}


def test_a_step_of_one_instance_narrows_the_canary_to_it() -> None:
    instances, nodes = fleet("n2", "n1", "n3", "n4")
    plan = msgspec.structs.replace(PLAN, steps=(Step(0, 10, instances=1), Step(100, 10)))
    route = route_under(ROUTE, plan, start(plan), instances, nodes)
    assert shares(route.backends) == {"old": 0.75, "new": 0.25}
    assert route.backends[1].instances == ("n1/0",)
    nodes["n1"] = msgspec.structs.replace(nodes["n1"], state="drained")
    moved = route_under(ROUTE, plan, start(plan), instances, nodes).backends[1]
    assert moved.instances == ("n2/0",)


def test_who_is_eligible_for_a_backend() -> None:
    instances, nodes = fleet("n1", "n2")
    assert eligible(Backend("library/NEW"), instances, nodes) == ("n1/0", "n2/0")
    assert eligible(Backend("new", labels={"zone": "2"}), instances, nodes) == ("n2/0",)
    assert eligible(Backend("new", instances=("n1/0", "n9/0")), instances, nodes) == ("n1/0",)
    starting = msgspec.structs.replace(instances[0], state="starting")
    assert eligible(Backend("new"), (starting,), nodes) == ()


def test_agents_are_asked_while_it_runs_and_the_old_side_is_kept_warm_after_the_switch() -> None:
    plan = msgspec.structs.replace(ASKING, keep_warm_s=600.0)
    first = run(plan, start(plan), Ticked(1.0))
    assert set(probes(plan, first, ROUTE)) == {"probe/roll/canary"}
    second = msgspec.structs.replace(first, step=1)
    asked = probes(plan, second, ROUTE)
    assert (asked["probe/roll/canary"].round, asked["probe/roll/stable"].keep_alive_s) == (1, 600.0)
    assert probes(plan, msgspec.structs.replace(first, phase="aborted"), ROUTE) == {}


# Plans


def plan(spec: str) -> RolloutPlan:
    text = (
        "apiVersion: bridge.deepseek.io/v1\nkind: Rollout\nmetadata: {name: roll}\n"
        f"spec: {{route: chat, stable: old, canary: new{spec}}}\n"
    )
    loaded = load([("f", text)], alone=True)
    assert loaded.faults == ()
    assert isinstance(loaded.documents[0].parsed, RolloutDocument)
    return plan_of(loaded.documents[0].parsed)


def test_plans_of_documents() -> None:
    assert [(step.percent, step.hold_s) for step in plan("").steps] == [
        (n * 10.0, 300.0) for n in range(1, 11)
    ]
    one = plan(", first: {instances: 1, hold: 1m}, increment: 50, every: 2m")
    assert one.steps == (Step(0, 60, 1), Step(50, 120), Step(100, 120))
    assert plan(", schedule: [{percent: 5}, {percent: 60, hold: 1s}]").steps == (
        Step(5, 300),
        Step(60, 1),
        Step(100, 300),
    )
    green = plan(", strategy: blueGreen, baseline: 5s, keepWarm: 10m")
    assert (green.steps, green.keep_warm_s) == ((Step(0, 5), Step(100, 600)), 600)
    guarded = plan(", guards: {errorRate: null, minRequests: 3, ttftSlack: 1s, tokensPerSecond: 0.5}").guards
    assert guarded == Guards(3, None, 0.02, 1.5, 2.0, 1.0, 0.5)


def test_blue_green_measures_switches_and_can_be_switched_back() -> None:
    green = plan(", strategy: blueGreen, baseline: 5s, keepWarm: 10s")
    position = start(green)
    assert shares(route_under(ROUTE, green, position, (), {}).backends)["new"] == 0.0
    position = run(green, position, Ticked(6.0, counts(40), Counts()))
    assert shares(route_under(ROUTE, green, position, (), {}).backends)["new"] == 1.0
    slow = run(green, position, Ticked(1.0, Counts(), counts(30, ttft_s=1.0)))
    assert slow.phase == "rolled-back"
    done = run(green, position, Ticked(11.0, Counts(), counts(30)))
    assert done.phase == "complete"
    assert run(green, done, Commanded("abort", "ann")).phase == "aborted"


# Properties

EVENTS = st.one_of(
    st.builds(
        Ticked,
        st.floats(0, 20),
        st.builds(counts, st.integers(0, 40), errors=st.integers(0, 3)),
        st.builds(counts, st.integers(0, 40), errors=st.integers(0, 10)),
        st.just(("n1/0",)),
        st.lists(st.builds(Probed, st.just("n1/0"), st.integers(0, 4), st.booleans()), max_size=2).map(tuple),
    ),
    st.builds(Commanded, st.sampled_from(["pause", "resume", "promote", "abort", "restart"]), st.just("ann")),
)


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=40), st.sampled_from([PLAN, ASKING]))
def test_any_history_keeps_the_invariants_and_survives_being_stored(events, plan) -> None:
    position = start(plan)
    for event in events:
        before = position
        try:
            position, effects = decide(plan, position, event, 0.0)
        except BridgeError:
            continue
        validate(plan, position)
        # What a new leader reads is what the old one had: nothing lives outside the record.
        assert msgspec.json.decode(msgspec.json.encode(position), type=RolloutPosition) == position
        if (before.phase, before.step) != (position.phase, position.step):
            assert Save() in effects
            assert any(isinstance(effect, Tell) for effect in effects)
        if isinstance(event, Ticked):
            assert position.step - before.step in {0, 1}
            if not before.running:
                assert position == before


@given(st.integers(1, 500), st.data())
def test_the_lower_bound_lies_below_the_share_and_grows_with_certainty(count, data) -> None:
    bad = data.draw(st.integers(0, count))
    assert 0.0 <= lower_bound(bad, count) <= bad / count
    assert lower_bound(bad * 10, count * 10) >= lower_bound(bad, count)
