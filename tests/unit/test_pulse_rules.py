"""When peers are asked, when they are taken for silent, and what is not held against them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.routing.pulse_rules import Pulse, PulsePolicy

POLICY = PulsePolicy()


def run(pulse: Pulse, until: float, start: float = 0.0, *, answers: bool, in_use: tuple[str, ...] = ("n",)):
    """Ticks on time; returns when the node fell silent and was cut."""
    fell: dict[str, float] = {}
    now = start
    while now <= until:
        verdicts = pulse.tick(["n"], in_use, now)
        if verdicts.ask and answers:
            pulse.answered("n")
        for kind in ("silent", "cut"):
            if getattr(verdicts, kind):
                fell[kind] = now
        now += POLICY.tick_s
    return fell


def test_a_node_that_answers_is_never_silent() -> None:
    assert run(Pulse(POLICY), 60.0, answers=True) == {}


@pytest.mark.parametrize("stopped_at", [0.0, 0.05, 0.13, 0.2])
def test_a_stopped_node_is_silent_within_a_second_and_cut_soon_after(stopped_at: float) -> None:
    pulse = Pulse(POLICY)
    assert run(pulse, 5.0, answers=True) == {}
    fell = run(pulse, 15.0, 5.0 + POLICY.tick_s, answers=False)
    assert fell["silent"] - 5.0 <= 1.0
    assert fell["cut"] - 5.0 <= 3.5


def test_it_is_told_once_and_again_after_it_spoke() -> None:
    pulse = Pulse(POLICY)
    run(pulse, 4.0, answers=False)
    assert run(pulse, 6.0, 4.1, answers=False) == {}
    assert pulse.answered("n")
    assert not pulse.answered("n")
    assert set(run(pulse, 10.0, 6.1, answers=False)) == {"silent", "cut"}


def test_a_question_that_failed_is_asked_again_and_still_unanswered() -> None:
    pulse = Pulse(POLICY)
    fell, now = [], 0.0
    while now < 1.0:
        verdicts = pulse.tick(["n"], (), now)
        if verdicts.ask:
            pulse.failed("n")
        fell += verdicts.silent
        now += POLICY.tick_s
    assert fell == ["n"]


def test_time_that_this_process_stood_still_is_nobodys_silence() -> None:
    pulse = Pulse(POLICY)
    pulse.tick(["n"], ("n",), 0.0)
    assert pulse.tick(["n"], ("n",), 5.0).silent == ()
    pulse.answered("n")
    assert run(pulse, 6.0, 5.1, answers=True) == {}


@given(st.integers(1, 1000))
def test_all_the_idle_nodes_of_a_large_mesh_cost_a_bounded_rate(size: int) -> None:
    pulse, nodes, asked, now = Pulse(POLICY), [f"n{at}" for at in range(size)], 0, 0.0
    first = len(pulse.tick(nodes, (), now).ask)
    for name in nodes:
        pulse.answered(name)
    while now < 4.0:
        now += 0.5
        verdicts = pulse.tick(nodes, (), now)
        asked += len(verdicts.ask)
        for name in verdicts.ask:
            pulse.answered(name)
    assert first == size
    assert asked <= max(size * 8, 0) if size <= 10 else asked <= POLICY.questions_per_s * 4 + size


def test_a_node_whose_streams_go_on_is_not_cut() -> None:
    pulse, now = Pulse(POLICY), 0.0
    while now < 10.0:
        verdicts = pulse.tick(["n"], ("n",), now)
        assert not verdicts.cut
        assert not verdicts.silent
        pulse.alive("n", now)
        now += POLICY.tick_s
    assert run(pulse, 16.0, 10.0, answers=False)["cut"] < 14.0


def test_nodes_that_left_are_forgotten() -> None:
    pulse = Pulse(POLICY)
    run(pulse, 3.0, answers=False)
    pulse.tick([], (), 3.1)
    assert not pulse.answered("n")
