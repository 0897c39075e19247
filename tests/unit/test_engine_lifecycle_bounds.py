"""An engine's life at its limits: the patience it has by default, and every phase's process."""

from __future__ import annotations

import math

import pytest

from bridge_agent.engines.lifecycle_rules import (
    Answered,
    Event,
    Exited,
    Failed,
    LaunchFailed,
    Lifecycle,
    Phase,
    Policy,
    ProbeFailed,
    Start,
    Stop,
    Tick,
    step,
)

DEFAULT = Policy()


def after(state: Lifecycle, *events: Event, now: float = 0.0, policy: Policy = DEFAULT) -> Lifecycle:
    for event in events:
        state, _ = step(state, event, now, jitter=0.0, policy=policy)
        state.validate()
    return state


READY = after(Lifecycle(), Start(), Answered())


def test_a_start_has_a_minute() -> None:
    started = after(Lifecycle(), Start())
    assert (Lifecycle().since, started.wake_at) == (0.0, 60.0)
    assert after(started, Tick(), now=59.9).phase is Phase.STARTING
    assert after(started, Tick(), now=60.0).phase is Phase.REPLACING


def test_the_third_missed_probe_in_a_row_is_one_too_many() -> None:
    missed = after(READY, ProbeFailed("x"), ProbeFailed("x"))
    assert (missed.phase, missed.missed) == (Phase.READY, 2)
    assert after(missed, ProbeFailed("x")).phase is Phase.REPLACING


@pytest.mark.parametrize(("lasted", "failures"), [(59.9, 3), (60.0, 1)])
def test_a_minute_without_a_failure_wipes_out_the_earlier_ones(lasted: float, failures: int) -> None:
    known = after(Lifecycle(), Start(), LaunchFailed("x"))
    known = after(known, Tick(), LaunchFailed("x"), now=10.0)
    ready = after(known, Tick(), Answered(), now=100.0)
    assert ready.failures == 2
    assert after(ready, Exited("x"), now=100.0 + lasted).failures == failures


def test_the_pause_between_starts_doubles_from_half_a_second_to_half_a_minute() -> None:
    state, now, pauses = after(Lifecycle(), Start()), 0.0, []
    for _ in range(9):
        state = after(state, LaunchFailed("x"), now=now)
        assert state.wake_at is not None
        pauses.append(2 * (state.wake_at - now))  # without jitter it is half of the whole
        now = state.wake_at
        assert after(state, Tick(), now=now - 0.01).phase is Phase.BACKOFF
        state = after(state, Tick(), now=now)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_weeks_of_crashes_do_not_overflow() -> None:
    policy = Policy(backoff_first_s=1.0, backoff_most_s=math.inf)
    pauses = []
    for failures in (31, 32, 33, 5_000):
        state = Lifecycle(Phase.STARTING, failures=failures, wake_at=1.0, reason="x")
        ended = after(state, Exited("x"), policy=policy)
        pauses.append(ended.wake_at)
    assert pauses == [2.0**30, 2.0**31, 2.0**31, 2.0**31]


def test_one_that_was_wanted_again_while_it_stopped_starts_as_after_a_first_failure() -> None:
    stopping = after(READY, Stop())
    back = after(stopping, Start(), Exited("it was stopped"), now=5.0)
    assert (back.phase, back.failures, back.wake_at) == (Phase.BACKOFF, 1, 5.25)


def test_what_an_owned_engine_depends_on_is_nothing_to_an_attached_one() -> None:
    assert after(READY, Failed("x")).phase is Phase.REPLACING
    attached = after(Lifecycle(owned=False), Start(), Answered())
    assert after(attached, Failed("x")) == attached


@pytest.mark.parametrize("phase", Phase)
def test_which_phases_have_a_process(phase: Phase) -> None:
    without = {Phase.ABSENT, Phase.BACKOFF, Phase.STOPPED}
    assert Lifecycle(phase).has_process is (phase not in without)
    assert not Lifecycle(phase, owned=False).has_process


@pytest.mark.parametrize(
    "impossible",
    [
        Lifecycle(Phase.BACKOFF, failures=0, wake_at=1.0),
        Lifecycle(Phase.BACKOFF, failures=1, reason="x"),
        Lifecycle(Phase.STARTING),
        Lifecycle(Phase.STARTING, owned=False, wake_at=1.0),
        Lifecycle(Phase.READY, wake_at=1.0),
        Lifecycle(Phase.REPLACING, owned=False),
        Lifecycle(Phase.READY, owned=True, hung=True),
        Lifecycle(Phase.READY, owned=False, hung=True),
        Lifecycle(Phase.READY, failures=1),
        Lifecycle(Phase.DRAINING, missed=1),
    ],
)
def test_an_impossible_state_is_told(impossible: Lifecycle) -> None:
    with pytest.raises(AssertionError):
        impossible.validate()
