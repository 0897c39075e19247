"""Loads of models: one for all who wait, in turn, going on without them; and what is expected of them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge_agent.gateway.loading_words import loading_comment, loading_line, loading_value, waited_in
from bridge_agent.loading.load_options import LoadOptions, load_options
from bridge_agent.loading.load_rules import (
    ColdModels,
    InstanceLoads,
    ModelLoad,
)
from bridge_core.snapshot import LoadingModel


def load_of(model: str = "a", size: int = 0, options: LoadOptions | None = None) -> ModelLoad[str]:
    return ModelLoad(model, options or LoadOptions(), f"{model}:latest", size, embedding=False)


def test_whoever_asks_while_it_is_loaded_waits_for_the_same_load() -> None:
    loads = InstanceLoads[str]()
    assert loads.join(load_of(), "first", 0.0)
    begun = loads.begin(1.0)
    assert begun is not None
    assert begun.begun == 1.0
    assert loads.join(load_of(), "second", 2.0)
    assert loads.begin(2.0) is None
    assert loads.ended(5.0, loaded=True) == ("first", "second")
    assert loads.running is None


def test_a_load_that_began_goes_on_when_everybody_left() -> None:
    loads = InstanceLoads[str]()
    loads.join(load_of(), "only", 0.0)
    begun = loads.begin(0.0)
    loads.leave("only")
    assert loads.running is begun
    loads.join(load_of(), "next", 1.0)
    assert loads.ended(2.0, loaded=True) == ("next",)


def test_one_that_did_not_begin_goes_with_the_last_who_waits() -> None:
    loads = InstanceLoads[str]()
    loads.join(load_of("a"), "x", 0.0)
    loads.begin(0.0)
    loads.join(load_of("b"), "y", 0.0)
    loads.join(load_of("b"), "z", 0.0)
    loads.leave("y")
    assert loads.waiting == 1
    loads.leave("z")
    assert loads.waiting == 0
    loads.ended(1.0, loaded=True)
    assert loads.begin(1.0) is None


def test_loads_of_an_instance_come_one_after_another_in_the_order_in_which_they_were_asked_for() -> None:
    loads = InstanceLoads[str]()
    for model in "abc":
        loads.join(load_of(model), model, 0.0)
    order = []
    while (begun := loads.begin(0.0)) is not None:
        assert loads.begin(0.0) is None
        order.append(begun.key.model)
        loads.ended(0.0, loaded=False)
    assert order == ["a", "b", "c"]


def test_other_runner_options_are_another_load() -> None:
    loads = InstanceLoads[str]()
    longer = load_options(b'{"options": {"num_ctx": 8192, "temperature": 0.5}}')
    assert longer is not None
    loads.join(load_of(), "x", 0.0)
    loads.begin(0.0)
    loads.join(load_of(options=longer), "y", 0.0)
    assert loads.ended(1.0, loaded=True) == ("x",)
    begun = loads.begin(1.0)
    assert begun is not None
    assert msgspec.to_builtins(begun.options) == {"options": {"num_ctx": 8192}}


def test_nobody_waits_for_what_was_loaded_a_moment_ago() -> None:
    loads = InstanceLoads[str]()
    loads.join(load_of(), "x", 0.0)
    loads.begin(0.0)
    loads.ended(1.0, loaded=True)
    assert not loads.join(load_of(), "y", 1.0 + 3.0 - 0.01)
    assert loads.join(load_of(), "y", 1.0 + 3.0)


def test_what_was_unloaded_since_is_waited_for_again() -> None:
    loads = InstanceLoads[str]()
    for model in "ab":
        loads.join(load_of(model), "x", 0.0)
        loads.begin(0.0)
        loads.ended(1.0, loaded=True)
    loads.unloaded("a")
    assert loads.join(load_of("a"), "y", 1.0)
    assert not loads.join(load_of("b"), "y", 1.0)


def test_after_a_failure_the_next_one_tries_again() -> None:
    loads = InstanceLoads[str]()
    loads.join(load_of(), "x", 0.0)
    loads.begin(0.0)
    assert loads.ended(1.0, loaded=False) == ("x",)
    assert loads.join(load_of(), "y", 1.0)
    assert loads.expected_s("a", 0) == 0.0


def test_loads_that_wait_are_bounded() -> None:
    loads = InstanceLoads[str]()
    for number in range(32):
        assert loads.join(load_of(f"m{number}"), f"w{number}", 0.0)
    assert not loads.join(load_of("one more"), "w", 0.0)
    assert loads.join(load_of("m0"), "w", 0.0)


def test_what_is_remembered_is_bounded() -> None:
    loads = InstanceLoads[str]()
    for number in range(256 + 5):
        loads.join(load_of(f"m{number}"), "w", float(number))
        loads.begin(float(number))
        loads.ended(number + 0.5, loaded=True)
    assert len(loads._took) == 256
    assert loads.expected_s("m0", 0) == 0.0
    assert loads.expected_s(f"m{256 + 4}", 0) == pytest.approx(0.5)


def test_a_load_is_expected_to_take_what_its_last_one_took_else_its_size_at_the_pace_of_the_others() -> None:
    loads = InstanceLoads[str]()
    assert loads.expected_s("a", 1000) == 0.0
    loads.join(load_of("a", size=1000), "x", 0.0)
    loads.begin(10.0)
    assert loads.rest_s(11.0) == 0.0  # nobody knows
    loads.ended(14.0, loaded=True)
    assert loads.expected_s("a", 1000) == pytest.approx(4.0)
    assert loads.expected_s("b", 500) == pytest.approx(2.0)
    loads.join(load_of("b", size=500), "y", 20.0)
    loads.begin(20.0)
    assert loads.rest_s(20.5) == pytest.approx(1.5)
    assert loads.rest_s(30.0) == 0.0
    loads.ended(30.0, loaded=True)  # at 50 bytes a second
    assert loads.expected_s("c", 350) == pytest.approx(350 / (250 + (50 - 250) * 0.3))


def test_what_was_no_load_teaches_nothing_of_how_long_loads_take() -> None:
    loads = InstanceLoads[str]()
    loads.join(load_of("chat", size=1000), "x", 0.0)
    loads.begin(0.0)
    loads.ended(4.0, loaded=True)
    refused = load_of("embeds", size=1000)  # asked to chat: its engine said no after a millisecond
    loads.join(refused, "x", 10.0)
    assert loads.begin(10.0) is refused
    refused.refused = True
    assert loads.ended(10.5, loaded=True) == ("x",)
    assert loads.join(load_of("embeds", size=1000), "y", 10.6), "nor is it in memory now"
    loads.begin(10.6)
    loads.ended(10.601, loaded=True)  # it had been there all the time
    for model in ("embeds", "other"):
        assert loads.expected_s(model, 1000) == pytest.approx(4.0)


def test_a_load_that_hangs_is_given_up_in_a_time_that_fits_its_size() -> None:
    assert load_of(size=4 << 30).longest_s == pytest.approx(300 + 256)
    assert load_of(size=0).longest_s == load_of(size=1 << 50).longest_s == 3600.0


def test_who_waits_for_a_load_that_has_not_begun_awaits_its_turn() -> None:
    loads = InstanceLoads[str]()
    loads.join(load_of("a"), "x", 0.0)
    loads.join(load_of("b"), "y", 0.0)
    loads.begin(0.0)
    assert [loads.awaits_its_turn(who) for who in ("x", "y", "nobody")] == [False, True, False]


class Loads(RuleBasedStateMachine):
    """Any order of joining, leaving, beginning and ending."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = InstanceLoads[int]()
        self.now = 0.0
        self.waits: dict[int, str] = {}
        self.next = 0

    @rule(model=st.sampled_from("abc"))
    def join(self, model: str) -> None:
        self.next += 1
        if self.loads.join(ModelLoad(model, LoadOptions(), model, 1, embedding=False), self.next, self.now):
            self.waits[self.next] = model

    @rule(at=st.integers(0, 20))
    @precondition(lambda self: self.waits)
    def leave(self, at: int) -> None:
        gone = list(self.waits)[at % len(self.waits)]
        self.loads.leave(gone)
        del self.waits[gone]

    @rule()
    def begin(self) -> None:
        self.loads.begin(self.now)

    @rule(loaded=st.booleans())
    def end(self, loaded: bool) -> None:
        running = self.loads.running
        told = self.loads.ended(self.now, loaded=loaded)
        expected = {one for one, model in self.waits.items() if running and model == running.key.model}
        assert set(told) == expected
        for one in told:
            del self.waits[one]

    @rule(seconds=st.floats(0.0, 5.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def everybody_who_waits_is_known_once(self) -> None:
        running = self.loads.running
        of_running = list(running.waiters) if running is not None else []
        of_waiting = [one for load in self.loads._waiting.values() for one in load.waiters]
        assert sorted(of_running + of_waiting) == sorted(self.waits)
        assert all(load.waiters for load in self.loads._waiting.values())
        assert running is None or running.key not in self.loads._waiting


TestLoads = Loads.TestCase


# -- what of a request makes it another load


@pytest.mark.parametrize(
    ("body", "encoded"),
    [
        (b"{}", b"{}"),
        (b'{"options": null, "shift": null}', b"{}"),
        (b'{"options": {"temperature": 1, "seed": 3}}', b"{}"),
        (b'{"options": {"num_ctx": 10, "use_mmap": false}, "shift": false}',
         b'{"options":{"num_ctx":10,"use_mmap":false},"shift":false}'),
        (b'{"options": {"use_mmap": false, "num_ctx": 10}}', b'{"options":{"num_ctx":10,"use_mmap":false}}'),
    ],
)  # fmt: skip
def test_what_a_body_says_of_its_load(body: bytes, encoded: bytes) -> None:
    options = load_options(body)
    assert options is not None
    assert options.encoded() == encoded


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"options": []}',
        b'{"options": {"num_ctx": "10"}}',
        b'{"options": {"num_ctx": 9007199254740993}}',
        b'{"options": {"num_gpu": -9007199254740993}}',
        b'{"shift": 1}',
        b"[" * 5000,
        b'{"options": {"num_ctx": 1e999}}',
    ],
)
def test_a_body_that_cannot_be_read_is_for_its_engine_to_refuse(body: bytes) -> None:
    assert load_options(body) is None


