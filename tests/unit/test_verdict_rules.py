"""When what was seen of an instance is said, and when no longer; what figures mean."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.health.infrastructure import pressure_of
from bridge_agent.health.infrastructure_rules import Disk, Machine, gpu_findings, machine_findings
from bridge_agent.health.service_rules import Service, service_findings
from bridge_agent.health.verdict_rules import Finding, Key, Track, look, reasons
from bridge_agent.limits.gpu import Gpu
from bridge_core.counts import Counts
from bridge_core.verdicts import LEVELS, Level, Reason, Verdict, ordered, worst

KEY: Key = ("infrastructure", "disk")


def found(level: Level, *, sudden: bool = False, text: str = "it is full") -> list[Finding]:
    return [] if level == "ok" else [Finding(*KEY, level, text, sudden)]


def said(levels: list[Level], tracks: dict[Key, Track] | None = None) -> list[Level]:
    tracks, result = tracks or {}, []
    for at, level in enumerate(levels):
        tracks = look(tracks, found(level), float(at))
        result.append(tracks[KEY].level if KEY in tracks else "ok")
    return result


def test_it_is_said_at_the_fifth_of_nine_looks_and_over_after_twenty() -> None:
    bad: list[Level] = ["degraded"] * 5
    assert said(bad) == ["ok"] * 4 + ["degraded"]
    spread: list[Level] = ["degraded", "ok"] * 4
    assert said([*spread, "degraded"])[-1] == "degraded"
    thin: list[Level] = ["degraded", "ok", "ok"] * 5
    assert set(said(thin)) == {"ok"}
    too_old: list[Level] = [*["degraded"] * 4, *["ok"] * 5, "degraded"]
    assert set(said(too_old)) == {"ok"}, "the first of the five is the tenth look back"
    after = said([*bad, *["ok"] * 20])
    assert after[-2:] == ["degraded", "ok"]


def test_what_swings_around_a_mark_is_said_once_and_stays() -> None:
    swinging: list[Level] = ["degraded", "ok"] * 20
    levels = said(swinging)
    first = levels.index("degraded")
    assert set(levels[first:]) == {"degraded"}


def test_it_grows_worse_at_once_and_better_in_steps() -> None:
    levels = said([*["degraded"] * 5, *["failing"] * 5, *["degraded"] * 20, *["ok"] * 20])
    assert levels[9] == "failing"
    assert levels[29] == "degraded"
    assert levels[-1] == "ok"


def test_what_is_sudden_is_said_at_once_with_its_sentence_and_since_when() -> None:
    tracks = look({}, found("failing", sudden=True, text="it fell off the bus"), 7.0)
    assert reasons(tracks) == (Reason(*KEY, "failing", "it fell off the bus", 7.0),)
    tracks = look(tracks, found("failing", sudden=True, text="other words"), 8.0)
    assert reasons(tracks)[0].text == "it fell off the bus"


@given(st.lists(st.sampled_from(LEVELS), max_size=60))
def test_nothing_is_said_that_was_not_seen_and_nothing_stays(levels: list[Level]) -> None:
    shown = said(levels)
    for at, level in enumerate(shown):
        lately = levels[max(0, at - 29) : at + 1]
        assert LEVELS.index(level) <= LEVELS.index(worst(lately))
    assert said([*levels, *["ok"] * 29])[-1] == "ok"  # type: ignore[list-item]  # literals


def test_the_worst_comes_first_and_makes_the_verdict() -> None:
    mild = Reason("service", "queue", "degraded", "many wait", 1.0)
    bad = Reason("business", "wrong-answers", "failing", "Rome", 2.0)
    verdict = Verdict("n/0", ordered([mild, bad]), True)
    assert verdict.level == "failing"
    assert verdict.why == "Rome; many wait"
    assert Verdict("n/0").level == "ok"


# -- figures


def codes(machine: Machine) -> dict[str, str]:
    return {one.code: one.level for one in machine_findings(machine)}


GIB = 1 << 30


def test_disks_run_low_by_share_and_by_bytes() -> None:
    for total, free, level in (
        (100 * GIB, 50 * GIB, None),
        (100 * GIB, 4 * GIB, "degraded"),
        (10_000 * GIB, 400 * GIB, None),
        (10_000 * GIB, 90 * GIB, "failing"),
        (8 * GIB, 3 * GIB, None),
        (8 * GIB, 2 * GIB, "degraded"),
        (8 * GIB, GIB // 8, "failing"),
        (0, 0, None),
    ):
        assert codes(Machine(disks=(Disk("models", total, free),))).get("disk") == level, (total, free)


def test_a_full_disk_is_said_at_once_and_one_that_runs_low_after_some_looks() -> None:
    full, low = ((Disk("models", 8 * GIB, free),) for free in (GIB // 8, GIB))
    assert [one.sudden for one in machine_findings(Machine(disks=full))] == [True]
    assert [one.sudden for one in machine_findings(Machine(disks=low))] == [False]


def test_memory_pressure_and_lost_packets_are_told() -> None:
    assert codes(Machine(memory_total=100, memory_available=50)) == {}
    assert codes(Machine(memory_total=1000, memory_available=40)) == {"memory": "degraded"}
    assert codes(Machine(memory_total=1000, memory_available=15)) == {"memory": "failing"}
    assert codes(Machine(memory_stalled=19.9, io_stalled=19.9, cpu_waiting=100.0)) == {}
    assert codes(Machine(memory_stalled=20.0)) == {"memory-pressure": "degraded"}
    assert codes(Machine(io_stalled=60.0)) == {"disk-pressure": "failing"}
    assert codes(Machine(packets=199, packets_bad=199)) == {}
    assert codes(Machine(packets=200, packets_bad=4)) == {"network": "degraded"}
    assert codes(Machine(packets=200, packets_bad=3)) == {}


def test_a_gpu_counts_against_those_that_run_on_it() -> None:
    lost = Gpu(0, "GPU-1", "H200", 100, 0, fault="it answers no more")
    slow = Gpu(1, "GPU-2", "H200", 100, 50, throttled="it is too hot", temperature_c=95)
    hot = Gpu(2, "GPU-3", "H200", 100, 50, temperature_c=90)
    every = {one.code: one.level for one in gpu_findings([lost, slow, hot], "")}
    assert every == {"gpu": "failing", "gpu-throttled": "degraded", "gpu-hot": "degraded"}
    assert [one.code for one in gpu_findings([lost, slow, hot], "GPU-2")] == ["gpu-throttled"]
    assert not list(gpu_findings([Gpu(0, "GPU-1", "H200", 100, 0, temperature_c=89)], ""))


def test_what_requests_and_a_life_say_of_an_instance() -> None:
    def found(state: str, **fields: Any) -> dict[str, str]:
        service = Service(state, **{"slots": 1, "waiting": 0, **fields})
        return {one.code: one.level for one in service_findings(service)}

    assert found("ready") == {}
    assert found("starting") == {}
    assert found("starting", reason="it died") == {"engine": "failing"}
    assert found("ready", fault="its wall fell") == {"kept-out": "failing"}
    assert found("ready", silent_s=1.5) == {"silent": "failing"}
    assert found("ready", ejected_s=1.0) == {"ejected": "degraded"}
    assert found("ready", slots=2, waiting=8) == {"queue": "degraded"}
    assert found("ready", slots=2, waiting=7) == {}
    assert found("ready", lately=Counts(20, 1)) == {"errors": "degraded"}
    assert found("ready", lately=Counts(19, 1)) == {}
    assert found("ready", lately=Counts(4, 1, 1)) == {"errors": "failing"}
    assert found("ready", lately=Counts(3, 3)) == {}


def test_pressure_files_are_read_as_the_kernel_writes_them() -> None:
    text = "some avg10=1.50 avg60=2.00 avg300=0.10 total=5\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=1\n"
    assert pressure_of(text, "some", "avg60") == 2.0
    assert pressure_of(text, "full", "avg10") == 0.25
    assert pressure_of(text, "full", "avg5") is None
    assert pressure_of("full avg10=x", "full", "avg10") is None
    assert pressure_of("", "some", "avg10") is None
