"""When a loaded model is asked for a token, and when silence is a hang."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.health.probe_rules import ModelHealth, ProbePolicy, ProbeVerdict, judge, probe_due

POLICY = ProbePolicy(quiet_s=10.0, idle_window_s=100.0, timeout_s=5.0, busy_timeout_s=300.0)


def test_an_idle_model_is_asked_at_doubling_intervals_then_left_to_unload():
    health, asked = ModelHealth(0.0, expires_in_s=300.0), []
    while (due := probe_due(health, POLICY)) is not None:
        asked.append(due)
        health = health.answered(due)
    assert asked == [10.0, 20.0, 40.0, 80.0]


def test_a_model_that_stays_loaded_for_ever_is_asked_for_ever():
    assert probe_due(ModelHealth(0.0, last_probe=80.0), POLICY) == 160.0


def test_a_model_that_is_to_be_unloaded_soon_is_not_kept_by_probes():
    idle = ModelHealth(0.0, expires_in_s=99.0)
    assert probe_due(idle, POLICY) is None
    assert probe_due(idle.dispatched(5.0), POLICY) == 15.0


def test_progress_puts_the_probe_off():
    assert probe_due(ModelHealth(0.0).progressed(9.0), POLICY) == 19.0


def test_a_request_without_a_first_byte_makes_it_due_again_after_the_window():
    idle = ModelHealth(0.0, last_probe=80.0, expires_in_s=300.0)
    assert probe_due(idle, POLICY) is None
    waiting = idle.dispatched(500.0)
    assert probe_due(waiting, POLICY) == 510.0
    assert waiting.dispatched(505.0) == waiting, "later requests do not put the probe off"
    assert probe_due(waiting.answered(511.0), POLICY) is None


def test_a_hung_model_is_asked_again_until_it_answers():
    hung = ModelHealth(0.0, last_probe=500.0).unanswered(600.0, hung=True)
    assert probe_due(hung, POLICY) == 610.0
    assert not hung.answered(611.0).hung


@pytest.mark.parametrize(
    ("computed", "progressed", "now", "verdict"),
    [
        (None, 0.0, 104.9, ProbeVerdict.WAIT),
        (None, 0.0, 105.0, ProbeVerdict.HUNG),
        (None, 101.0, 105.0, ProbeVerdict.NEEDLESS),
        (104.0, 0.0, 105.0, ProbeVerdict.WAIT),
        (104.0, 0.0, 109.0, ProbeVerdict.HUNG),
        (399.0, 0.0, 400.0, ProbeVerdict.HUNG),
        (50.0, 0.0, 105.0, ProbeVerdict.HUNG),
    ],
)
def test_silence_is_judged_by_progress_computing_and_patience(computed, progressed, now, verdict):
    found = judge(started=100.0, computed=computed, progressed=progressed, now=now, policy=POLICY)
    assert found is verdict


@pytest.mark.parametrize(
    ("false_alarms", "waits_s"), [(0, 60.0), (1, 120.0), (2, 240.0), (3, 300.0), (99, 300.0)]
)
def test_silence_that_cannot_be_looked_behind_gets_growing_patience(false_alarms, waits_s):
    policy = dataclasses.replace(POLICY, unseen_timeout_s=60.0)

    def verdict(now, computed=None):
        return judge(
            started=100.0,
            computed=computed,
            progressed=0.0,
            now=now,
            policy=policy,
            seen=False,
            false_alarms=false_alarms,
        )

    assert verdict(100.0 + waits_s - 0.1) is ProbeVerdict.WAIT
    assert verdict(100.0 + waits_s) is ProbeVerdict.HUNG, "a hung one is still found"


def test_a_sign_of_life_after_a_hang_was_a_false_alarm():
    health = ModelHealth(0.0).unanswered(10.0, hung=True)
    assert health.answered(20.0).false_alarms == 1
    assert health.progressed(20.0).false_alarms == 1
    assert health.answered(20.0).answered(30.0).false_alarms == 1
    assert health.answered(20.0).unanswered(40.0, hung=True).answered(50.0).false_alarms == 2


def test_unloading_put_off_shows_that_somebody_elses_request_ended():
    health = ModelHealth(0.0).listed(200.0)
    assert health.used_by_others(300.0)
    assert not health.used_by_others(200.5), "clocks of two listings"
    assert not health.used_by_others(190.0)
    assert not ModelHealth(0.0).used_by_others(math.inf), "one that stays for ever tells nothing"


times = st.floats(0, 1e6)


@given(
    progress=times,
    expires=st.sampled_from([1.0, 300.0, math.inf]),
    steps=st.lists(st.tuples(st.sampled_from("pdau"), st.floats(0, 200)), max_size=30),
)
def test_never_sooner_than_quiet_after_progress_and_bounded_when_idle(progress, expires, steps):
    health, now = ModelHealth(progress, expires_in_s=expires), progress
    for kind, pause in steps:
        now += pause
        health = {
            "p": health.progressed,
            "d": health.dispatched,
            "a": health.answered,
            "u": lambda at: health.unanswered(at, hung=False),  # noqa: B023 (called in this turn)
        }[kind](now)
        due = probe_due(health, POLICY)
        if due is not None:
            assert due >= health.last_progress + POLICY.quiet_s
        if due is None:
            assert health.waiting_since is None
