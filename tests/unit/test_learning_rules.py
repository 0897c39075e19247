"""Thresholds that learn: what they notice, what they leave alone, and what they say of it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_core.counts import BOUNDS, Counts
from bridge_core.gauges import Gauge
from bridge_core.snapshot import Instance, MemberModel
from bridge_registry.alerts import learning_rules as rules
from bridge_registry.alerts.learner import Learner
from bridge_registry.alerts.learning_rules import Floats, Kinds, Sample, State
from bridge_registry.alerts.series_rules import FEWEST, LONGEST, Growing, loads, windows

pytestmark = pytest.mark.timeout(300)  # thousands of windows, on a machine that does much else

WINDOW = rules.WINDOW_S
DAY = 86_400.0


def kinds(series: int, *, sign: float = 1.0) -> Kinds:
    """Series of one figure of one model, each on a node of its own."""
    return Kinds(np.full(series, sign), np.zeros(series, dtype=np.int64), np.arange(series))


class Watch:
    """Feeds windows, and remembers when each series was first raised."""

    def __init__(self, kinds: Kinds, *, now: float = 0.0, seed: int = 1) -> None:
        self.kinds, self.now = kinds, now
        self.rng = np.random.default_rng(seed)
        self.state: State = rules.empty(len(kinds.sign), now)
        self.alarms = 0

    def feed(self, values: Floats | list[float], *, requests: float = 10.0, load: float = 0.0) -> None:
        """One window; `values` are no logarithms."""
        self.now += WINDOW
        many = len(self.kinds.sign)
        before = self.state.raised
        sample = Sample(np.log(np.array(values)), np.full(many, requests), np.full(many, load))
        self.state = rules.step(self.state, self.kinds, sample, self.now)
        self.alarms += int((self.state.raised & ~before).sum())

    def noisy(self, windows: int, values: list[float], **more: float) -> None:
        for _ in range(windows):
            self.feed(np.array(values) * np.exp(self.rng.normal(0.0, 0.1, len(values))), **more)

    def until_raised(self, at: int, values: list[float], most: int = 100) -> int:
        """After how many windows the series is raised."""
        for count in range(1, most + 1):
            self.noisy(1, values)
            if self.state.raised[at]:
                return count
        return most + 1


def learnt(series: int = 3, *, sign: float = 1.0) -> Watch:
    watch = Watch(kinds(series, sign=sign))
    watch.noisy(150, [0.2] * series)
    assert watch.alarms == 0
    return watch


def test_three_times_the_latency_of_one_node_is_raised_after_as_few_windows_as_can_be() -> None:
    watch = learnt()
    assert watch.until_raised(1, [0.2, 0.6, 0.2]) == rules.PERSIST
    assert list(watch.state.raised) == [False, True, False]
    assert list(rules.compared(watch.state, watch.kinds)) == [False, True, False]


def test_few_tokens_a_second_are_bad_and_many_are_not() -> None:
    watch = learnt(sign=-1.0)
    assert watch.until_raised(1, [0.6, 0.06, 0.2]) == rules.PERSIST
    assert list(watch.state.raised) == [False, True, False]


def test_less_than_a_half_more_is_no_matter_for_ever_and_neither_is_a_window_here_and_there() -> None:
    watch = learnt()
    watch.noisy(100, [0.2, 0.27, 0.2])
    for at in range(100):
        watch.noisy(1, [0.2, 0.2, 2.0 if at % 10 == 0 else 0.2])
    assert watch.alarms == 0


def test_what_the_others_of_the_model_show_too_is_no_nodes_fault() -> None:
    watch = learnt(4)
    watch.noisy(60, [0.6, 0.6, 0.6, 0.6])
    assert watch.alarms == 0
    alone = Watch(msgspec.structs.replace(kinds(2), group=np.arange(2)))
    alone.noisy(300, [0.2, 0.2])
    assert alone.until_raised(0, [0.6, 0.6]) == rules.PERSIST, "another model's nodes are no excuse"
    assert not rules.compared(alone.state, alone.kinds).any()


def test_windows_without_anything_neither_raise_nor_clear() -> None:
    watch = learnt()
    for _ in range(rules.PERSIST):
        watch.noisy(1, [0.2, 0.6, 0.2])
        for _ in range(5):
            watch.feed([math.nan] * 3)
    assert watch.state.raised[1]
    evidence = watch.state.evidence[1]
    for _ in range(50):
        watch.feed([math.nan] * 3)
    assert watch.state.evidence[1] == evidence
    watch.noisy(20, [0.2, 0.2, 0.2])
    assert not watch.state.raised.any()


def test_it_is_over_when_the_evidence_is_used_up_and_not_before() -> None:
    watch = learnt()
    watch.until_raised(1, [0.2, 0.6, 0.2])
    since = watch.state.since[1]
    assert since == watch.now - (rules.PERSIST - 1) * WINDOW
    watch.noisy(1, [0.2, 0.2, 0.2])
    assert watch.state.raised[1], "one good window proves nothing"
    assert watch.state.since[1] == since


def test_few_requests_say_little() -> None:
    watch, sparse = learnt(), learnt()
    for _ in range(rules.PERSIST):
        watch.feed([0.2, 0.6, 0.2], requests=200.0)
        sparse.feed([0.2, 0.6, 0.2], requests=1.0)
    assert watch.state.raised[1]
    assert not sparse.state.raised[1]


def test_each_load_has_a_level_of_its_own_and_nothing_is_said_of_one_that_is_new() -> None:
    watch = Watch(kinds(1))
    watch.noisy(200, [0.2], load=0.1)
    watch.noisy(50, [2.0], load=0.9)
    assert watch.alarms == 0
    watch.noisy(200, [2.0], load=0.9)
    assert watch.alarms == 0
    for _ in range(10):
        watch.noisy(1, [2.0], load=0.1)
    assert watch.state.raised[0], "what is right while it is busy is wrong while it is not"


def test_a_load_that_nobody_can_have_is_the_highest_there_is() -> None:
    watch = Watch(kinds(1))
    for load, place in ((1e32, rules.LOADS - 1), (-1.0, 0), (math.nan, 0)):
        before = int(watch.state.told[0, place])
        watch.feed([1.0], load=load)
        assert watch.state.told[0, place] == before + 1


def test_a_node_with_many_instances_leaves_the_others_their_series() -> None:
    learner = Learner(0.0)
    made_up = {f"a/{at}": Instance(f"a/{at}", "a") for at in range(2000)}
    learner.look({**made_up, "z/0": Instance("z/0", "z")}, {}, {}, 5.0)
    assert learner.series[0] == 128 + 2


def test_a_fault_is_not_learnt_and_a_change_that_stays_is() -> None:
    watch = learnt()
    level = watch.state.level[1, 0]
    watch.noisy(int(rules.FREEZE_S / WINDOW) - 60, [0.2, 0.6, 0.2])
    assert watch.state.raised[1]
    assert watch.state.level[1, 0] == pytest.approx(level, abs=0.05)
    watch.noisy(700, [0.2, 0.6, 0.2])
    assert not watch.state.raised[1]
    assert watch.state.level[1, 0] == pytest.approx(math.log(0.6), abs=0.2)


def test_the_hour_of_the_day_counts_after_three_days_and_that_of_the_week_after_two_weeks() -> None:
    state = rules.empty(1, 0.0)
    level, told = np.zeros((1, rules.LOADS)), np.full((1, rules.LOADS), 10_000)
    many = np.full((1, 168), 10_000)
    state = msgspec.structs.replace(
        state, level=level, told=told, spread=np.full(1, 0.1),
        of_day=np.ones((1, 24)), day_told=many[:, :24], of_week=np.full((1, 168), 2.0), week_told=many,
    )  # fmt: skip
    for now, left in ((3 * DAY - 1, 0.0), (3 * DAY, 1.0), (14 * DAY - 1, 1.0), (14 * DAY, 2.0)):
        sample = Sample(np.array([5.0]), np.array([10.0]), np.zeros(1))
        assert rules.step(state, kinds(1), sample, now).residual[0] == 5.0 - left


def test_what_an_hour_adds_is_learnt() -> None:
    watch = Watch(kinds(1))
    for day in range(8):
        for hour in (2, 3, 4, 12):
            watch.now = day * DAY + hour * 3600.0
            watch.noisy(40, [0.27 if hour == 12 else 0.2])
    assert watch.state.of_day[0, 12] - watch.state.of_day[0, 3] > 0.2
    assert watch.alarms == 0


def test_the_budget_decides_how_much_is_needed() -> None:
    assert rules.needed(6) == pytest.approx(rules.MARGIN * math.log(6 * 120_960))
    assert rules.needed(60) > rules.needed(6)
    assert rules.needed(6, 100.0) < rules.needed(6, 1.0)
    assert rules.needed(0) > 0.0


@settings(max_examples=25)
@given(
    st.lists(
        st.lists(st.one_of(st.floats(1e-6, 1e6), st.just(math.nan)), min_size=2, max_size=2), max_size=40
    )
)
def test_whatever_comes_numbers_stay_numbers_and_groups_do_not_mix(rows: list[list[float]]) -> None:
    apart = msgspec.structs.replace(kinds(2), group=np.arange(2))
    both, alone = Watch(apart), Watch(kinds(2))
    for row in rows:
        both.feed(row)
        alone.feed([row[0], math.nan])
    assert np.isfinite(both.state.evidence).all()
    assert (both.state.evidence >= 0.0).all()
    assert not np.isinf(both.state.level).any()
    assert both.state.evidence[0] == alone.state.evidence[0]
    np.testing.assert_array_equal(both.state.level[0], alone.state.level[0])


def test_series_come_and_go() -> None:
    watch = learnt(2)
    more = rules.grown(watch.state, 1, watch.now)
    assert list(more.told[:, 0] > 0) == [True, True, False]
    back = rules.chosen(more, [1])
    assert back.level[0, 0] == watch.state.level[1, 0]
    assert back.of_week.shape == (1, 168)


# -- windows


def answered(many: int, at: int = 20, *, pace: float = 10.0) -> Counts:
    return Counts(
        many,
        ttft=(0,) * at + (many,),
        ttft_s=many * BOUNDS[at],
        tokens=int(100 * many),
        generating_s=100 * many / pace,
    )


def test_a_window_of_few_answers_grows_until_there_are_enough() -> None:
    state, over = windows({}, {"n/0": answered(100)})
    assert not over
    state, over = windows(state, {"n/0": answered(100 + FEWEST - 1)})
    assert not over
    assert state["n/0"] == Growing(answered(100), 1)
    state, over = windows(state, {"n/0": answered(100 + FEWEST)})
    assert over["n/0"].answers == FEWEST
    assert over["n/0"].of("slow-first-byte") == math.log(BOUNDS[20])
    assert over["n/0"].of("slow-tokens") == pytest.approx(math.log(10.0))
    assert state["n/0"] == Growing(answered(100 + FEWEST))


def test_an_instance_that_is_hardly_used_is_never_judged_and_one_that_began_anew_begins_anew() -> None:
    state, over = windows({}, {"n/0": answered(5)})
    for at in range(3 * LONGEST):
        state, over = windows(state, {"n/0": answered(6 + at // LONGEST)})
        assert not over
    state, over = windows(state, {"n/0": answered(2)})
    assert not over
    assert state["n/0"] == Growing(answered(2))


def test_a_load_is_of_the_slots_and_of_who_waits() -> None:
    told = [
        Gauge("in_flight", "n/0", 3.0, 4.0),
        Gauge("queue", "n/0", 2.0),
        Gauge("in_flight", "n/1", 1.0),
        Gauge("queue", "x", 9.0),
    ]
    assert loads(told) == {"n/0": 1.25, "n/1": 1.0}


# -- the learner


class Fleet:
    """Three nodes with one model; `slow` of them takes three times as long."""

    def __init__(self) -> None:
        models = (MemberModel("m", "sha256:1"),)
        self.instances = {f"n{at}/0": Instance(f"n{at}/0", f"n{at}", models=models) for at in range(3)}
        self.done = {id_: Counts() for id_ in self.instances}
        self.learner = Learner(0.0)
        self.now = 0.0

    def run(self, windows: int, slow: str = "") -> None:
        for _ in range(windows):
            self.now += WINDOW
            for id_ in self.instances:
                more = answered(10, 25, pace=3.0) if id_ == slow else answered(10)
                self.done[id_] = self.done.get(id_, Counts()).plus(more)
            self.learner.look(self.instances, self.done, {}, self.now)


def test_a_slow_node_is_named_with_what_changed_and_by_how_much() -> None:
    fleet = Fleet()
    fleet.run(300)
    assert list(fleet.learner.seen()) == []
    assert fleet.learner.series == (6, 6)
    fleet.run(rules.PERSIST, slow="n1/0")
    found = {one.name: one for one in fleet.learner.seen()}
    assert found.keys() == {"slow-first-byte", "slow-tokens"}
    assert {one.instance for one in found.values()} == {"n1/0"}
    assert found["slow-tokens"].summary == (
        "n1/0 makes one token where 3.3 are usual for it at this load, and others of its model do not"
    )
    assert found["slow-first-byte"].summary.startswith(
        "n1/0 takes 3.1 times as long to a first byte as is usual"
    )
    assert all(one.moved for one in found.values())
    fleet.run(30)
    assert list(fleet.learner.seen()) == []


def test_of_an_instance_that_is_gone_nothing_is_kept_and_a_new_one_is_learnt_anew() -> None:
    fleet = Fleet()
    fleet.run(300)
    del fleet.instances["n0/0"]
    fleet.instances["n9/0"] = msgspec.structs.replace(fleet.instances["n1/0"], id="n9/0", node="n9")
    fleet.run(1)
    assert fleet.learner.series == (6, 4)
    fleet.run(rules.PERSIST + 1, slow="n1/0")
    assert {one.instance for one in fleet.learner.seen()} == {"n1/0"}
    fleet.instances.clear()
    fleet.run(1)
    assert fleet.learner.series == (0, 0)
