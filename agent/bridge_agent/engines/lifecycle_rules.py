"""The life of one engine instance, decided purely: (state, event, now) in, (state, effects) out.

Rules:
1. absent -> starting -> ready -> draining -> stopped; a process that ends, does not start or hangs
   is replaced after a back-off, for as long as the instance is wanted.
2. There is at most one process: `Launch` is asked for only when the last one is known to have
   ended (`Exited`) or never began (`LaunchFailed`). A sick process is ended first (`REPLACING`).
3. The back-off doubles with every start that did not last `stable_s`, is capped, and begins anew
   after one that did.
4. An engine that somebody else runs (`owned` is False) is never launched or ended: it only goes
   between starting (not trusted) and ready.
5. A hang found by generating is disproved only by generating: an engine found hung does not become
   ready because its other routes answer, which they do all along.
6. An event that means nothing in the present phase is stale and changes nothing.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


class Phase(enum.Enum):
    """Where an instance is in its life."""

    ABSENT = "absent"  # not asked for yet
    STARTING = "starting"  # runs, has not answered; attached: not trusted with requests
    READY = "ready"
    BACKOFF = "backoff"  # no process; the next start is due at `wake_at`
    REPLACING = "replacing"  # a sick process is being ended, another will follow
    DRAINING = "draining"  # finishes what it has
    STOPPING = "stopping"  # is being ended, none will follow
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient to be; times in seconds."""

    start_timeout_s: float = 60.0
    missed_probes: int = 3  # liveness probes in a row without an answer before an engine counts as dead
    stable_s: float = 60.0  # ready for so long: its next failure is a first one again
    backoff_first_s: float = 0.5
    backoff_most_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """One instance's position.

    Attributes:
        phase: See `Phase`.
        owned: Whether we start and stop its process.
        since: When the phase was entered.
        failures: Starts in a row that did not last.
        missed: Liveness probes in a row without an answer.
        hung: Attached only: generating was found not to answer.
        wake_at: When a `Tick` is due; None: never.
        reason: Why it last failed; empty if it never did.
    """

    phase: Phase = Phase.ABSENT
    owned: bool = True
    since: float = 0.0
    failures: int = 0
    missed: int = 0
    hung: bool = False
    wake_at: float | None = None
    reason: str = ""

    @property
    def has_process(self) -> bool:
        """Whether a process of ours exists in this phase."""
        return self.owned and self.phase in _WITH_PROCESS

    def validate(self) -> None:
        """Checks the invariants.

        Raises:
            AssertionError: the state is impossible.
        """
        timed = self.phase is Phase.BACKOFF or (self.owned and self.phase is Phase.STARTING)
        _require((self.wake_at is not None) == timed, "a wake-up exactly where something is due")
        _require(self.owned or self.phase not in _OWNED_ONLY, "an attached engine is not ours to end")
        _require(not (self.hung and self.owned), "an owned engine that hangs is replaced")
        _require(not (self.hung and self.phase is Phase.READY), "no hung engine is ready")
        _require(self.phase is not Phase.BACKOFF or self.failures > 0, "a back-off follows a failure")
        _require(self.failures == 0 or bool(self.reason), "a failure has a reason")
        _require(self.phase is Phase.READY or self.missed == 0, "probes count while ready")


_WITH_PROCESS: Final = frozenset(
    {Phase.STARTING, Phase.READY, Phase.REPLACING, Phase.DRAINING, Phase.STOPPING}
)
_OWNED_ONLY: Final = frozenset({Phase.BACKOFF, Phase.REPLACING, Phase.STOPPING})


class Start:
    """The instance is wanted."""


class Adopted:
    """A process of an earlier agent was found, alive and answering."""


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """The process could not be started."""

    reason: str


class Answered:
    """The engine answered a liveness probe."""


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The engine did not answer a liveness probe."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hung:
    """A loaded model did not generate."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot go on, though it may not know yet: what it depends on fell."""

    reason: str


class Generated:
    """No loaded model is known to hang (any more)."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The process has ended."""

    reason: str


class Drain:
    """No new work: finish what is there."""


class Stop:
    """The instance is no longer wanted."""


class Tick:
    """Time has passed."""


Event = (
    Start
    | Adopted
    | LaunchFailed
    | Answered
    | ProbeFailed
    | Hung
    | Failed
    | Generated
    | Exited
    | Drain
    | Stop
    | Tick
)


class Launch:
    """Start a process."""


class Terminate:
    """End the process and all that it started; `Exited` follows."""


