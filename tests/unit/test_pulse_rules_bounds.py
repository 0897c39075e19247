"""The peers' pulse at its limits: when a node is asked, silent and cut, and whose lateness it is."""

from __future__ import annotations

import pytest

from bridge_agent.routing.pulse_rules import Pulse, PulsePolicy, Verdicts

NOTHING = Verdicts((), (), ())
ASKED = Verdicts(("n",), (), ())


def ticked(pulse: Pulse, *times: float, in_use: tuple[str, ...] = ("n",)) -> list[Verdicts]:
    return [pulse.tick(("n",), in_use, now) for now in times]


def every(start: float, end: float, step: float = 0.125) -> list[float]:
    return [start + at * step for at in range(int((end - start) / step) + 1)]


EXACT = PulsePolicy(tick_s=0.125, quick_s=0.25, questions_per_s=4.0, silent_s=0.75, cut_s=3.0)


def test_what_a_pulse_is_by_default() -> None:
    pulse = Pulse()
    assert pulse.tick(("n",), ("n",), 0.0) == ASKED
    found = {"silent": 0.0, "cut": 0.0}
    for at in range(1, 400):
        verdict = pulse.tick(("n",), ("n",), at / 100)
        found["silent"] = at / 100 if verdict.silent else found["silent"]
        found["cut"] = at / 100 if verdict.cut else found["cut"]
    assert found == {"silent": 0.7, "cut": 3.0}


def test_how_often_nodes_are_asked_by_default() -> None:
    def asked_again(nodes: int, in_use: tuple[str, ...]) -> float:
        pulse, names = Pulse(), tuple(f"n{at}" for at in range(nodes))
        pulse.tick(names, in_use, 0.0)
        for name in names:
            pulse.answered(name)
        return next(at / 100 for at in range(1, 200) if "n0" in pulse.tick(names, in_use, at / 100).ask)

    assert asked_again(1, ("n0",)) == asked_again(1, ()) == 0.2
    assert asked_again(60, ("n0",)) == 0.2
    assert asked_again(60, ()) == 1.2


def test_standing_still_is_three_tenths_of_a_second_by_default() -> None:
    def silent_at(resumed: float) -> float:
        pulse = Pulse()
        times = [0.0, *(resumed + at / 100 for at in range(200))]
        verdicts = ticked(pulse, *times)
        return next(now for now, one in zip(times, verdicts, strict=True) if one.silent)

    assert silent_at(0.39) == pytest.approx(0.7)
    assert silent_at(0.41) == pytest.approx(1.01, abs=0.011)


def test_a_node_that_answered_is_cut_anew_when_it_falls_silent_again() -> None:
    pulse = Pulse(EXACT)
    assert ticked(pulse, *every(0.0, 3.0))[-1].cut == ("n",)
    pulse.answered("n")
    verdicts = dict(zip(times := every(3.125, 7.0), ticked(pulse, *times), strict=True))
    assert [now for now, one in verdicts.items() if one.cut] == [6.125]


def test_a_node_in_use_is_asked_at_the_quick_interval_once_it_answered() -> None:
    pulse = Pulse(EXACT)
    assert ticked(pulse, 0.0) == [ASKED]
    assert ticked(pulse, 0.125, 0.25) == [NOTHING, NOTHING], "its question is on its way"
    pulse.answered("n")
    assert ticked(pulse, 0.375) == [ASKED]
    pulse.answered("n")
    assert ticked(pulse, 0.5, 0.625) == [NOTHING, ASKED]


@pytest.mark.parametrize(("nodes", "interval"), [(1, 0.25), (2, 0.5), (8, 2.0)])
def test_an_idle_node_is_asked_as_rarely_as_the_bound_for_all_says(nodes: int, interval: float) -> None:
    pulse = Pulse(EXACT)
    names = tuple(f"n{at}" for at in range(nodes))
    pulse.tick(names, (), 0.0)
    for name in names:
        pulse.answered(name)
    asked = [now for now in every(0.125, 2.0) if pulse.tick(names, (), now).ask]
    assert asked[0] == interval