# -- where a burst meets


def test_requests_for_a_cold_model_are_remembered_for_a_moment_from_the_first_on() -> None:
    cold = ColdModels()
    assert cold.instance("m", 0.0) == ""
    cold.sent("m", "a/0", 0.0)
    cold.sent("m", "a/0", 4.0)  # does not prolong it
    assert cold.instance("m", 4.99) == "a/0"
    assert cold.instance("m", 5.0) == ""
    cold.sent("m", "b/0", 6.0)
    assert cold.instance("m", 6.0) == "b/0"
    cold.sent("m", "c/0", 6.5)  # b failed, it went on to c
    assert cold.instance("m", 7.0) == "c/0"


def test_cold_models_are_bounded() -> None:
    cold = ColdModels()
    for number in range(5000):
        cold.sent(f"m{number}", "a/0", 0.0)
    assert len(cold._sent) == 1024
    assert cold.instance("m4999", 0.0) == "a/0"


# -- what is told


def test_progress_is_what_earlier_loads_make_likely_and_never_all() -> None:
    load = LoadingModel("m", 1000.0, 40.0)
    assert load.progress(1010.0) == 0.25
    assert load.rest_s(1010.0) == 30.0
    assert load.progress(990.0) == 0.0  # a clock that is behind
    assert load.rest_s(990.0) == 40.0
    assert load.progress(2000.0) == 0.99
    assert load.rest_s(2000.0) == 0.0
    assert LoadingModel("m", 1000.0).progress(1010.0) == 0.0