Effect = Launch | Terminate
Outcome = tuple[Lifecycle, tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class _Step:
    """What a transition is decided from."""

    state: Lifecycle
    event: Event
    now: float
    jitter: float
    policy: Policy

    def to(self, phase: Phase, *effects: Effect, **changes: object) -> Outcome:
        fresh = {"missed": 0, "wake_at": None}
        state = dataclasses.replace(
            self.state,
            phase=phase,
            since=self.now,
            **{**fresh, **changes},  # type: ignore[arg-type]  # checked by validate
        )
        return state, effects

    @property
    def reason(self) -> str:
        return getattr(self.event, "reason", "")


def step(state: Lifecycle, event: Event, now: float, *, jitter: float, policy: Policy = Policy()) -> Outcome:
    """Decides what an event means.

    Args:
        state: Where the instance is.
        event: What happened.
        now: Monotonic time in seconds.
        jitter: A random number in [0, 1) that spreads the back-off over its upper half.
        policy: How patient to be.

    Returns:
        The new state, and what is to be done, in order.
    """
    transition = TRANSITIONS.get((state.phase, type(event)))
    if transition is None:
        return state, ()
    return transition(_Step(state, event, now, jitter, policy))


def _start(it: _Step) -> Outcome:
    if not it.state.owned:
        return it.to(Phase.STARTING)
    return it.to(Phase.STARTING, Launch(), wake_at=it.now + it.policy.start_timeout_s)


def _adopt(it: _Step) -> Outcome:
    return it.to(Phase.STARTING, wake_at=it.now + it.policy.start_timeout_s)


def _answered_first(it: _Step) -> Outcome:
    return (it.state, ()) if it.state.hung else it.to(Phase.READY)


def _answered(it: _Step) -> Outcome:
    return dataclasses.replace(it.state, missed=0), ()


def _missed(it: _Step) -> Outcome:
    missed = it.state.missed + 1
    if missed < it.policy.missed_probes:
        return dataclasses.replace(it.state, missed=missed), ()
    return _sick(it, it.reason)


def _hung(it: _Step) -> Outcome:
    return _sick(it, it.reason, hung=not it.state.owned)


def _failed(it: _Step) -> Outcome:
    return _sick(it, it.reason) if it.state.owned else (it.state, ())


def _sick(it: _Step, reason: str, *, hung: bool = False) -> Outcome:
    failures = _failures(it)
    if it.state.owned:
        return it.to(Phase.REPLACING, Terminate(), failures=failures, reason=reason)
    return it.to(Phase.STARTING, failures=failures, reason=reason, hung=hung)


def _failures(it: _Step) -> int:
    """The count with this failure: a long good time before it wipes out the earlier ones."""
    stable = it.state.phase is Phase.READY and it.now - it.state.since >= it.policy.stable_s
    return 1 if stable else it.state.failures + 1


def _generated(it: _Step) -> Outcome:
    return dataclasses.replace(it.state, hung=False), ()


def _ended(it: _Step) -> Outcome:
    return _back_off(it, _failures(it), it.reason)


def _replaced(it: _Step) -> Outcome:
    # Counted and explained when it was found sick; that it then ended is our own doing.
    return _back_off(it, max(1, it.state.failures), it.state.reason or it.reason)


def _back_off(it: _Step, failures: int, reason: str) -> Outcome:
    # The exponent is bounded: 2.0**1024 overflows after weeks of crashes.
    whole = min(it.policy.backoff_most_s, it.policy.backoff_first_s * 2.0 ** min(failures - 1, 32))
    pause = whole * (0.5 + 0.5 * it.jitter)
    return it.to(Phase.BACKOFF, wake_at=it.now + pause, failures=failures, reason=reason)


def _overdue(it: _Step) -> Outcome:
    if it.state.wake_at is None or it.now < it.state.wake_at:
        return it.state, ()
    return _sick(it, f"did not answer within {it.policy.start_timeout_s:g} s of its start")


def _retry(it: _Step) -> Outcome:
    if it.state.wake_at is None or it.now < it.state.wake_at:
        return it.state, ()
    return _start(it)


def _end(it: _Step) -> Outcome:
    if not it.state.owned:
        return it.to(Phase.STOPPED, hung=False)
    return it.to(Phase.STOPPING, Terminate())


def _to(phase: Phase) -> Callable[[_Step], Outcome]:
    return lambda it: it.to(phase)


_stopped = _to(Phase.STOPPED)

# What is not here is stale (rule 6).
TRANSITIONS: Final[dict[tuple[Phase, type], Callable[[_Step], Outcome]]] = {
    (Phase.ABSENT, Start): _start,
    (Phase.ABSENT, Adopted): _adopt,
    (Phase.ABSENT, Drain): _stopped,
    (Phase.ABSENT, Stop): _stopped,
    (Phase.STARTING, Answered): _answered_first,
    (Phase.STARTING, Generated): _generated,
    (Phase.STARTING, Hung): _hung,
    (Phase.STARTING, Failed): _failed,
    (Phase.STARTING, LaunchFailed): _ended,
    (Phase.STARTING, Exited): _ended,
    (Phase.STARTING, Tick): _overdue,
    (Phase.STARTING, Drain): _end,
    (Phase.STARTING, Stop): _end,
    (Phase.READY, Answered): _answered,
    (Phase.READY, ProbeFailed): _missed,
    (Phase.READY, Hung): _hung,
    (Phase.READY, Failed): _failed,
    (Phase.READY, Exited): _ended,
    (Phase.READY, Drain): _to(Phase.DRAINING),
    (Phase.READY, Stop): _end,
    (Phase.BACKOFF, Tick): _retry,
    (Phase.BACKOFF, Drain): _stopped,
    (Phase.BACKOFF, Stop): _stopped,
    (Phase.REPLACING, Exited): _replaced,
    (Phase.REPLACING, Drain): _to(Phase.STOPPING),
    (Phase.REPLACING, Stop): _to(Phase.STOPPING),
    (Phase.DRAINING, Start): _to(Phase.READY),
    (Phase.DRAINING, Exited): _stopped,
    (Phase.DRAINING, Stop): _end,
    # Wanted again before it was gone: let it go, then start anew.
    (Phase.STOPPING, Start): _to(Phase.REPLACING),
    (Phase.STOPPING, Exited): _stopped,
    (Phase.STOPPED, Start): _start,
}


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise AssertionError(rule)
