"""The life of one request as a pure machine: whom it is tried on, what it holds, when it is over."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import (
    CARRY_ON,
    FailedAttempt,
    GiveUp,
    Hold,
    Phase,
    RequestLife,
    Step,
    Try,
)
from bridge_agent.routing.view import Target
from bridge_core.traffic import Retries

PEERS = tuple(Target(f"{name}/0", name, False, f"{name}:1", True) for name in "abcd")
OWN = tuple(Target(f"me/{number}", "me", True, f"me:{number}", True) for number in range(4))
SPARE = tuple(msgspec.structs.replace(target, id=f"{target.id}-stable") for target in PEERS)


def begun(
    candidates: tuple[Target, ...] = PEERS,
    deadline: float | None = None,
    *,
    attempts: int = 3,
    spare: tuple[Target, ...] = (),
) -> tuple[RequestLife, Try]:
    life = RequestLife(candidates, deadline, Retries(attempts), spare)
    return life, sent(life.start(0.0))


def sent(step: Step | None) -> Try:
    assert isinstance(step, Try)
    return step


def after(life: RequestLife, tried: Try, failure: Failure, *, now: float = 1.0, allowed: bool = True) -> Step:
    step = life.failed(tried, failure, "no", now, allowed=allowed)
    life.validate()
    return step


def test_connect_failures_go_through_all_candidates() -> None:
    life, tried = begun()
    for target in PEERS[1:]:
        tried = sent(after(life, tried, Failure.CONNECT))
        assert tried.target is target
    assert after(life, tried, Failure.CONNECT) == GiveUp(502, "no")
    assert [one.instance for one in life.failed_attempts] == [target.id for target in PEERS]


@pytest.mark.parametrize(
    ("failure", "tries"),
    [(Failure.CUT, 3), (Failure.REFUSED, 3), (Failure.TIMEOUT, 3), (Failure.SERVER_ERROR, 2)],
)
def test_other_failures_are_tried_as_often_as_the_policy_says(failure: Failure, tries: int) -> None:
    life, tried = begun(attempts=3)
    for number in range(1, tries):
        assert life.may_move(tried, failure)
        tried = sent(after(life, tried, failure))
        assert tried.target is PEERS[number]
    assert not life.may_move(tried, failure)
    assert isinstance(after(life, tried, failure), GiveUp)


@pytest.mark.parametrize("failures", [(Failure.CUT, Failure.CUT), (Failure.CUT, Failure.SERVER_ERROR)])
def test_a_request_that_two_engines_died_of_is_not_sent_to_a_third_and_is_named(
    failures: tuple[Failure, ...],
) -> None:
    mixed = (OWN[0], OWN[1], PEERS[0]) if failures[1] is Failure.CUT else (OWN[0], PEERS[0], PEERS[1])
    life, tried = begun(mixed)
    step = after(life, sent(after(life, tried, failures[0])), failures[1])
    assert isinstance(step, GiveUp)
    assert "the request failed on" in step.message
    assert all(target.id in step.message for target in mixed[:2])


def test_a_link_that_was_cut_is_no_death_of_an_engine() -> None:
    life, tried = begun()
    tried = sent(after(life, tried, Failure.CUT))
    tried = sent(after(life, tried, Failure.CUT))
    assert after(life, tried, Failure.CUT) == GiveUp(502, "no")


@pytest.mark.parametrize(
    "failure", [Failure.CONNECT, Failure.CUT, Failure.SERVER_ERROR, Failure.ANSWERED_500]
)
def test_without_budget_what_a_death_dropped_still_moves_on(failure: Failure) -> None:
    life, tried = begun()
    assert sent(after(life, tried, failure, allowed=False)).target is PEERS[1]


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.TIMEOUT])
def test_without_budget_what_overload_made_stays(failure: Failure) -> None:
    life, tried = begun()
    step = after(life, tried, failure, allowed=False)
    assert isinstance(step, GiveUp)
    assert step.status == (503 if failure is Failure.REFUSED else 504)


@given(st.sampled_from(Failure))
def test_nothing_is_tried_again_once_an_answer_began(failure: Failure) -> None:
    life, tried = begun()
    life.answered(tried)
    assert not life.may_move(tried, failure)
    assert not life.died(tried, "died", silent=False, continuable=False)


def test_nothing_is_tried_after_the_deadline() -> None:
    assert RequestLife(PEERS, 5.0, Retries()).start(5.0) == GiveUp(504, "deadline exceeded")
    life, tried = begun(deadline=5.0)
    assert after(life, tried, Failure.CONNECT, now=5.0) == GiveUp(504, "deadline exceeded")


def test_what_the_deadline_ended_is_recorded() -> None:
    life, tried = begun(deadline=5.0)
    life.admitted(tried, 0.0)
    rival = sent(life.hedge_due(1.0, allowed=True))
    life.expired()
    assert [one.instance for one in life.failed_attempts] == ["a/0", "b/0"]
    life.settled(abandoned=True)
    assert (tried.suspect, rival.suspect) == (True, False)


def test_without_candidates_it_is_unavailable() -> None:
    step = RequestLife((), None, Retries()).start(0.0)
    assert isinstance(step, GiveUp)
    assert step.status == 503


@pytest.mark.parametrize("spare", [(), SPARE], ids=["alone", "with a spare"])
@given(failures=st.lists(st.sampled_from(Failure), max_size=12))
def test_every_run_ends_and_no_instance_is_tried_twice(
    spare: tuple[Target, ...], failures: list[Failure]
) -> None:
    life, first = begun(spare=spare)
    step: Step = first
    tried = []
    for failure in [*failures, *[Failure.CUT] * 8]:
        if not isinstance(step, Try):
            break
        tried.append(step.target.id)
        step = after(life, step, failure)
    assert isinstance(step, GiveUp)
    assert len(tried) == len(set(tried)) == life.count


@pytest.mark.parametrize("failure", [Failure.CUT, Failure.SERVER_ERROR, Failure.ANSWERED_500])
def test_what_an_engine_on_trial_failed_is_made_good_by_the_spare(failure: Failure) -> None:
    life, tried = begun(spare=SPARE)
    assert life.may_move(tried, failure)
    tried = sent(after(life, tried, failure))
    assert (tried.target, tried.spare, life.turned) == (SPARE[0], True, True)
    tried = sent(after(life, tried, Failure.CONNECT))
    assert (tried.target, tried.spare, life.count) == (SPARE[1], True, 3)


def test_a_single_instance_on_trial_has_a_spare_too() -> None:
    life, tried = begun(PEERS[:1], spare=SPARE[:1])
    assert not life.may_move(tried, Failure.REFUSED)
    tried = sent(after(life, tried, Failure.ANSWERED_500))
    assert tried.target is SPARE[0]
    assert isinstance(after(life, tried, Failure.ANSWERED_500), GiveUp)


@pytest.mark.parametrize("failure", [Failure.CONNECT, Failure.REFUSED, Failure.TIMEOUT])
def test_what_is_no_fault_of_the_engine_stays_with_the_backend(failure: Failure) -> None:
    life, tried = begun(spare=SPARE)
    tried = sent(after(life, tried, failure))
    assert (tried.target, tried.spare) == (PEERS[1], False)


# -- holds


def test_a_wait_is_measured_from_the_queue_to_the_slot() -> None:
    life, tried = begun(OWN)
    assert life.admitted(tried, 1.0) == 0.0
    life, tried = begun(OWN)
    life.queued(tried, 1.0)
    assert tried.hold is Hold.PLACE
    assert life.admitted(tried, 3.5) == 2.5
    assert (tried.hold, tried.since) == (Hold.SLOT, 3.5)


@pytest.mark.parametrize(
    ("failure", "suspect"), [(Failure.TIMEOUT, True), (Failure.CUT, False), (Failure.REFUSED, False)]
)
def test_only_an_engine_that_said_nothing_may_still_be_busy(failure: Failure, suspect: bool) -> None:
    life, tried = begun(OWN)
    life.admitted(tried, 0.0)
    after(life, tried, failure)
    assert tried.suspect is suspect


@pytest.mark.parametrize("answered", [True, False])
def test_a_slot_that_was_abandoned_is_suspect_until_its_engine_spoke(answered: bool) -> None:
    life, tried = begun(OWN)
    life.admitted(tried, 0.0)
    if answered:
        life.answered(tried)
    life.settled(abandoned=True)
    assert tried.suspect is not answered


# -- hedges


def hedged(**options: int) -> tuple[RequestLife, Try, Try]:
    life, first = begun(OWN, **options)  # type: ignore[arg-type]  # attempts alone
    life.admitted(first, 0.0)
    rival = sent(life.hedge_due(1.0, allowed=True))
    life.validate()
    life.admitted(rival, 1.0)
    return life, first, rival


@pytest.mark.parametrize("winner", [0, 1])
def test_whoever_answers_first_is_the_answer_and_the_other_may_still_be_busy(winner: int) -> None:
    life, *tries = hedged()
    other = tries[1 - winner]
    assert life.answered(tries[winner]) is other
    life.validate()
    assert (life.running, other.suspect, life.count) == (tries[winner], True, 2)
    life.settled(abandoned=False)
    assert not tries[winner].suspect


@pytest.mark.parametrize("loser", [0, 1])
def test_when_one_fails_the_other_goes_on_as_the_only_one(loser: int) -> None:
    life, *tries = hedged()
    assert life.may_move(tries[loser], Failure.ANSWERED_500, allowed=False)
    assert after(life, tries[loser], Failure.CUT) is CARRY_ON
    assert life.running is tries[1 - loser]
    assert life.rival is None
    # What follows is a third one, nobody is asked again behind himself.
    assert sent(after(life, tries[1 - loser], Failure.REFUSED)).target is OWN[2]


def test_a_hedge_is_one_of_the_policys_attempts() -> None:
    life, first = begun(attempts=1)
    assert life.hedge_due(1.0, allowed=True) is None
    life, first, rival = hedged(attempts=2)
    after(life, first, Failure.REFUSED)
    assert isinstance(after(life, rival, Failure.REFUSED), GiveUp)


def test_there_is_no_hedge_without_room_for_it() -> None:
    assert begun(OWN)[0].hedge_due(1.0, allowed=False) is None
    assert begun(OWN[:1])[0].hedge_due(1.0, allowed=True) is None
    assert begun(OWN, 1.0)[0].hedge_due(1.0, allowed=True) is None
    life, first = begun(OWN)
    after(life, first, Failure.CUT)
    assert life.hedge_due(1.0, allowed=True) is None


def test_a_hedge_that_could_not_be_sent_leaves_no_trace() -> None:
    life, first = begun(OWN)
    life.hedge_due(1.0, allowed=True)
    life.hedge_withdrawn()
    life.validate()
    assert (life.count, life.running, life.rival) == (1, first, None)
    assert sent(after(life, first, Failure.REFUSED)).target is OWN[1]


# -- streams that die


def test_a_stream_is_continued_once_and_its_death_recorded() -> None:
    life, tried = begun(OWN)
    life.admitted(tried, 0.0)
    assert not life.died(tried, "early", silent=False, continuable=True)
    life.answered(tried)
    assert life.died(tried, "cut", silent=False, continuable=True)
    life.validate()
    assert not tried.suspect
    assert not life.died(tried, "again", silent=False, continuable=True)
    assert life.failed_attempts == (FailedAttempt("me/0", 0.0, Failure.CUT, "cut"),)
    life.rest_failed(FailedAttempt("me/1", 2.0, Failure.CUT))
    assert len(life.failed_attempts) == 2


def test_an_engine_that_went_silent_may_still_be_busy() -> None:
    life, tried = begun(OWN)
    life.admitted(tried, 0.0)
    life.answered(tried)
    assert life.died(tried, "silent", silent=True, continuable=True)
    assert tried.suspect


class AnyOrder(RuleBasedStateMachine):
    """Any events in any order that can come; the test keeps the books that an agent would."""

    @initialize(
        own=st.integers(0, 3),
        peers=st.integers(0, 3),
        spare=st.booleans(),
        attempts=st.integers(1, 5),
        deadline=st.one_of(st.none(), st.floats(0.0, 20.0)),
    )
    def begins(self, own: int, peers: int, spare: bool, attempts: int, deadline: float | None) -> None:
        self.now = 0.0
        self.candidates = OWN[:own] + PEERS[:peers]
        self.life = RequestLife(
            self.candidates, deadline, Retries(attempts), SPARE[:2] if spare and self.candidates else ()
        )
        self.held: list[Try] = []  # that the agent has not let go
        self.answers = 0
        self.bytes = False
        self.tried: list[str] = []
        self.follow(self.life.start(0.0))

    def follow(self, step: Step) -> None:
        if isinstance(step, Try):
            assert not self.bytes
            self.tried.append(step.target.id)
            self.held.append(step)
        elif isinstance(step, GiveUp):
            self.end()
            self.answers += 1

    def let_go(self, tried: Try | None) -> None:
        if tried is not None:
            self.held.remove(tried)
            assert not tried.suspect or tried.hold is Hold.SLOT
            tried.hold = Hold.NOTHING

    def end(self, *, abandoned: bool = False) -> None:
        running = [tried for tried in (self.life.running, self.life.rival) if tried is not None]
        self.life.settled(abandoned=abandoned)
        for tried in running:
            self.let_go(tried)

    def pick(self, which: int) -> Try:
        return self.held[which % len(self.held)]

    trying = precondition(lambda self: self.life.phase is Phase.TRYING)
    answering = precondition(lambda self: self.life.phase is Phase.ANSWERED)

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @trying
    @rule(which=st.integers(0, 1))
    def waits(self, which: int) -> None:
        tried = self.pick(which)
        if tried.hold is Hold.NOTHING:
            self.life.queued(tried, self.now)

    @trying
    @rule(which=st.integers(0, 1))
    def gets_a_slot(self, which: int) -> None:
        tried = self.pick(which)
        if tried.hold is not Hold.SLOT:
            assert self.life.admitted(tried, self.now) >= 0

    @trying
    @rule(allowed=st.booleans(), withdrawn=st.booleans())
    def is_slow(self, allowed: bool, withdrawn: bool) -> None:
        rival = self.life.hedge_due(self.now, allowed=allowed)
        if rival is not None and withdrawn:
            self.life.hedge_withdrawn()
        elif rival is not None:
            self.follow(rival)

    @trying
    @rule(which=st.integers(0, 1), failure=st.sampled_from(Failure), allowed=st.booleans())
    def fails(self, which: int, failure: Failure, allowed: bool) -> None:
        tried = self.pick(which)
        step = self.life.failed(tried, failure, "no", self.now, allowed=allowed)
        self.let_go(tried)
        self.follow(step)

    @trying
    @rule(which=st.integers(0, 1))
    def answers_come(self, which: int) -> None:
        tried = self.pick(which)
        if tried.hold is not Hold.PLACE:
            self.let_go(self.life.answered(tried))
            assert self.held == [tried]
            self.bytes = True

    @answering
    @rule(continuable=st.booleans(), silent=st.booleans())
    def breaks_off(self, continuable: bool, silent: bool) -> None:
        tried = self.held[0]
        if self.life.died(tried, "cut", silent=silent, continuable=continuable):
            self.let_go(tried)
        else:
            self.end()
            self.answers += 1

    @precondition(lambda self: self.life.phase in (Phase.ANSWERED, Phase.CONTINUED))
    @rule()
    def is_whole(self) -> None:
        self.end()
        self.answers += 1

    @precondition(lambda self: self.life.phase is not Phase.SETTLED)
    @rule(late=st.booleans())
    def is_ended(self, late: bool) -> None:
        if late:
            self.life.expired()
            self.answers += 1
        self.end(abandoned=True)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "life"):
            return
        self.life.validate()
        assert self.answers <= 1
        assert len(self.tried) == len(set(self.tried)) == self.life.count
        assert len(self.held) <= 2
        if self.life.phase is Phase.SETTLED:
            assert self.held == []
        blamed = [one for one in self.life.failed_attempts if one.failure is Failure.ANSWERED_500]
        assert len(blamed) <= 3  # a hedge's may be one of them


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=20)
