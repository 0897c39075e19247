"""AlertRules: figures beyond a fixed threshold, and the figures themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.config.alert_checks import Level
from bridge_core.counts import Counter, Counts
from bridge_core.gauges import Gauge
from bridge_registry.alerts.alert_rules import Seen
from bridge_registry.alerts.figure_rules import Mark, Sample, Trails, counted, marked, measured
from bridge_registry.alerts.threshold_rules import (
    RulePlan,
    Watched,
    bounds,
    resume,
    say,
    seen_of,
    sentence,
    watch,
    windows,
)

FULL = RulePlan("full", "disk_used_bytes", True, Level(0.9, True), Level(0.8, True), 10.0)
SLOW = RulePlan("slow", "tokens_per_second", False, Level(5.0), Level(5.0), 0.0)


def disk(share: float, of: str = "models", node: str = "n1") -> Sample:
    return Sample(node, "", of, share * 1000.0, 1000.0)


def run(plan: RulePlan, steps: Iterable[tuple[float, float | None]]) -> list[bool]:
    """Whether it is raised after each (time, share); None: nobody says anything."""
    watched, found = dict[str, Watched](), list[bool]()
    for now, share in steps:
        watched = watch(plan, watched, () if share is None else (disk(share),), now)
        found.append(any(one.raised is not None for one in watched.values()))
    return found


def test_it_is_raised_after_its_time_without_a_break() -> None:
    assert run(FULL, [(0, 0.95), (9.9, 0.95), (10, 0.95)]) == [False, False, True]
    assert run(FULL, [(0, 0.95), (5, 0.9), (10, 0.95), (19.9, 0.95), (20, 0.95)]) == [False] * 4 + [True]


def test_at_the_threshold_nothing_is_wrong_and_at_clear_it_is_over() -> None:
    assert run(FULL, [(0, 0.9), (10, 0.9), (20, 0.9)]) == [False] * 3
    raised = [(0.0, 0.95), (10.0, 0.95)]
    assert run(FULL, [*raised, (11, 0.85), (12, 0.81), (13, 0.8), (14, 0.85)])[2:] == [
        True, True, False, False,
    ]  # fmt: skip


def test_below_is_the_other_way_round() -> None:
    slow = Sample("n1", "n1/0", "", 4.9)
    assert watch(SLOW, {}, (slow,), 0.0)["n1/0:"].raised == slow
    assert watch(SLOW, {}, (msgspec.structs.replace(slow, value=5.0),), 0.0)["n1/0:"].raised is None


def test_silence_raises_nothing_and_ends_nothing_for_a_while() -> None:
    assert run(FULL, [(0, 0.95), (5, None), (11, 0.95), (20.9, 0.95), (21, 0.95)]) == [False] * 4 + [True]
    raised = [(0.0, 0.95), (10.0, 0.95)]
    assert run(FULL, [*raised, (10 + 300.0 - 0.1, None), (10 + 300.0, None)])[2:] == [True, False]


def test_each_disk_of_each_node_is_for_itself_and_what_has_no_limit_is_left_out() -> None:
    samples = [disk(0.95), disk(0.5, "audit"), disk(0.95, node="n2"), Sample("n3", "", "x", 5.0, 0.0)]
    watched = watch(FULL, watch(FULL, {}, samples, 0.0), samples, 10.0)
    assert {key for key, one in watched.items() if one.raised is not None} == {"n1:models", "n2:models"}
    assert watched.keys() == {"n1:models", "n1:audit", "n2:models"}


def test_so_many_series_at_most() -> None:
    samples = [disk(0.5, node=f"n{at}") for at in range(4096 + 5)]
    assert len(watch(FULL, {}, samples, 0.0)) == 4096


def test_a_node_that_makes_up_series_hides_its_own_alone() -> None:
    plan, watched = msgspec.structs.replace(FULL, lasting_s=0.0), dict[str, Watched]()
    for look in range(5):
        made_up = [disk(0.95, f"{look}-{at}", "a") for at in range(200)]
        watched = watch(plan, watched, [*made_up, disk(0.95, node="z")], float(look))
        assert sum(one.sample.node == "a" for one in watched.values()) <= 256
        assert "z:models" in watched
    assert sum(one.sample.node == "a" for one in watched.values()) == 256


def test_what_is_raised_keeps_its_words_and_what_is_paused_says_nothing() -> None:
    watched = watch(FULL, watch(FULL, {}, (disk(0.95),), 0.0), (disk(0.96),), 10.0)
    (first,) = seen_of(FULL, watched, {})
    assert first.summary == ("node n1: disk_used_bytes of models was 96.0 % of 1000 B, above 90 % for 10s")
    assert (first.id, first.command, first.well) == (
        "rule full@n1:models", "bridgectl alerting explain full", "n1:models ok",
    )  # fmt: skip
    later = watch(FULL, watched, (disk(0.99),), 20.0)
    assert list(seen_of(FULL, later, {first.id: first})) == [first]
    assert list(seen_of(msgspec.structs.replace(FULL, paused=True), watched, {})) == []


def test_a_rule_says_whom_it_is_for_and_whether_a_rollout_may_be_why() -> None:
    plan = msgspec.structs.replace(
        SLOW, name="a b", severity="critical", labels={"team": "x"}, runbook="look", receivers=("r",)
    )
    (one,) = seen_of(plan, watch(plan, {}, (Sample("n1", "n1/0", "", 1.0),), 0.0), {})
    assert (one.severity, one.labels, one.runbook, one.receivers) == (
        "critical", {"team": "x"}, "look", ("r",),
    )  # fmt: skip
    assert one.moved
    assert one.command == "bridgectl alerting explain 'a b'"
    (full,) = seen_of(FULL, {"k": Watched(disk(1.0), 0.0, 0.0, disk(1.0))}, {})
    assert not full.moved


def test_who_begins_to_lead_keeps_what_was_raised_until_it_is_said_again() -> None:
    old = Seen("full", "warning", "n1", "", "as it was", "c", "w", of="models", rule=True)
    others = [msgspec.structs.replace(old, rule=False), msgspec.structs.replace(old, name="other")]
    watched = resume(FULL, [old, *others], 100.0)
    assert watched.keys() == {"n1:models"}
    assert resume(FULL, others, 100.0) == {}
    (told,) = seen_of(FULL, watch(FULL, watched, (), 105.0), {old.id: old})
    assert told.summary == "as it was"
    assert watch(FULL, watched, (disk(0.85),), 105.0)["n1:models"].raised is not None
    assert watch(FULL, watched, (disk(0.5),), 105.0)["n1:models"].raised is None
    assert watch(FULL, watched, (), 100.0 + 300.0) == {}


@given(
    st.lists(st.tuples(st.floats(0.1, 4.0), st.one_of(st.none(), st.floats(0.0, 1.0))), max_size=40),
)
def test_nothing_is_raised_that_was_not_beyond_for_all_of_its_time(steps: list[tuple[float, Any]]) -> None:
    now, beyond, was = 0.0, None, False
    watched = dict[str, Watched]()
    for more, share in steps:
        now += more
        watched = watch(FULL, watched, () if share is None else (disk(share),), now)
        over = share is not None and disk(share).value / 1000.0 > 0.9
        beyond = (now if beyond is None else beyond) if over else None
        raised = any(one.raised is not None for one in watched.values())
        if raised and not was:
            assert beyond is not None
            assert now - beyond >= FULL.lasting_s
        if was and not raised:
            assert share is not None
            assert disk(share).value / 1000.0 <= 0.8
        if over and now - (beyond or now) >= FULL.lasting_s:
            assert raised
        was = raised


@pytest.mark.parametrize(
    ("figure", "value", "said"),
    [
        ("disk_used_bytes", 1536.0, "1.5 KiB"),
        ("ttft_seconds", 1.2345, "1.23 s"),
        ("error_share", 0.0512, "5.12 %"),
        ("gpu_temperature_celsius", 91.0, "91 °C"),
        ("tokens_per_second", 12.34, "12.3 tokens/s"),
        ("queue", 12.0, "12"),
        ("cpu_pressure_percent", 61.27, "61.3 %"),
    ],
)
def test_values_are_said_in_their_unit(figure: str, value: float, said: str) -> None:
    assert say(figure, value) == said


def test_thresholds_are_said_in_their_unit() -> None:
    assert bounds(FULL) == "above 90 %"
    assert bounds(SLOW) == "below 5 tokens/s"
    late = RulePlan("r", "ttft_seconds", True, Level(2.0), Level(2.0), 0.0, quantile=0.95)
    assert sentence(late, Sample("n1", "n1/0", "", 3.0)) == "n1/0: p95 of ttft_seconds was 3 s, above 2 s"


def test_gauges_of_engines_are_the_instances_and_others_the_nodes() -> None:
    told = [
        Gauge("queue", "n1/0", 3.0),
        Gauge("vram_used_bytes", "GPU-1", 5.0, 9.0),
        Gauge("queue", "n1/1", 4.0),
    ]
    assert list(measured("queue", "n1", told)) == [
        Sample("n1", "n1/0", "", 3.0), Sample("n1", "n1/1", "", 4.0),
    ]  # fmt: skip
    assert list(measured("vram_used_bytes", "n1", told)) == [Sample("n1", "", "GPU-1", 5.0, 9.0)]


def counts(answers: int, failures: int = 0, *, ttft: float = 0.1, broken: int = 0) -> Counts:
    made = Counter()
    for at in range(answers):
        made.answered(ttft, tokens=10, generating_s=2.0, broken=at < broken)
    for _ in range(failures):
        made.failed()
    return made.counts


def trail(*more: Counts) -> tuple[Mark, ...]:
    return tuple(Mark(float(at), one) for at, one in enumerate(more))


def figure(name: str, now: Counts, *, fewest: int = 20, quantile: float = 0.95) -> Sample | None:
    before = trail(counts(10, 5))
    return counted(name, "n1", "n1/0", before, now, quantile=quantile, min_requests=fewest)


def test_counted_figures_are_of_the_window_alone_and_of_enough_requests() -> None:
    found = figure("error_share", counts(26, 9, broken=2))
    assert found == Sample("n1", "n1/0", "", (4 + 2) / 20)
    assert figure("error_share", counts(25, 9)) is None
    assert figure("tokens_per_second", counts(30, 5)) == Sample("n1", "n1/0", "", 5.0)
    late = figure("ttft_seconds", counts(30, 5))
    assert late is not None
    assert 0.1 <= late.value <= 0.125
    assert figure("ttft_seconds", counts(29, 6)) is None, "failures have no first byte"
    assert counted("error_share", "n1", "n1/0", (), counts(50), quantile=0.5, min_requests=1) is None


def test_a_window_moves_on_in_sixths_and_begins_anew_with_its_agent() -> None:
    marks: tuple[Mark, ...] = ()
    for second in range(0, 200, 2):
        marks = marked(marks, counts(second), 60.0, float(second))
        assert len(marks) <= 8
        if second >= 60:
            assert second - marks[0].at == 60.0 + second % 10
            assert len(marks) == 7
    assert marked(marks, counts(3), 60.0, 200.0) == (Mark(200.0, counts(3)),)


def test_of_instances_and_windows_that_are_gone_nothing_is_kept() -> None:
    trails = Trails()
    trails.mark((60.0, 300.0), {"n1/0": counts(1), "n2/0": counts(1)}, 0.0)
    trails.mark((60.0,), {"n1/0": counts(2)}, 1.0)
    assert trails.of(60.0, "n1/0") == (Mark(0.0, counts(1)),)
    assert trails.of(60.0, "n2/0") == trails.of(300.0, "n1/0") == ()
    paused = msgspec.structs.replace(SLOW, paused=True, window_s=900.0)
    assert windows([FULL, SLOW, paused]) == {60.0}


def test_where_nothing_was_generated_nothing_is_slow() -> None:
    silent = Counts(30, ttft=(0,) * 20 + (30,))
    told = counted("tokens_per_second", "n1", "n1/0", trail(Counts()), silent, quantile=0.5, min_requests=20)
    assert told is None


def test_a_sentence_has_an_end_whatever_a_node_calls_its_disk() -> None:
    assert len(sentence(FULL, disk(0.95, "x" * 5000))) == 600
