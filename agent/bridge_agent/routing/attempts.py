"""Trying one request on one instance after another.

Rules:
1. Nothing is tried again once a byte of an answer reached the client.
2. A failure to connect, where nothing was sent, moves on to the next candidate each time; another
   failure moves on until the policy's attempts are used up. A server error moves on once only: a
   request that its engine dies of must not go through the mesh. Where there are spare candidates
   (another backend's, while this one is on trial), a failure of the engine moves on to them.
3. No attempt begins after the deadline. An attempt that took too long for itself (`per_try`) is a
   failure like others, one that used up the whole deadline is the end.
4. The retry budget holds back what overload makes: refusals and time-outs, which retries make worse.
   A death drops all requests of an instance at once, on a small mesh far more than a budget's share,
   and each of them is moved. That makes no storm: no more is moved than the dead one had, each request
   no more often than rule 2 lets it, and where it goes the queue is bounded, whose refusals the budget
   does hold back.
5. Every attempt is recorded.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.view import Target
from bridge_core.traffic import Retries

SERVER_ERRORS: Final = 1  # retries after those
_ENGINE_FAILED: Final = frozenset({Failure.SERVER_ERROR, Failure.ANSWERED_500})
# Failures of an engine that had begun on the request.
_SPOILED: Final = frozenset({Failure.CUT}) | _ENGINE_FAILED
UNBUDGETED: Final = frozenset({Failure.CONNECT}) | _SPOILED
"""Failures after which a request moves on whatever the retry budget says (rule 4)."""


class Attempt(msgspec.Struct, frozen=True):
    """One try, and how it failed; `failure` is None while it runs or when it answered."""

    instance: str
    began: float
    failure: Failure | None = None
    detail: str = ""


class Try(msgspec.Struct, frozen=True):
    """Send it there; `spare`: as its backend's request, for which it is made anew."""

    target: Target
    spare: bool = False


class GiveUp(msgspec.Struct, frozen=True):
    """Tell the client: `status` and `message` before a first byte, in the stream after it."""

    status: int
    message: str
    in_stream: bool = False


Step: TypeAlias = Try | GiveUp


class Attempts:
    """The attempts of one request: events in, the next step out.

    Attributes:
        count: Attempts begun.
        failed: Those that failed.
        step: The first step.

    Args:
        candidates: Whom to try, in order.
        deadline: Monotonic time after which nothing more is tried; None: no limit.
        policy: How often.
        spare: Whom to try in their place once an engine among them failed.
    """

    __slots__ = (
        "_at",
        "_began",
        "_candidates",
        "_deadline",
        "_delivered",
        "_retries",
        "_server_errors",
        "_spare",
        "_tries",
        "count",
        "failed",
        "step",
    )

    def __init__(
        self,
        candidates: tuple[Target, ...],
        deadline: float | None = None,
        policy: Retries | None = None,
        spare: tuple[Target, ...] = (),
    ) -> None:
        self._candidates = candidates
        self._spare = spare
        self.count = 0
        self._deadline = deadline
        self._tries = (policy or Retries()).attempts
        self._server_errors = 0
        self._at = -1
        self._retries = 0
        self._began = 0.0
        self._delivered = False
        self.failed: list[Attempt] = []
        self.step: Step = GiveUp(503, "not started")

    def may_retry(self, failure: Failure = Failure.REFUSED) -> bool:
        """Whether such a failure of the running attempt would be tried elsewhere, budget permitting."""
        if self._delivered:
            return False
        if self._at + 1 >= len(self._candidates) and not self._turns_to_spare(failure):
            return False
        if failure is Failure.CONNECT:
            return True
        if failure in _ENGINE_FAILED and self._server_errors >= SERVER_ERRORS:
            return False
        return self._retries + 1 < self._tries

    def start(self, now: float) -> Step:
        """The first step; `step` keeps it."""
        self.step = self._first(now)
        return self.step

    def _first(self, now: float) -> Step:
        if self._deadline is not None and now >= self._deadline:
            return GiveUp(504, "deadline exceeded")
        if not self._candidates:
            return GiveUp(503, "no instance can serve this model at present")
        self._at, self._began = 0, now
        self.count = 1
        return Try(self._candidates[0])

    def _turns_to_spare(self, failure: Failure) -> bool:
        return bool(self._spare) and failure in _SPOILED

    def delivered(self) -> None:
        """A byte of the answer reached the client."""
        self._delivered = True

    def after(self, failure: Failure, detail: str, now: float, *, allowed: bool = True) -> Step:
        """The next step after the running attempt failed.

        Args:
            failure: How.
            detail: What to tell, should it be the last.
            now: Monotonic time.
            allowed: Whether the retry budget has room.
        """
        current = self._candidates[self._at]
        self.failed.append(Attempt(current.id, self._began, failure, detail))
        if self._delivered:
            return GiveUp(502, detail, in_stream=True)
        if self._deadline is not None and now >= self._deadline:
            return GiveUp(504, "deadline exceeded")
        may = self.may_retry(failure) and (allowed or failure in UNBUDGETED)
        if not may:
            return GiveUp(_STATUS.get(failure, 502), detail)
        if failure is not Failure.CONNECT:
            self._retries += 1
            self._server_errors += failure in _ENGINE_FAILED
        self._began = now
        self.count += 1
        if self._turns_to_spare(failure):
            self._candidates, self._spare = self._spare, ()
            self._at = 0
            return Try(self._candidates[0], spare=True)
        self._at += 1
        return Try(self._candidates[self._at])


_STATUS: Final = {Failure.REFUSED: 503, Failure.TIMEOUT: 504}
