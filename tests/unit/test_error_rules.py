"""Shares of failures that leave what is usual: what is found, what is left alone, and how sure that is."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_core.counts import Counts
from bridge_core.snapshot import Instance, MemberModel
from bridge_registry.alerts import error_rules as rules
from bridge_registry.alerts.error_rules import State
from bridge_registry.alerts.error_watch import ErrorWatch
from bridge_registry.alerts.learning_rules import FREEZE_S, PERSIST, WINDOW_S

NEED = math.log(120_960 / 0.25)


def used_to(*failed: float, requests: float = 100_000.0) -> State:
    """Instances of which so many of so many requests failed."""
    return msgspec.structs.replace(
        rules.empty(len(failed)), requests=np.full(len(failed), requests), failed=np.array(failed)
    )


def window(state: State, *told: tuple[float, float], now: float = 5.0, group: Any = None) -> State:
    """One window: requests and failures of each instance, which have the same model on a node each."""
    many = len(told)
    return rules.step(
        state,
        np.zeros(many, dtype=np.int64) if group is None else np.array(group),
        np.arange(many),
        requests=np.array([one for one, _ in told]),
        failed=np.array([one for _, one in told]),
        now=now,
    )


def windows(state: State, count: int, *told: tuple[float, float], **more: Any) -> State:
    for at in range(count):
        state = window(state, *told, now=5.0 * (at + 1), **more)
    return state


def test_what_is_usual_is_the_most_that_it_can_have_been() -> None:
    assert rules.usual(used_to(0.0))[0] == rules.LEAST
    assert rules.usual(used_to(1000.0))[0] == pytest.approx((1001 + 1.6449 * math.sqrt(1001)) / 100_000)
    assert rules.usual(used_to(0.0, requests=200))[0] == pytest.approx(2.6449 / 200)
    assert rules.usual(rules.empty(1))[0] == 0.5


def test_what_is_needed_follows_from_the_budget() -> None:
    assert rules.needed(1) == pytest.approx(NEED)
    assert rules.needed(8) == pytest.approx(NEED + math.log(8))
    assert rules.needed(0) == rules.needed(1)
    assert rules.needed(1, 2.5) == pytest.approx(NEED - math.log(10))


def test_one_windows_evidence_is_how_much_likelier_it_is_with_more_failures() -> None:
    after = window(used_to(0.0), (10.0, 1.0))
    worse = rules.LEAST + rules.MORE
    expected = math.log(worse / rules.LEAST) + 9 * math.log((1 - worse) / (1 - rules.LEAST))
    assert after.evidence[0] == pytest.approx(expected)
    often = window(used_to(2000.0), (10.0, 1.0))
    usual = rules.usual(used_to(2000.0))[0]
    expected = math.log(3.0) + 9 * math.log((1 - 3 * usual) / (1 - usual))
    assert often.evidence[0] == pytest.approx(expected)


def test_many_failures_are_found_in_as_few_windows_as_can_be() -> None:
    state = used_to(0.0)
    assert not windows(state, PERSIST - 1, (1000.0, 1000.0)).raised[0]
    assert windows(state, PERSIST, (1000.0, 1000.0)).raised[0]


def test_one_in_twenty_is_found_after_some_hundred_requests() -> None:
    state = used_to(100.0)
    found = next(at for at in range(1, 40) if windows(state, at, (20.0, 1.0)).raised[0])
    assert 60 < 20 * found < 250


def test_what_is_usual_is_no_matter_however_long() -> None:
    rng = np.random.default_rng(1)
    state, raised = used_to(500.0), 0
    for at in range(800):
        requests = float(rng.poisson(20))
        state = window(state, (requests, float(rng.binomial(int(requests), 0.005))), now=5.0 * at)
        raised += int(state.raised[0])
    assert raised == 0


def test_of_whom_little_is_known_nothing_is_said() -> None:
    few = used_to(0.0, requests=rules.FEWEST - 1.0)
    assert window(few, (50.0, 50.0)).evidence[0] == 0.0
    assert window(used_to(0.0, requests=float(rules.FEWEST)), (50.0, 50.0)).evidence[0] > 0.0


def test_a_single_failure_of_a_quiet_instance_is_none() -> None:
    state = used_to(0.0, requests=300.0)
    assert not windows(state, 2, (1.0, 1.0)).raised[0]


def test_what_the_other_nodes_of_the_model_fail_too_is_no_nodes_fault() -> None:
    calm, bad = (20.0, 0.0), (20.0, 4.0)
    assert list(windows(used_to(0, 0, 0), 10, calm, bad, calm).raised) == [False, True, False]
    assert not windows(used_to(0, 0, 0), 50, bad, bad, bad).raised.any()
    assert windows(used_to(0, 0), 10, bad, bad, group=[0, 1]).raised.all(), "another model is no excuse"


def test_own_instances_are_no_excuse_for_each_other() -> None:
    bad = np.array([20.0, 20.0])
    state = used_to(0.0, 0.0)
    for at in range(10):
        nodes = np.zeros(2, dtype=np.int64)
        state = rules.step(state, nodes, nodes, requests=bad, failed=bad / 5, now=5.0 * at)
    assert state.raised.all()
    assert (rules.of_others(state, nodes, nodes) == 0.0).all()


def test_one_failure_elsewhere_is_a_coincidence() -> None:
    state = msgspec.structs.replace(
        used_to(0, 0, 0), lately=np.array([0.0, 10.0, 10.0]), lately_failed=np.array([0.0, 1.0, 0.9])
    )
    group, node = np.zeros(3, dtype=np.int64), np.arange(3)
    assert rules.of_others(state, group, node)[0] == 0.0
    state = msgspec.structs.replace(state, lately_failed=np.array([0.0, 1.0, 1.0]))
    assert rules.of_others(state, group, node)[0] == pytest.approx(0.1)
    assert rules.of_others(state, group, node, deviations=2.0)[0] == pytest.approx((2 + 2 * 2**0.5) / 20)


def test_it_is_over_when_the_evidence_is_used_up_and_not_before() -> None:
    raised = windows(used_to(0.0), PERSIST, (1000.0, 1000.0))
    once = window(raised, (20.0, 0.0), now=20.0)
    assert once.raised[0]
    assert once.since[0] == raised.since[0] == 5.0
    assert not windows(raised, 60, (20.0, 0.0)).raised[0]
    assert windows(raised, 60, (0.0, 0.0)).raised[0], "silence clears nothing"
    longer = windows(used_to(0.0), 100, (1000.0, 1000.0))
    assert longer.evidence[0] == pytest.approx(1.5 * NEED)


def test_a_fault_is_not_learnt_and_a_change_that_stays_is() -> None:
    state = used_to(0.0, requests=2000.0)
    for at in range(30):
        state = window(state, (20.0, 2.0), now=5.0 + at * FREEZE_S / 29)
    assert state.raised[0]
    assert state.failed[0] < 10, "an hour of it is not learnt from"
    for at in range(600):
        state = window(state, (20.0, 2.0), now=FREEZE_S + 10.0 + 5.0 * at)
    assert not state.raised[0]
    assert rules.usual(state)[0] > 0.08


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)),
        max_size=12,
    )
)
def test_whatever_comes_evidence_is_bounded_and_groups_do_not_mix(rows: list[tuple[int, ...]]) -> None:
    both, alone = rules.empty(2), rules.empty(1)
    for a, b, c, d in rows:
        both = window(both, (a, b), (c, d), group=[0, 1])
        alone = window(alone, (a, b))
        assert np.isfinite(both.evidence).all()
        assert ((both.evidence >= 0.0) & (both.evidence <= 1.5 * rules.needed(2) + 1e-9)).all()
        assert ((rules.shares(both) >= 0.0) & (rules.shares(both) <= 1.0)).all()
        assert both.requests[0] == pytest.approx(alone.requests[0]) or both.evidence[0] != alone.evidence[0]


# -- the watch


def test_who_fails_is_named_with_what_is_usual_and_what_others_do() -> None:
    models = (MemberModel("m", "sha256:1"),)
    instances = {f"n{at}/0": Instance(f"n{at}/0", f"n{at}", models=models) for at in range(3)}
    done, watch, now = dict.fromkeys(instances, Counts()), ErrorWatch(), 0.0

    def run(count: int, bad: str = "") -> None:
        nonlocal now
        for _ in range(count):
            now += WINDOW_S
            for id_ in instances:
                more = Counts(20, errors=1, stream_errors=1) if id_ == bad else Counts(20)
                done[id_] = done.get(id_, Counts()).plus(more)
            watch.look(instances, done, now)

    run(200)
    assert not list(watch.seen())
    run(8, "n1/0")
    (seen,) = watch.seen()
    assert (seen.id, seen.severity, seen.moved) == ("error-rate@n1/0", "warning", True)
    assert seen.command == "bridgectl health n1"
    assert "% are as much as is usual for it; other nodes of its model 0 %" in seen.summary
    done["n1/0"] = Counts(5, errors=5)  # its agent began anew
    watch.look(instances, done, now)
    del instances["n1/0"]
    run(1)
    assert not list(watch.seen())


def test_a_node_with_many_instances_leaves_the_others_their_series() -> None:
    watch = ErrorWatch()
    made_up = {f"a/{at}": Instance(f"a/{at}", "a") for at in range(2000)}
    watch.look({**made_up, "z/0": Instance("z/0", "z")}, {}, 5.0)
    assert len(watch) == 128 + 1