def test_the_field_says_how_long_an_answer_waited_and_how_far_a_load_is() -> None:
    assert loading_line(4.2131) == b"x-bridge-loading: waited=4.213\r\n"
    assert waited_in(b"waited=4.213") == 4.213
    load = LoadingModel("m", 1000.0, 40.0)
    assert loading_value(20.0, load, 1010.0) == b"waited=20.0, progress=0.25, rest=30.0"
    assert loading_value(20.0, LoadingModel("m", 1000.0), 1010.0) == b"waited=20.0"
    assert loading_value(20.0, None, 1010.0) == b"waited=20.0"
    assert loading_comment("m", load, 1010.0) == b": loading m, about 25%, 30 s more\n\n"
    assert loading_comment("m", None, 1010.0) == b": loading m\n\n"


@pytest.mark.parametrize(
    "value",
    [None, b"", b"waited=", b"waited=1", b"waited=-1.0", b"waited=1.0\r\nx: y", b"waited=1234567890.0"],
)
def test_what_else_a_peer_says_of_a_load_is_nothing(value: bytes | None) -> None:
    assert waited_in(value) == 0.0


def test_a_load_of_unknown_size_has_the_longest_time_and_says_nothing_of_the_pace() -> None:
    assert load_of(size=0).longest_s == 3600.0
    assert load_of(size=1).longest_s < 301.0
    loads = InstanceLoads[str]()
    for model, size in (("one", 1), ("none", 0)):
        loads.join(load_of(model, size), "ann", 0.0)
        loads.begin(0.0)
        loads.ended(4.0, loaded=True)
    assert loads.expected_s("two", 2) == 8.0
