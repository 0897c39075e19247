"""The life of a request at its limits: the last attempt, the deadline's moment, the hedge's room."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import (
    CARRY_ON,
    FailedAttempt,
    GiveUp,
    Hold,
    Phase,
    RequestLife,
    Try,
)
from bridge_agent.routing.view import Target
from bridge_core.traffic import Retries

PEERS = tuple(Target(f"{name}/0", name, False, f"{name}:1", True) for name in "abcd")
OWN = tuple(Target(f"me/{at}", "me", True, f"me:{at}", True) for at in range(4))
SPARE = tuple(msgspec.structs.replace(target, id=f"{target.id}-stable") for target in PEERS)
LATE = "deadline exceeded"


def begun(
    candidates: tuple[Target, ...] = PEERS,
    deadline: float | None = None,
    *,
    attempts: int = 3,
    spare: tuple[Target, ...] = (),
) -> tuple[RequestLife, Try]:
    life = RequestLife(candidates, deadline, Retries(attempts), spare)
    tried = life.start(0.0)
    assert isinstance(tried, Try)
    life.validate()
    return life, tried


def instance(step: object) -> str:
    return step.target.id if isinstance(step, Try) else ""


def fail(life: RequestLife, tried: Try, failure: Failure = Failure.TIMEOUT, **more: Any) -> Any:
    step = life.failed(tried, failure, "no", more.pop("now", 1.0), **more)
    life.validate()
    return step


def test_what_a_life_begins_with() -> None:
    life = RequestLife(PEERS, 9.0, Retries(), SPARE)
    assert (life.phase, life.running, life.rival, life.count) == (Phase.FRESH, None, None, 0)
    assert (life.turned, life.failed_attempts, life.deadline) == (False, (), 9.0)
    life.validate()
    tried = Try(PEERS[0], 5.0)
    assert (tried.began, tried.spare, tried.hold, tried.since, tried.suspect) == (
        5.0,
        False,
        Hold.NOTHING,
        0.0,
        False,
    )


@pytest.mark.parametrize(("now", "starts"), [(4.9, True), (5.0, False), (5.1, False)])
def test_nothing_begins_at_the_deadline_or_after(now: float, starts: bool) -> None:
    life = RequestLife(PEERS, 5.0, Retries())
    step = life.start(now)
    assert isinstance(step, Try) is starts
    assert life.phase is (Phase.TRYING if starts else Phase.FRESH)
    assert life.count == int(starts)
    if not starts:
        assert step == GiveUp(504, LATE)
    assert isinstance(RequestLife(PEERS, None, Retries()).start(1e12), Try)


@pytest.mark.parametrize(("now", "moves"), [(4.9, True), (5.0, False)])
def test_nothing_moves_on_at_the_deadline(now: float, moves: bool) -> None:
    for failure in (Failure.TIMEOUT, Failure.CONNECT):
        life, tried = begun(deadline=5.0)
        step = fail(life, tried, failure, now=now)
        assert instance(step) == ("b/0" if moves else "")
        assert moves or step == GiveUp(504, LATE)
        life, tried = begun(deadline=5.0)
        assert bool(life.hedge_due(now, allowed=True)) is moves


@pytest.mark.parametrize(("attempts", "tries"), [(0, 1), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
@pytest.mark.parametrize("failure", [Failure.TIMEOUT, Failure.REFUSED])
def test_there_are_as_many_tries_as_attempts_and_candidates(
    failure: Failure, attempts: int, tries: int
) -> None:
    life, step = begun(attempts=attempts)
    names = []
    while isinstance(step, Try):
        names.append(step.target.id)
        may = life.may_move(step, failure)
        step = fail(life, step, failure)
        assert may is isinstance(step, Try)
    assert names == [one.id for one in PEERS[:tries]]
    assert life.count == tries
    assert step == GiveUp(503 if failure is Failure.REFUSED else 504, "no")
    assert len(life.failed_attempts) == tries


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Failure.CONNECT, 502),
        (Failure.CUT, 502),
        (Failure.TIMEOUT, 504),
        (Failure.REFUSED, 503),
        (Failure.SERVER_ERROR, 502),
        (Failure.ANSWERED_500, 502),
    ],
)
def test_how_a_request_is_given_up(failure: Failure, status: int) -> None:
    life, tried = begun(PEERS[:1])
    assert not life.may_move(tried, failure)
    assert fail(life, tried, failure) == GiveUp(status, "no")
    assert life.running is None
    assert life.failed_attempts == (FailedAttempt("a/0", 0.0, failure, "no"),)
    nobody = RequestLife((), None, Retries()).start(0.0)
    assert isinstance(nobody, GiveUp)
    assert nobody.status == 503


@pytest.mark.parametrize(
    ("failure", "unbudgeted"),
    [
        (Failure.CONNECT, True),
        (Failure.CUT, True),
        (Failure.SERVER_ERROR, True),
        (Failure.ANSWERED_500, True),
        (Failure.TIMEOUT, False),
        (Failure.REFUSED, False),
    ],
)
def test_what_the_budget_holds_back(failure: Failure, unbudgeted: bool) -> None:
    life, tried = begun()
    assert life.may_move(tried, failure, allowed=False) is unbudgeted
    assert isinstance(fail(life, tried, failure, allowed=False), Try) is unbudgeted


def test_failures_to_connect_are_none_of_the_attempts() -> None:
    life, tried = begun(attempts=1)
    step: Any = tried
    for at in range(3):
        step = fail(life, step, Failure.CONNECT)
        assert instance(step) == PEERS[at + 1].id
    assert not life.may_move(step, Failure.CONNECT)
    life, tried = begun(attempts=2)
    step = fail(life, tried, Failure.CONNECT)
    step = fail(life, step, Failure.TIMEOUT)
    assert instance(step) == "c/0"
    assert isinstance(fail(life, step, Failure.TIMEOUT), GiveUp)


@pytest.mark.parametrize(
    ("candidates", "first", "second", "third"),
    [
        (PEERS, Failure.SERVER_ERROR, Failure.SERVER_ERROR, False),
        (PEERS, Failure.SERVER_ERROR, Failure.ANSWERED_500, False),
        (PEERS, Failure.SERVER_ERROR, Failure.CUT, True),  # a peer's link, not its engine
        (PEERS, Failure.SERVER_ERROR, Failure.TIMEOUT, True),
        (PEERS, Failure.TIMEOUT, Failure.SERVER_ERROR, True),
        (OWN, Failure.CUT, Failure.CUT, False),
        (OWN, Failure.CUT, Failure.CONNECT, True),
        (PEERS, Failure.CUT, Failure.CUT, True),
    ],
)
def test_a_request_that_engines_die_of_moves_on_once(
    candidates: tuple[Target, ...], first: Failure, second: Failure, third: bool
) -> None:
    life, tried = begun(candidates, attempts=9)
    step = fail(life, fail(life, tried, first), second)
    assert isinstance(step, Try) is third
    if not third:
        assert "failed on" in step.message
        assert all(target.id in step.message for target in candidates[:2])
        assert step.status == 502


def test_only_one_that_engines_died_of_is_named() -> None:
    life, tried = begun(PEERS[:2])
    step = fail(life, fail(life, tried, Failure.SERVER_ERROR), Failure.REFUSED)
    assert step == GiveUp(503, "no")
    life, tried = begun(PEERS[:2])
    assert fail(life, fail(life, tried, Failure.REFUSED), Failure.SERVER_ERROR) == GiveUp(502, "no")


@pytest.mark.parametrize(
    ("failure", "turns"),
    [
        (Failure.CUT, True),
        (Failure.SERVER_ERROR, True),
        (Failure.ANSWERED_500, True),
        (Failure.CONNECT, False),
        (Failure.TIMEOUT, False),
        (Failure.REFUSED, False),
    ],
)
def test_what_an_engine_on_trial_failed_goes_to_the_spare(failure: Failure, turns: bool) -> None:
    life, tried = begun(PEERS[:2], spare=SPARE[:2])
    step = fail(life, tried, failure)
    assert instance(step) == ("a/0-stable" if turns else "b/0")
    assert (life.turned, step.spare) == (turns, turns)
    alone, tried = begun(PEERS[:1], spare=SPARE[:2])
    assert alone.may_move(tried, failure) is turns
    step = fail(alone, tried, failure)
    assert instance(step) == ("a/0-stable" if turns else "")
    if turns:
        again = fail(alone, step, Failure.TIMEOUT)
        assert (instance(again), again.spare) == ("b/0-stable", True)
        assert not alone.may_move(again, Failure.CUT), "there is no third backend"


@pytest.mark.parametrize("place", [False, True])
def test_a_wait_is_from_the_queue_to_the_slot(place: bool) -> None:
    life, tried = begun()
    if place:
        life.queued(tried, 2.0)
        assert (tried.hold, tried.since) == (Hold.PLACE, 2.0)
    assert life.admitted(tried, 5.0) == (3.0 if place else 0.0)
    assert (tried.hold, tried.since) == (Hold.SLOT, 5.0)
    waits, other = begun()
    waits.queued(other, 2.0)
    assert waits.left(other, 6.0) == 4.0
    assert other.hold is Hold.NOTHING


@pytest.mark.parametrize("hold", Hold)
@pytest.mark.parametrize("failure", [Failure.TIMEOUT, Failure.CUT])
def test_an_engine_is_suspect_where_it_had_a_slot_and_said_nothing(hold: Hold, failure: Failure) -> None:
    life, tried = begun()
    tried.hold = hold
    fail(life, tried, failure)
    assert tried.suspect is (hold is Hold.SLOT and failure is Failure.TIMEOUT)


@pytest.mark.parametrize(
    ("candidates", "attempts", "allowed", "hedged"),
    [
        (PEERS, 3, True, True),
        (PEERS[:2], 2, True, True),
        (PEERS[:1], 3, True, False),
        (PEERS, 1, True, False),
        (PEERS, 3, False, False),
    ],
)
def test_when_a_hedge_has_room(
    candidates: tuple[Target, ...], attempts: int, allowed: bool, hedged: bool
) -> None:
    life, tried = begun(candidates, attempts=attempts)
    rival = life.hedge_due(1.0, allowed=allowed)
    assert instance(rival) == ("b/0" if hedged else "")
    assert life.rival is rival
    assert life.count == (2 if hedged else 1)
    life.validate()
    if hedged:
        assert rival is not None
        assert rival.began == 1.0
        assert life.hedge_due(2.0, allowed=True) is None, "one hedge a request"
        assert life.tries(tried)
        assert life.tries(rival)
        assert life.may_move(tried, Failure.TIMEOUT, allowed=False), "the other one still runs"


def test_a_hedge_comes_before_an_answer_and_beside_the_first_try_alone() -> None:
    life, tried = begun()
    fail(life, tried)
    assert life.hedge_due(1.0, allowed=True) is None
    life, tried = begun()
    life.answered(tried)
    assert life.hedge_due(1.0, allowed=True) is None
    assert RequestLife(PEERS, None, Retries()).hedge_due(1.0, allowed=True) is None


def test_a_hedge_is_one_of_the_attempts_and_without_a_trace_once_withdrawn() -> None:
    life, tried = begun(attempts=2)
    rival = life.hedge_due(1.0, allowed=True)
    assert rival is not None
    assert fail(life, tried) is CARRY_ON
    assert (life.running, life.rival) == (rival, None)
    assert isinstance(fail(life, rival), GiveUp)
    life, tried = begun(attempts=2)
    life.hedge_due(1.0, allowed=True)
    life.hedge_withdrawn()
    life.validate()
    assert (life.count, life.rival, life.running) == (1, None, tried)
    assert instance(fail(life, tried)) == "b/0"
    life, tried = begun(attempts=3)
    life.hedge_due(1.0, allowed=True)
    life.hedge_withdrawn()
    assert life.hedge_due(2.0, allowed=True) is not None


def test_after_a_hedge_the_next_candidate_is_the_third() -> None:
    for loser in (0, 1):
        life, tried = begun(attempts=3)
        rival = life.hedge_due(1.0, allowed=True)
        assert rival is not None
        pair = (tried, rival)
        assert fail(life, pair[loser]) is CARRY_ON
        assert life.running is pair[1 - loser]
        assert not life.tries(pair[loser])
        assert instance(fail(life, pair[1 - loser])) == "c/0"


@pytest.mark.parametrize("winner", [0, 1])
@pytest.mark.parametrize("hold", Hold)
def test_of_two_the_other_is_let_go_and_may_be_busy_where_it_had_a_slot(winner: int, hold: Hold) -> None:
    life, tried = begun()
    rival = life.hedge_due(1.0, allowed=True)
    assert rival is not None
    pair = (tried, rival)
    pair[1 - winner].hold = hold
    other = life.answered(pair[winner])
    assert other is pair[1 - winner]
    assert (life.running, life.rival, life.phase) == (pair[winner], None, Phase.ANSWERED)
    assert other.suspect is (hold is Hold.SLOT)
    assert not life.tries(pair[winner]), "it answered"
    life.validate()


def test_an_answer_alone_lets_nobody_go() -> None:
    life, tried = begun()
    assert life.answered(tried) is None
    assert (life.running, life.phase) == (tried, Phase.ANSWERED)
    assert not life.may_move(tried, Failure.CONNECT)
    stranger = Try(PEERS[0], 0.0)
    assert not begun()[0].tries(stranger)


@pytest.mark.parametrize("hold", [Hold.SLOT, Hold.NOTHING])
@pytest.mark.parametrize("silent", [False, True])
def test_a_stream_that_died_is_continued_once(silent: bool, hold: Hold) -> None:
    life, tried = begun()
    assert not life.died(tried, "x", silent=silent, continuable=True), "no answer has begun"
    life.answered(tried)
    tried.hold = hold
    assert not life.died(tried, "x", silent=silent, continuable=False)
    assert (life.phase, life.failed_attempts, tried.suspect) == (Phase.ANSWERED, (), False)
    assert life.died(tried, "x", silent=silent, continuable=True)
    assert (life.phase, life.running) == (Phase.CONTINUED, None)
    assert life.failed_attempts == (FailedAttempt("a/0", 0.0, Failure.CUT, "x"),)
    assert tried.suspect is (silent and hold is Hold.SLOT)
    assert not life.died(tried, "x", silent=silent, continuable=True)
    rest = FailedAttempt("b/0", 2.0, Failure.TIMEOUT)
    life.rest_failed(rest)
    assert life.failed_attempts[1:] == (rest,)
    life.validate()


@pytest.mark.parametrize("abandoned", [False, True])
@pytest.mark.parametrize("answered", [False, True])
def test_the_end_lets_everything_go(answered: bool, abandoned: bool) -> None:
    life, tried = begun()
    tried.hold = Hold.SLOT
    rival = life.hedge_due(1.0, allowed=True)
    assert rival is not None
    rival.hold = Hold.PLACE
    if answered:
        life.answered(tried)
    life.settled(abandoned=abandoned)
    life.validate()
    assert (life.phase, life.running, life.rival) == (Phase.SETTLED, None, None)
    assert (tried.suspect, rival.suspect) == (abandoned and not answered, False)
    assert not life.may_move(tried, Failure.CONNECT)
    assert not life.tries(tried)


@pytest.mark.parametrize("answered", [False, True])
def test_a_deadline_that_passes_before_an_answer_fails_both_tries(answered: bool) -> None:
    life, tried = begun()
    life.hedge_due(1.0, allowed=True)
    if answered:
        life.answered(tried)
    life.expired()
    found = [(one.instance, one.failure, one.detail) for one in life.failed_attempts]
    late = [("a/0", Failure.TIMEOUT, LATE), ("b/0", Failure.TIMEOUT, LATE)]
    assert found == ([] if answered else late)


def broken(**changes: Any) -> RequestLife:
    life, _ = begun()
    for name, value in changes.items():
        setattr(life, name, value)
    return life


HELD = Try(PEERS[0], 0.0)
QUEUED = Try(PEERS[0], 0.0)
QUEUED.hold = Hold.PLACE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"phase": Phase.SETTLED}, "after its end"),
        ({"phase": Phase.CONTINUED}, "after its end"),
        ({"phase": Phase.ANSWERED, "rival": HELD}, "beside nothing"),
        ({"running": None, "rival": HELD}, "beside nothing"),
        ({"running": HELD, "rival": HELD}, "beside itself"),
        ({"phase": Phase.FRESH, "running": None}, "before it began"),
        ({"phase": Phase.ANSWERED, "running": QUEUED}, "it waits with an answer"),
        ({"_at": 4}, "nobody is tried"),
        ({"_at": -1}, "nobody is tried"),
        ({"_retries": 3}, "tried too often"),
        ({"_tries": 0, "_retries": 1}, "tried too often"),
        ({"_blamed": 2}, "died of it too often"),
    ],
)
def test_what_never_may_be_is_told(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RuntimeError, match=says):
        broken(**changes).validate()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"running": QUEUED},
        {"rival": HELD},
        {"phase": Phase.ANSWERED},
        {"phase": Phase.SETTLED, "running": None},
        {"_at": 3},
        {"_candidates": (), "_at": 0},
        {"_retries": 2},
        {"_tries": 0, "_retries": 0},
        {"_blamed": 1},
        {"count": 0, "_retries": 9, "phase": Phase.FRESH, "running": None},
    ],
)
def test_what_may_be_is_not_told(changes: dict[str, Any]) -> None:
    broken(**changes).validate()
