"""The life of one request: where it is tried, what it holds there, and when it is over. Pure.

Rules:
1. Nothing is tried again once an answer began; a stream that died may be continued, once.
2. A failure to connect, where nothing was sent, moves on to the next candidate each time; another
   failure moves on until the policy's attempts are used up. After a failure that the request itself may be
   to blame for (its engine died or answered an error) it moves on once only: a request that engines die
   of must not go through the mesh. Where there are spare candidates (another backend's, while this one
   is on trial), a failure of the engine moves on to them.
3. No attempt begins after the deadline. An attempt that took too long for itself (`per_try`) is a
   failure like others, one that used up the whole deadline is the end.
4. The retry budget holds back what overload makes: refusals and time-outs, which retries make worse.
   A death drops all requests of an instance at once, on a small mesh far more than a budget's share,
   and each of them is moved. That makes no storm: no more is moved than the dead one had, each request
   no more often than rule 2 lets it, and where it goes the queue is bounded, whose refusals the budget
   does hold back.
5. A hedge is a second attempt beside the first, and one of the policy's attempts. Whichever answers first
   is the answer; the other is let go. Where one of them fails, the other goes on as the only one.
6. Every attempt that failed is recorded.

Transitions (anything else is a fault of the caller's):

    phase      event                       next       to be done
    ---------  --------------------------  ---------  ------------------------------------------------
    FRESH      start, nobody to ask, late  FRESH      `GiveUp`
    FRESH      start                       TRYING     the `Try`: have it admitted there
    TRYING     queued                      TRYING     wait; the try has a place in the queue
    TRYING     admitted                    TRYING     send; the try has a slot, or needs none
    TRYING     left                        TRYING     it lost its place, which is told as failed
    TRYING     hedge_due                   TRYING     the rival `Try`, or nothing
    TRYING     hedge_withdrawn             TRYING     let the rival go; as if it had not been
    TRYING     failed, another one runs    TRYING     let it go; `CARRY_ON`
    TRYING     failed, may move on         TRYING     let it go; the next `Try`
    TRYING     failed                      TRYING     let it go; `GiveUp`
    TRYING     answered                    ANSWERED   let the rival go
    ANSWERED   died, may be continued      CONTINUED  let it go; seek the rest
    ANSWERED   died                        ANSWERED   tell the client in the stream
    any        settled                     SETTLED    let everything go
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

import msgspec

from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.view import Target
from bridge_core.traffic import Retries

BLAMED: Final = 1  # retries after a failure that the request may be to blame for
_ENGINE_FAILED: Final = frozenset({Failure.SERVER_ERROR, Failure.ANSWERED_500, Failure.NOT_LOADED})
# Failures of an engine that had begun on the request.
_SPOILED: Final = frozenset({Failure.CUT}) | _ENGINE_FAILED
UNBUDGETED: Final = frozenset({Failure.CONNECT}) | _SPOILED
"""Failures after which a request moves on whatever the retry budget says (rule 4)."""
_STATUS: Final = {Failure.REFUSED: 503, Failure.TIMEOUT: 504, Failure.NOT_LOADED: 500}
_LATE: Final = "deadline exceeded"


class Phase(Enum):
    """How far a request is."""

    FRESH = "fresh"
    TRYING = "trying"  # no answer has begun
    ANSWERED = "answered"  # the client gets the answer of the running try
    CONTINUED = "continued"  # the running try died, its stream's rest is generated elsewhere
    SETTLED = "settled"


class Hold(Enum):
    """What a try has at its instance."""

    NOTHING = "nothing"
    PLACE = "place"  # in the queue
    SLOT = "slot"


class FailedAttempt(msgspec.Struct, frozen=True):
    """One try that failed: where, since when, and how."""

    instance: str
    began: float
    failure: Failure
    detail: str = ""


class Try:
    """One try at one instance.

    Attributes:
        target: Where.
        began: When it was decided on.
        spare: It is of the backend that makes good what the first one failed.
        hold: What it has there.
        since: When it got that.
        suspect: Its engine may go on with it although it was let go.
    """

    __slots__ = ("began", "hold", "since", "spare", "suspect", "target")

    def __init__(self, target: Target, began: float, *, spare: bool = False) -> None:
        self.target = target
        self.began = began
        self.spare = spare
        self.hold = Hold.NOTHING
        self.since = 0.0
        self.suspect = False


class GiveUp(msgspec.Struct, frozen=True):
    """Tell the client that nobody will answer."""

    status: int
    message: str


class CarryOn(msgspec.Struct, frozen=True):
    """Another try still runs: nothing is to be done."""


CARRY_ON: Final = CarryOn()
Step: TypeAlias = Try | CarryOn | GiveUp


class RequestLife:
    """One request: events in, what is to be done out.

    Attributes:
        phase: How far it is.
        running: The try that is or will be its answer.
        rival: The hedge beside it; at most one, and only before an answer.
        count: Tries begun.
        turned: It went to the spare backend.
        failed_attempts: Those that failed, oldest first.

    Args:
        candidates: Whom to try, in order.
        deadline: Monotonic time after which nothing more is tried; None: no limit.
        policy: How often.
        spare: Whom to try in their place once an engine among them failed.
    """

    __slots__ = (
        "_at",
        "_blamed",
        "_candidates",
        "_retries",
        "_spare",
        "_tries",
        "count",
        "deadline",
        "failed_attempts",
        "phase",
        "rival",
        "running",
        "turned",
    )

    def __init__(
        self,
        candidates: tuple[Target, ...],
        deadline: float | None,
        policy: Retries,
        spare: tuple[Target, ...] = (),
    ) -> None:
        self.phase = Phase.FRESH
        self.running: Try | None = None
        self.rival: Try | None = None
        self.count = 0
        self.turned = False
        self.failed_attempts: tuple[FailedAttempt, ...] = ()
        self.deadline = deadline
        self._candidates = candidates
        self._spare = spare
        self._tries = policy.attempts
        self._at = 0
        self._retries = 0
        self._blamed = 0

    # -- before an answer

    def start(self, now: float) -> Step:
        """The first try."""
        if self.deadline is not None and now >= self.deadline:
            return GiveUp(504, _LATE)
        if not self._candidates:
            return GiveUp(503, "no instance can serve this model at present")
        self.phase = Phase.TRYING
        self.count = 1
        tried = self.running = Try(self._candidates[0], now)
        return tried

    def queued(self, tried: Try, now: float) -> None:
        """It waits for a slot."""
        tried.hold, tried.since = Hold.PLACE, now

    def admitted(self, tried: Try, now: float) -> float:
        """It has a slot; returns how long it waited for it."""
        waited = now - tried.since if tried.hold is Hold.PLACE else 0.0
        tried.hold, tried.since = Hold.SLOT, now
        return waited

    def left(self, tried: Try, now: float) -> float:
        """It has no place in the queue any more; returns how long it waited."""
        tried.hold = Hold.NOTHING
        return now - tried.since

    def tries(self, tried: Try) -> bool:
        """Whether that try may still bring the answer."""
        return self.phase is Phase.TRYING and (tried is self.running or tried is self.rival)

    def hedge_due(self, now: float, *, allowed: bool) -> Try | None:
        """The try beside the first one, which is slow; None where there is to be none.

        `allowed`: whether the retry budget has room.
        """
        if self.phase is not Phase.TRYING or self.count != 1 or not allowed or self._tries < 2:
            return None
        if len(self._candidates) < 2 or (self.deadline is not None and now >= self.deadline):
            return None
        self._at, self.count = 1, 2
        self._retries += 1
        rival = self.rival = Try(self._candidates[1], now)
        return rival

    def hedge_withdrawn(self) -> None:
        """It could not be sent: there is no room for it now."""
        self.rival = None
        self._at, self.count = 0, 1
        self._retries -= 1

    def may_move(self, tried: Try, failure: Failure, *, allowed: bool = True) -> bool:
        """Whether, should this try fail so, somebody else may still answer.

        `allowed`: whether the retry budget has room.
        """
        if self.phase is not Phase.TRYING:
            return False
        if self.rival is not None:
            return True
        if self._at + 1 >= len(self._candidates) and not self._turns_to_spare(failure):
            return False
        if failure is Failure.CONNECT:
            return True
        if self._blamed >= BLAMED and _may_be_to_blame(tried, failure):
            return False
        return self._retries + 1 < self._tries and (allowed or failure in UNBUDGETED)

    def failed(self, tried: Try, failure: Failure, detail: str, now: float, *, allowed: bool = True) -> Step:
        """The next step after a try failed; it is to be let go in any case.

        Args:
            tried: Which.
            failure: How.
            detail: What to tell, should it be the last.
            now: Monotonic time.
            allowed: Whether the retry budget has room.
        """
        may = self.may_move(tried, failure, allowed=allowed)
        self._note(tried, failure, detail)
        tried.suspect = failure is Failure.TIMEOUT and tried.hold is Hold.SLOT
        if self.rival is not None:
            if self.running is tried:
                self.running = self.rival
            self.rival = None
            return CARRY_ON
        self.running = None
        if self.deadline is not None and now >= self.deadline:
            return GiveUp(504, _LATE)
        if not may:
            return GiveUp(_STATUS.get(failure, 502), self._last_words(tried, failure, detail))
        if failure is not Failure.CONNECT:
            self._retries += 1
            self._blamed += _may_be_to_blame(tried, failure)
        self.count += 1
        if self._turns_to_spare(failure):
            self._candidates, self._spare = self._spare, ()
            self._at = 0
            self.turned = True
        else:
            self._at += 1
        following = self.running = Try(self._candidates[self._at], now, spare=self.turned)
        return following

    def expired(self) -> None:
        """The deadline passed; before an answer, its tries failed."""
        if self.phase is Phase.TRYING:
            for tried in self._tried():
                self._note(tried, Failure.TIMEOUT, _LATE)

    # -- the answer

    def answered(self, tried: Try) -> Try | None:
        """An answer begins; returns the other try, which is to be let go."""
        other = self.rival
        self.phase = Phase.ANSWERED
        if other is None:
            return None
        if other is tried:
            other, self.running = self.running, tried
        self.rival = None
        if other is not None:
            other.suspect = other.hold is Hold.SLOT
        return other

    def died(self, tried: Try, detail: str, *, silent: bool, continuable: bool) -> bool:
        """The answer broke off; whether its rest is to be sought elsewhere: then the try is to be let go.

        Args:
            tried: What died.
            detail: How, for the record.
            silent: It went silent; its engine may go on with it for as long as it likes.
            continuable: Somebody can continue it.
        """
        if self.phase is not Phase.ANSWERED or not continuable:
            return False
        self.phase = Phase.CONTINUED
        self.running = None
        self._note(tried, Failure.CUT, detail)
        tried.suspect = silent and tried.hold is Hold.SLOT
        return True

    def rest_failed(self, attempt: FailedAttempt) -> None:
        """A try to have the rest generated failed."""
        self.failed_attempts = (*self.failed_attempts, attempt)

    # -- the end

    def settled(self, *, abandoned: bool) -> None:
        """It is over; whatever it still tried is to be let go.

        `abandoned`: nobody waited for the answer, so an engine that said nothing may still be busy with it.
        """
        if abandoned and self.phase is Phase.TRYING:
            for tried in self._tried():
                tried.suspect = tried.hold is Hold.SLOT
        self.phase = Phase.SETTLED
        self.running = self.rival = None

    def validate(self) -> None:
        """Tests call it after each event.

        Raises:
            RuntimeError: something does not hold that always must.
        """
        tries = self._tried()
        trying = self.phase is Phase.TRYING
        rules = (
            (not tries or self.phase in (Phase.TRYING, Phase.ANSWERED), "it holds something after its end"),
            (self.rival is None or (trying and self.running is not None), "a hedge is beside nothing"),
            (self.rival is None or self.rival is not self.running, "one try is beside itself"),
            (self.phase is not Phase.FRESH or not self.count, "it was tried before it began"),
            (trying or all(one.hold is not Hold.PLACE for one in tries), "it waits with an answer"),
            (0 <= self._at < max(1, len(self._candidates)), "nobody is tried"),
            (not self.count or self._retries < max(1, self._tries), "it was tried too often"),
            (self._blamed <= BLAMED, "engines died of it too often"),
        )
        wrong = [words for holds, words in rules if not holds]
        if wrong:
            raise RuntimeError("; ".join(wrong))

    def _tried(self) -> tuple[Try, ...]:
        running, rival = self.running, self.rival
        if running is None:
            return ()
        return (running,) if rival is None else (running, rival)

    def _note(self, tried: Try, failure: Failure, detail: str) -> None:
        failed = FailedAttempt(tried.target.id, tried.began, failure, detail)
        self.failed_attempts = (*self.failed_attempts, failed)

    def _turns_to_spare(self, failure: Failure) -> bool:
        return bool(self._spare) and failure in _SPOILED

    def _last_words(self, tried: Try, failure: Failure, detail: str) -> str:
        """Names a request that engines die of, so that nobody takes it for a fault of the mesh."""
        if self._blamed < BLAMED or not _may_be_to_blame(tried, failure):
            return detail
        died = ", ".join(one.instance for one in self.failed_attempts)
        return f"{detail}; the request failed on {died} alike and is not tried on a further instance"


def _may_be_to_blame(tried: Try, failure: Failure) -> bool:
    """Whether the request may have done it.

    An engine that dies cuts its own agent's connection. A cut link to a peer is the peer's death, or the
    network's: of its engine's the peer would have told.
    """
    return failure in _ENGINE_FAILED or (failure is Failure.CUT and tried.target.local)
