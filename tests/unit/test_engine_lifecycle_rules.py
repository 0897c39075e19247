"""The engine's life, as decided: by example, and under any order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge_agent.engines.lifecycle_rules import (
    TRANSITIONS,
    Adopted,
    Answered,
    Drain,
    Exited,
    Generated,
    Hung,
    Launch,
    LaunchFailed,
    Lifecycle,
    Phase,
    Policy,
    ProbeFailed,
    Start,
    Stop,
    Terminate,
    Tick,
    step,
)

POLICY = Policy(start_timeout_s=10.0, missed_probes=2, stable_s=60.0, backoff_first_s=1.0, backoff_most_s=8.0)


def run(state: Lifecycle, *events, now: float = 0.0, jitter: float = 0.0):
    """The state after the events, and the names of all effects."""
    effects = []
    for event in events:
        state, wanted = step(state, event, now, jitter=jitter, policy=POLICY)
        state.validate()
        effects += [type(effect).__name__ for effect in wanted]
    return state, effects


READY, _ = run(Lifecycle(), Start(), Answered())
ATTACHED, _ = run(Lifecycle(owned=False), Start(), Answered())


def test_start_launches_and_an_answer_makes_ready():
    state, effects = run(Lifecycle(), Start())
    assert (state.phase, effects, state.wake_at) == (Phase.STARTING, ["Launch"], 10.0)
    assert run(state, Answered())[0].phase is Phase.READY


def test_an_adopted_process_is_not_launched_again():
    state, effects = run(Lifecycle(), Adopted(), Answered())
    assert (state.phase, effects) == (Phase.READY, [])


def test_a_start_without_an_answer_in_time_is_replaced():
    starting, _ = run(Lifecycle(), Start())
    early, effects = run(starting, Tick(), now=9.9)
    assert (early.phase, effects) == (Phase.STARTING, [])
    late, effects = run(starting, Tick(), now=10.0)
    assert (late.phase, effects) == (Phase.REPLACING, ["Terminate"])
    after, effects = run(late, Exited("killed by SIGKILL"), now=12.0)
    assert (after.phase, effects) == (Phase.BACKOFF, [])
    assert "did not answer within 10 s" in after.reason


def test_backoff_doubles_is_capped_and_jittered_over_its_upper_half():
    now, pauses = 0.0, []
    state, _ = run(Lifecycle(), Start())
    for _ in range(6):
        state, _ = run(state, Exited("exited with status 1"), now=now, jitter=1.0)
        pauses.append(state.wake_at - now)
        assert run(state, Tick(), now=state.wake_at - 0.01)[1] == []
        now = state.wake_at
        state, effects = run(state, Tick(), now=now)
        assert effects == ["Launch"]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    starting, _ = run(Lifecycle(), Start())
    assert run(starting, LaunchFailed("missing"), jitter=0.0)[0].wake_at == 0.5


def test_a_failure_after_a_stable_time_is_a_first_one_again():
    worn = Lifecycle(Phase.READY, since=0.0, failures=5, reason="earlier")
    assert run(worn, Exited("x"), now=59.9)[0].failures == 6
    assert run(worn, Exited("x"), now=60.0)[0].failures == 1


def test_missed_probes_in_a_row_replace_and_an_answer_between_forgives():
    once, effects = run(READY, ProbeFailed("silent"))
    assert (once.phase, effects) == (Phase.READY, [])
    assert run(once, Answered(), ProbeFailed("silent"))[0].phase is Phase.READY
    twice, effects = run(once, ProbeFailed("silent"))
    assert (twice.phase, effects, twice.reason) == (Phase.REPLACING, ["Terminate"], "silent")


def test_a_hang_replaces_at_once():
    state, effects = run(READY, Hung("m does not generate"))
    assert (state.phase, effects) == (Phase.REPLACING, ["Terminate"])


def test_an_attached_engine_is_only_distrusted():
    gone, effects = run(ATTACHED, ProbeFailed("x"), ProbeFailed("x"))
    assert (gone.phase, effects) == (Phase.STARTING, [])
    assert run(gone, Answered())[0].phase is Phase.READY


def test_an_attached_engine_that_hung_needs_to_generate_again():
    hung, effects = run(ATTACHED, Hung("m does not generate"))
    assert (hung.phase, effects) == (Phase.STARTING, [])
    assert run(hung, Answered())[0].phase is Phase.STARTING
    assert run(hung, Generated(), Answered())[0].phase is Phase.READY
    assert run(hung, Stop(), Start(), Answered())[0].phase is Phase.READY


def test_drain_keeps_the_process_until_it_is_stopped():
    draining, effects = run(READY, Drain())
    assert (draining.phase, effects) == (Phase.DRAINING, [])
    stopping, effects = run(draining, Stop())
    assert (stopping.phase, effects) == (Phase.STOPPING, ["Terminate"])
    stopped, effects = run(stopping, Exited("exited with status 0"))
    assert (stopped.phase, effects) == (Phase.STOPPED, [])


def test_a_drain_can_be_taken_back():
    assert run(READY, Drain(), Start())[0].phase is Phase.READY


def test_wanted_again_while_stopping_waits_for_the_end_first():
    state, effects = run(READY, Stop(), Start())
    assert (state.phase, effects) == (Phase.REPLACING, ["Terminate"])
    assert run(state, Exited("exited with status 0"))[0].phase is Phase.BACKOFF


@pytest.mark.parametrize("phase", list(Phase))
def test_stop_leads_out_of_every_phase(phase):
    if phase in {Phase.STOPPING, Phase.STOPPED}:
        return
    assert (phase, Stop) in TRANSITIONS


EVENTS = [
    Start(),
    Answered(),
    ProbeFailed("silent"),
    Hung("does not generate"),
    Generated(),
    Drain(),
    Stop(),
    Tick(),
]


class EngineLife(RuleBasedStateMachine):
    """A world with one engine: whatever is asked of it in whatever order, it stays possible."""

    owned = True

    def __init__(self):
        super().__init__()
        self.state = Lifecycle(owned=self.owned)
        self.now = 0.0
        self.alive = False
        self.ending = False

    def feed(self, event, jitter=0.5):
        before = self.state
        self.state, effects = step(before, event, self.now, jitter=jitter, policy=POLICY)
        for effect in effects:
            if isinstance(effect, Launch):
                assert not self.alive, "two processes at once"
                self.alive = True
            if isinstance(effect, Terminate):
                assert self.alive, "ended what is not there"
                assert not self.ending, "ended twice"
                self.ending = True

    @rule(event=st.sampled_from(EVENTS), jitter=st.floats(0, 1, exclude_max=True))
    def anything_happens(self, event, jitter):
        self.feed(event, jitter)

    @precondition(lambda self: self.owned and self.state.phase is Phase.ABSENT)
    @rule()
    def an_earlier_process_is_found(self):
        self.alive = True
        self.feed(Adopted())

    @precondition(lambda self: self.alive)
    @rule()
    def the_process_ends(self):
        self.alive = self.ending = False
        self.feed(Exited("exited with status 1"))

    @precondition(lambda self: self.alive and self.state.phase is Phase.STARTING)
    @rule()
    def the_launch_fails(self):
        self.alive = self.ending = False
        self.feed(LaunchFailed("missing"))

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds):
        self.now += seconds
        self.feed(Tick())

    @invariant()
    def possible(self):
        self.state.validate()
        assert self.state.has_process == self.alive
        assert self.state.wake_at is None or self.state.wake_at <= self.now + POLICY.start_timeout_s

    @invariant()
    def someone_acts_next(self):
        """Nothing waits for ever: a sick or unwanted process is being ended."""
        if self.state.phase in {Phase.REPLACING, Phase.STOPPING}:
            assert self.ending

    @invariant()
    def an_attached_engine_is_left_alone(self):
        assert self.owned or not self.alive


class AttachedLife(EngineLife):
    owned = False


TestOwnedEngineLife = EngineLife.TestCase
TestAttachedEngineLife = AttachedLife.TestCase
TestOwnedEngineLife.settings = TestAttachedEngineLife.settings = settings(
    max_examples=60, stateful_step_count=30
)
