"""Forecasts, from what nodes report to what is said: minute by minute, on a simulated clock."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import pytest
import structlog

from bridge_core import gauges
from bridge_core.config.alert_checks import Level
from bridge_core.counts import Counts
from bridge_core.gauges import Gauge
from bridge_core.logs.ecs_rules import Source, event_document
from bridge_core.snapshot import Instance, Node, Snapshot, Version, encode_entry
from bridge_core.traffic import AdmissionPolicy, Route, RoutePolicy
from bridge_registry.alerts.alert_rules import Seen
from bridge_registry.alerts.threshold_rules import RulePlan
from bridge_registry.forecasts import outlook_rules as rules
from bridge_registry.forecasts.forecast_log import EVERY_S, ForecastLog, firsts
from bridge_registry.forecasts.forecast_metrics import ForecastFigures
from bridge_registry.forecasts.forecaster import Forecaster
from bridge_registry.forecasts.reading_rules import Place
from bridge_registry.forecasts.series import MOST_OF_NODE, NOTHING, Forecast
from bridge_registry.health.keeper import Heard
from bridge_registry.health.reported import InstanceHealth, NodeHealthReport

GIB = 2.0**30
HOUR = 3600.0


class World:
    """Nodes `a` and `b` with an instance each, which report once a minute."""

    def __init__(self, lasting: Iterable[Seen] = ()) -> None:
        self.now, self.clock = 1_700_000_000.0, 50.0
        self.forecaster = Forecaster(lasting, self.clock)
        self.plans = list[RulePlan]()
        self.entries: dict[str, bytes] = {}
        for name in ("a", "b"):
            self.entries[f"node/{name}"] = encode_entry(Node(name, "h:1"))
            self.entries[f"instance/{name}/0"] = encode_entry(Instance(f"{name}/0", name, slots=2))
        self.gauges: dict[str, list[Gauge]] = {"a": [], "b": []}
        self.counts = {"a": Counts(), "b": Counts()}

    def minutes(self, count: int, *, fill: float = 0.0, pace: float = 0.0) -> None:
        """Minutes in which gauges of `b` grow by `fill`, and its streams make `pace` tokens a second."""
        for _ in range(count):
            for node, told in self.gauges.items():
                grown = [msgspec.structs.replace(one, value=one.value + fill * (node == "b")) for one in told]
                self.gauges[node] = grown
            self.counts["b"] = self.counts["b"].plus(Counts(1, tokens=int(100 * pace), generating_s=100.0))
            for _ in range(4):
                self._tick()

    def _tick(self) -> None:
        snapshot = Snapshot(Version(1, 1), self.entries)
        heard = {
            node: Heard(
                NodeHealthReport((InstanceHealth(f"{node}/0", (), self.counts[node]),), tuple(told)), 0.0
            )
            for node, told in self.gauges.items()
        }
        figure = self.forecaster.due(self.clock)
        assert figure
        self.forecaster.look(figure, snapshot, heard, self.plans, now=self.now, clock=self.clock)
        assert not self.forecaster.due(self.clock)
        self.now, self.clock = self.now + 15.0, self.clock + 15.0

    def of(self, figure: str) -> Forecast:
        (found,) = [one for one in self.forecaster.forecasts() if one.figure == figure]
        return found


def test_a_disk_that_fills_is_told_of_hours_before_it_is_full() -> None:
    world = World()
    world.gauges["a"] = [Gauge(gauges.DISK, "models", 50 * GIB, 100 * GIB)]
    world.gauges["b"] = [Gauge(gauges.DISK, "models", 50 * GIB, 100 * GIB)]
    world.minutes(100)
    assert not list(world.forecaster.seen())
    assert all(one.likely_s == math.inf for one in world.forecaster.forecasts())
    world.minutes(60, fill=0.2 * GIB)
    (seen,) = world.forecaster.seen()
    assert seen.id == "disk-will-fill@b:models"
    assert (seen.severity, seen.command, seen.well) == ("warning", "bridgectl forecast b", NOTHING)
    assert seen.summary.startswith("the disk of node b that has models will be full in 3 h (2 h to ")
    assert "GiB of 100 GiB now" in seen.summary
    first, *_ = world.forecaster.forecasts()
    assert first.place == Place("b", "", "models")
    assert first.hourly == pytest.approx(12 * GIB, rel=0.2)
    assert first.hour[0] < 74 * GIB < first.hour[2]
    assert first.earliest_s < 38 / 12 * HOUR < first.latest_s
    assert (first.raised, first.seasonal, first.watched_s) == (True, False, 160 * 60.0)
    metric, used = ForecastFigures(world.forecaster.forecasts, world.forecaster.fullest).collect()
    assert [(one.labels, one.value) for one in metric.samples] == [
        ({"node": "b", "figure": "disk_used_bytes"}, first.likely_s)
    ]
    ratios = {(one.labels["node"], one.labels["when"]): one.value for one in used.samples}
    assert ratios["a", "now"] == pytest.approx(0.5)
    assert ratios["b", "now"] == pytest.approx(first.value / first.limit)
    assert ratios["b", "hour"] == pytest.approx(first.hour[1] / first.limit)
    assert ratios["b", "hour_most"] == pytest.approx(first.hour[2] / first.limit)
    assert [one.place for one in firsts(world.forecaster.forecasts())] == [first.place]
    hit = world.forecaster.forecasts(hit=True)
    assert hit == [one for one in world.forecaster.forecasts() if one.likely_s < math.inf] == [first]
    world.minutes(120)
    assert not list(world.forecaster.seen()), "it does not fill any more"


def test_forecasts_are_told_to_the_log_now_and_then_and_the_first_of_a_node_alone() -> None:
    world, teller = World(), ForecastLog()
    world.gauges["b"] = [Gauge(gauges.VRAM, f"GPU-{at}", (40 + at) * GIB, 80 * GIB) for at in range(2)]
    with structlog.testing.capture_logs() as logs:
        teller.look(world.forecaster, world.clock)
        assert not logs, "nothing is to be told, and the first that is does not wait for that"
        world.minutes(40)
        world.minutes(60, fill=0.5 * GIB)
        teller.look(world.forecaster, world.clock)
        teller.look(world.forecaster, world.clock + EVERY_S - 1.0)
        (told,) = logs
        teller.look(world.forecaster, world.clock + EVERY_S)
        assert len(logs) == 2
    assert (told["event"], told["forecast_node"], told["forecast_of"]) == ("forecast", "b", "GPU-1")
    assert told["reason"].startswith("the memory of GPU GPU-1 of node b will be full in ")
    line = event_document(told, level="info", at=1.0, source=Source("bridge-registry", "r1", "1", 1))
    assert line["bridge.forecast.likely_s"] == told["forecast_likely_s"]
    assert line["bridge.forecast.figure"] == "vram_used_bytes"
    assert {name for name in line if name.startswith("labels.")} == {"labels.log_level"}


def test_memory_of_gpus_is_forecast_beside_that() -> None:
    world = World()
    world.gauges["b"] = [Gauge(gauges.VRAM, f"GPU-{at}", 40 * GIB, 80 * GIB) for at in range(2)]
    world.minutes(40)
    world.minutes(60, fill=0.5 * GIB)
    assert [one.id for one in world.forecaster.seen()] == [
        "vram-will-fill@b:GPU-0",
        "vram-will-fill@b:GPU-1",
    ]
    metric, used = ForecastFigures(world.forecaster.forecasts, world.forecaster.fullest).collect()
    assert len(used.samples) == 3
    assert len(metric.samples) == 1, "one for a node and a figure, however many GPUs there are"


def test_a_queue_is_full_where_the_strictest_route_or_a_rule_says() -> None:
    world = World()
    world.gauges["b"] = [Gauge(gauges.QUEUE, "b/0", 3.0), Gauge(gauges.QUEUE, "gone/0", 3.0)]
    world.minutes(20)
    assert world.of(gauges.QUEUE).limit == 2 * 128
    tight = RoutePolicy(admission=AdmissionPolicy(queue_per_slot=60))
    world.entries["route/x"] = encode_entry(Route("x", policy=tight))
    world.minutes(1)
    assert world.of(gauges.QUEUE).limit == 120
    rule = RulePlan("busy", gauges.QUEUE, True, Level(90.0), Level(80.0), 0.0, node_labels={"no": "such"})
    world.plans = [rule, msgspec.structs.replace(rule, paused=True, node_labels={})]
    world.minutes(1)
    assert world.of(gauges.QUEUE).limit == 120
    world.plans = [msgspec.structs.replace(rule, node_labels={}, threshold=Level(at)) for at in (95.0, 90.0)]
    world.minutes(40, fill=1.5)
    (seen,) = world.forecaster.seen()
    assert (seen.id, seen.moved) == ("queue-will-fill@b/0", True)
    assert "of 90 requests now" in seen.summary


def test_streams_that_become_slower_are_compared_with_a_rules_threshold() -> None:
    world = World()
    below = RulePlan("slow", gauges.TOKENS, False, Level(10.0), Level(12.0), 0.0)
    above = msgspec.structs.replace(below, above=True, threshold=Level(50.0))
    world.plans = [below, above]
    for at in range(60):
        world.minutes(1, pace=30.0 - 0.4 * max(0, at - 20))
    (seen,) = world.forecaster.seen()
    assert seen.id == "tokens-will-fall@b/0"
    assert "will be below 10 tokens/s in" in seen.summary
    assert world.of(gauges.TOKENS).hourly < -8.0
    world.plans = []
    for _ in range(2):
        world.minutes(1, pace=22.0)
    assert (world.of(gauges.TOKENS).limit, world.of(gauges.TOKENS).likely_s) == (0.0, math.inf)


def test_what_an_earlier_leader_raised_lasts_until_this_one_knows() -> None:
    words = "the disk will be full, somebody said"
    earlier = Seen("disk-will-fill", "warning", "b", "", words, "bridgectl forecast b", NOTHING, of="models")
    other = Seen("disk-will-fill", "warning", "b", "", words, "x", "y", of="else", rule=True)
    world = World([earlier, other])
    world.gauges["b"] = [Gauge(gauges.DISK, one, 70 * GIB, 100 * GIB) for one in ("models", "else")]
    world.minutes(rules.WARM - 1, fill=0.2 * GIB)
    assert [one.summary for one in world.forecaster.seen()] == [words]
    world.minutes(1, fill=0.2 * GIB)
    seen, *_ = world.forecaster.seen()
    assert seen.id == earlier.id
    assert "will be full in 2 h" in seen.summary
    world = World([earlier])
    world.gauges["b"] = [Gauge(gauges.DISK, "models", 70 * GIB, 100 * GIB)]
    world.minutes(rules.WARM + rules.CALM - 2)
    assert list(world.forecaster.seen())
    world.minutes(1)
    assert not list(world.forecaster.seen()), "it was mended meanwhile"


def test_of_who_is_gone_nothing_is_kept_and_who_is_silent_is_forgotten_after_a_day() -> None:
    world = World()
    world.gauges["a"] = [Gauge(gauges.DISK, "models", 50 * GIB, 100 * GIB)]
    world.gauges["b"] = [Gauge(gauges.DISK, "models", 50 * GIB, 100 * GIB), Gauge(gauges.QUEUE, "b/0", 1.0)]
    world.minutes(2)
    disks, queues = world.forecaster.series[gauges.DISK], world.forecaster.series[gauges.QUEUE]
    assert (len(disks), len(queues)) == (2, 1)
    del world.entries["instance/b/0"]
    world.minutes(1)
    assert (len(disks), len(queues)) == (2, 0)
    del world.entries["node/b"]
    del world.gauges["b"]
    world.minutes(1)
    assert len(disks) == 1
    world.gauges["a"] = []
    world.minutes(rules.DAY)
    assert len(disks) == 1
    world.minutes(1)
    assert len(disks) == 0


def test_a_node_that_makes_up_series_hides_its_own_alone_and_breaks_nothing() -> None:
    world = World()
    world.gauges["a"] = [
        Gauge(gauges.DISK, str(at), 1e30, 1e-300 if at else 0.0) for at in range(5 * MOST_OF_NODE)
    ]
    world.gauges["b"] = [Gauge(gauges.DISK, "models", 50 * GIB, 100 * GIB)]
    world.minutes(rules.WARM)
    assert len(world.forecaster.series[gauges.DISK]) == MOST_OF_NODE + 1
    found = world.forecaster.forecasts()
    assert all(math.isfinite(one.value) and all(map(math.isfinite, one.hour)) for one in found)


def test_who_was_held_up_makes_up_for_nothing() -> None:
    world = World()
    world.gauges["b"] = [Gauge(gauges.DISK, "models", 50 * GIB, 100 * GIB)]
    world.minutes(1)
    snapshot, late = Snapshot(Version(1, 1), world.entries), world.clock + 10 * HOUR
    for _ in range(len(rules.FIGURES)):
        world.forecaster.look(world.forecaster.due(late), snapshot, {}, (), now=world.now, clock=late)
    assert world.forecaster.due(late + 59.0) == ""
    assert world.forecaster.due(late + 60.0)
