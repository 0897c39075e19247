"""When an engine that neither answers nor computes is said to hang, and which silences are none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.health.silence_rules import LEAST_S, MOST_S, Engine, Silence, look, matters

PROCESS = (7, 100)
STUCK = Engine(work=2, signs=5.0, process=PROCESS, effort=3.0)
STEP_S = 0.5


def after(*engines: Engine, before: Silence | None = None, began: float = 0.0) -> Silence:
    silence = before or Silence(signs=5.0, process=PROCESS)
    for at, one in enumerate(engines):
        silence = look(silence, one, began + at * STEP_S)
    return silence


def changed(**fields: Any) -> Engine:
    return msgspec.structs.replace(STUCK, **fields)


def test_one_that_has_work_and_does_nothing_is_said_after_its_time_and_three_looks() -> None:
    assert not after(*[STUCK] * 3).said
    hung = after(*[STUCK] * 4)
    assert hung.said
    assert hung.lasts_s == LEAST_S
    assert not look(look(Silence(5.0, PROCESS), STUCK, 0.0), STUCK, 60.0).said, "this agent stood still"


@pytest.mark.parametrize(
    "sign",
    [
        changed(signs=6.0),
        changed(work=0),
        changed(loading=True),
        changed(process=(8, 200)),
        changed(process=None),
        changed(effort=None),
        changed(effort=3.2),
        changed(effort=1.0),
    ],
    ids=["a byte", "no work", "a load", "another process", "none", "not seen", "it computes", "counted anew"],
)
def test_it_begins_anew(sign: Engine) -> None:
    assert not after(*[STUCK] * 3, sign).said
    assert after(*[STUCK] * 4).said


def test_a_little_work_is_none_and_more_than_a_twentieth_is() -> None:
    assert after(STUCK, *[changed(effort=3.0 + 0.049 * STEP_S * at) for at in (1, 2, 3)]).said
    assert not after(STUCK, *[changed(effort=3.0 + 0.051 * STEP_S * at) for at in (1, 2, 3)]).said


def test_one_that_was_only_slow_gets_twice_the_time_from_then_on() -> None:
    slow = after(*[STUCK] * 7, changed(signs=6.0))
    assert slow.longest == 3.0
    again = changed(signs=6.0)
    assert not after(*[again] * 12, before=slow, began=10.0).said
    assert after(*[again] * 13, before=slow, began=10.0).said
    replaced = look(slow, changed(signs=6.0, process=(9, 300)), 20.0)
    assert replaced.longest == 0.0, "it hung, and was replaced"


def test_patience_ends() -> None:
    slow = after(*[STUCK] * 100, changed(signs=6.0))
    again = changed(signs=6.0)
    assert after(*[again] * (int(MOST_S / STEP_S) + 1), before=slow, began=100.0).said


def test_processes_are_looked_at_only_where_something_may_be_wrong() -> None:
    before = Silence(signs=5.0, process=PROCESS)
    assert matters(before, STUCK)
    for calm in (changed(signs=6.0), changed(work=0), changed(loading=True), changed(process=None)):
        assert not matters(before, calm)


engines = st.builds(
    Engine,
    work=st.integers(0, 2),
    signs=st.sampled_from([5.0, 6.0]),
    process=st.sampled_from([PROCESS, (8, 200), None]),
    effort=st.one_of(st.none(), st.floats(0.0, 10.0)),
    loading=st.booleans(),
)


@given(st.lists(st.tuples(engines, st.floats(0.01, 5.0)), max_size=40))
def test_nobody_without_work_or_that_just_gave_a_sign_is_ever_said_to_hang(
    looks: list[tuple[Engine, float]],
) -> None:
    silence, now = Silence(), 0.0
    for engine, pause in looks:
        now += pause
        before, silence = silence, look(silence, engine, now)
        well = engine.signs != before.signs or not engine.work or engine.loading or engine.effort is None
        assert not (well and silence.said)
        assert not silence.said or silence.lasts_s >= LEAST_S
        assert silence.since is None or silence.since <= now