def test_an_idle_node_that_owes_an_answer_is_asked_quickly() -> None:
    pulse = Pulse(EXACT)
    names = tuple(f"n{at}" for at in range(8))
    pulse.tick(names, (), 0.0)
    for name in names[1:]:
        pulse.answered(name)
    pulse.failed("n0")
    assert pulse.tick(names, (), 0.125).ask == ()
    assert pulse.tick(names, (), 0.25).ask == ("n0",)


def test_silence_and_cut_begin_at_their_time_and_are_told_once() -> None:
    pulse = Pulse(EXACT)
    verdicts = dict(zip(times := every(0.0, 4.0), ticked(pulse, *times), strict=True))
    assert [now for now, one in verdicts.items() if one.silent] == [0.75]
    assert [now for now, one in verdicts.items() if one.cut] == [3.0]
    assert [now for now, one in verdicts.items() if one.ask] == [0.0]
    assert pulse.answered("n")
    assert not pulse.answered("n")


def test_an_answer_before_the_silence_is_none() -> None:
    pulse = Pulse(EXACT)
    ticked(pulse, *every(0.0, 0.625))
    assert not pulse.answered("n")
    assert not pulse.answered("unknown")


def test_a_question_that_did_not_get_there_is_asked_again_and_counts_from_the_first() -> None:
    pulse = Pulse(EXACT)
    found: list[tuple[float, Verdicts]] = []
    for now in every(0.0, 1.0):
        found.append((now, pulse.tick(("n",), ("n",), now)))
        pulse.failed("n")
    assert [now for now, one in found if one.ask] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [now for now, one in found if one.silent] == [0.75]
    pulse.failed("unknown")


def test_other_bytes_put_the_silence_off_and_only_while_an_answer_is_owed() -> None:
    pulse = Pulse(EXACT)
    ticked(pulse, *every(0.0, 0.5))
    pulse.alive("n", 0.5)
    pulse.alive("unknown", 0.5)
    verdicts = dict(zip(times := every(0.625, 1.5), ticked(pulse, *times), strict=True))
    assert [now for now, one in verdicts.items() if one.silent] == [1.25]
    pulse = Pulse(EXACT)
    ticked(pulse, 0.0)
    pulse.answered("n")
    pulse.alive("n", 0.0)
    assert ticked(pulse, 0.125) == [NOTHING]
    assert ticked(pulse, 0.25) == [ASKED]


@pytest.mark.parametrize(("late", "silent_at"), [(0.25, 1.0), (0.375, 1.25), (5.0, 5.875)])
def test_a_process_that_stood_still_blames_nobody(late: float, silent_at: float) -> None:
    """Three ticks late is standing still; less is a busy moment."""
    pulse = Pulse(EXACT)
    ticked(pulse, 0.0, 0.125)
    resumed = 0.125 + 0.125 + late
    ticks = every(resumed, resumed + 2.0)
    verdicts = dict(zip(ticks, ticked(pulse, *ticks), strict=True))
    due = 0.75 if late < 0.375 else 0.75 + late
    assert next(now for now, one in verdicts.items() if one.silent) == due
    assert silent_at >= due


def test_who_answered_is_not_asked_for_the_time_that_we_stood_still() -> None:
    pulse = Pulse(EXACT)
    ticked(pulse, 0.0)
    pulse.answered("n")
    assert ticked(pulse, 9.0) == [ASKED]
    assert ticked(pulse, 9.125) == [NOTHING]


def test_a_node_that_left_and_came_back_is_a_new_one() -> None:
    pulse = Pulse(EXACT)
    ticked(pulse, *every(0.0, 0.5))
    assert pulse.tick((), (), 0.625) == NOTHING
    assert ticked(pulse, 0.75) == [ASKED]
    assert not any(one.silent for one in ticked(pulse, *every(0.875, 1.375)))
    assert ticked(pulse, 1.5)[0].silent == ("n",)
