"""One rollout as a state machine: pure.

    progressing <-> paused      pause, resume
    progressing | paused  -> complete      after the last step, or promote
    progressing | paused  -> rolled-back   a guard or the probe failed
    any but rolled-back   -> aborted       abort: also switches a complete one back
    any                   -> progressing   restart: from the first step

Rules:
1. A step ends when it was held long enough, the canary had `min_requests` (unless it gets none),
   and every instance of the canary has answered a round of the probe rightly in this step.
2. The canary is judged at every tick, also while paused, against what the stable side did in the
   same step; where that had too little, against the last step in which it had enough.
3. Time is what the leader's ticks add up to, so neither a jump of a clock nor a time without a
   leader ends a step.
4. A position is saved before it takes effect: effects come from what is stored alone.
5. No round of the probe is ever asked twice, also not after a new beginning under the same name: agents
   answer each once, and a wrong answer to it would roll back whatever it is asked for next.

Invariants (`validate`): the step is one of the plan's; a phase that moved traffic back or forth
for good has a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from bridge_core.counts import Counts
from bridge_core.errors import BridgeError
from bridge_registry.rollouts.guard_rules import verdict
from bridge_registry.rollouts.plan import RolloutPlan, Step

Phase: TypeAlias = Literal["progressing", "paused", "complete", "rolled-back", "aborted"]
_KEPT_EVENTS: Final = 50
_RUNNING: Final = frozenset({"progressing", "paused"})


class Happening(msgspec.Struct, frozen=True):
    """A line of a rollout's log. `at` is in Unix seconds, for people."""

    at: float
    what: str


class RolloutPosition(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a rollout stands; what is stored of it.

    Attributes:
        identity: Of the plan it belongs to.
        phase: See the module.
        step: Index into the plan's steps.
        elapsed_s: Spent in this step.
        stable: What the stable side did in this step.
        canary: What the canary did.
        reference: What the stable side did in the last step in which it had enough requests.
        round: Of the probe; 0: none yet.
        round_age_s: How long ago it began.
        probed: A whole round was passed in this step.
        reason: Why it stands here; for people.
        events: Oldest first.
    """

    identity: str
    phase: Phase = "progressing"
    step: int = 0
    elapsed_s: float = 0.0
    stable: Counts = Counts()
    canary: Counts = Counts()
    reference: Counts = Counts()
    round: int = 0
    round_age_s: float = 0.0
    probed: bool = False
    reason: str = ""
    events: tuple[Happening, ...] = ()

    @property
    def running(self) -> bool:
        """Whether it can still go either way."""
        return self.phase in _RUNNING


class Probed(msgspec.Struct, frozen=True):
    """What an agent says about one instance and one round."""

    instance: str
    round: int
    passed: bool
    detail: str = ""


class Ticked(msgspec.Struct, frozen=True):
    """Time went by under one leader.

    Attributes:
        seconds: Since the last tick.
        stable: What the stable side did in that time.
        canary: What the canary did.
        instances: The canary's, as they are now.
        probed: The newest word about each instance.
    """

    seconds: float
    stable: Counts = Counts()
    canary: Counts = Counts()
    instances: tuple[str, ...] = ()
    probed: tuple[Probed, ...] = ()


class Commanded(msgspec.Struct, frozen=True):
    """Somebody said pause, resume, promote, abort or restart."""

    verb: str
    by: str


Event: TypeAlias = Ticked | Commanded


class Save(msgspec.Struct, frozen=True):
    """The position has to be stored now: it changed in more than its counters."""


class Tell(msgspec.Struct, frozen=True):
    """A line for the log."""

    what: str


Effect: TypeAlias = Save | Tell
Result: TypeAlias = tuple[RolloutPosition, tuple[Effect, ...]]


def begin(plan: RolloutPlan, now: float, last_round: int = 0) -> Result:
    """The position of a rollout that was just applied, in place of one that came to round `last_round`."""
    return _told(RolloutPosition(plan.identity, round=_fresh(last_round)), f"began: {_words(plan, 0)}", now)


def decide(plan: RolloutPlan, position: RolloutPosition, event: Event, now: float) -> Result:
    """The position after `event` and what follows from it; `now` stamps the log.

    Raises:
        BridgeError: a command that makes no sense in this phase.
    """
    if position.identity != plan.identity:
        return begin(plan, now, position.round)
    if isinstance(event, Commanded):
        return _command(plan, position, event, now)
    if not position.running:
        return position, ()
    return _tick(plan, _within(plan, position), event, now)


def step_of(plan: RolloutPlan, position: RolloutPosition) -> Step:
    """The step it is in."""
    return plan.steps[min(position.step, len(plan.steps) - 1)]


def validate(plan: RolloutPlan, position: RolloutPosition) -> None:
    """Raises AssertionError if an invariant is broken; for tests."""
    if not 0 <= position.step < len(plan.steps):
        raise AssertionError(f"step {position.step} of {len(plan.steps)}")
    if position.phase in {"rolled-back", "aborted", "complete"} and not position.reason:
        raise AssertionError(f"{position.phase} without a reason")
    if len(position.events) > _KEPT_EVENTS:
        raise AssertionError("the log grows without end")


def _tick(plan: RolloutPlan, position: RolloutPosition, event: Ticked, now: float) -> Result:
    position = msgspec.structs.replace(
        position,
        stable=position.stable.plus(event.stable),
        canary=position.canary.plus(event.canary),
        elapsed_s=position.elapsed_s + (event.seconds if position.phase == "progressing" else 0.0),
        round_age_s=position.round_age_s + event.seconds,
    )
    fault = _fault(plan, position, event)
    if fault:
        return _ended(position, "rolled-back", fault, f"rolled back: {fault}", now)
    position, began = _probe(plan, position, event)
    if position.phase == "paused":
        return position, began
    waits = _waits(plan, position, event)
    if waits:
        return msgspec.structs.replace(position, reason=waits), began
    if position.step == len(plan.steps) - 1:
        return _ended(position, "complete", "every step passed", "complete: every step passed", now)
    return _next_step(plan, position, now)


def _fault(plan: RolloutPlan, position: RolloutPosition, event: Ticked) -> str:
    enough = position.stable.answered >= plan.guards.min_requests or not position.reference.requests
    stable = position.stable if enough else position.reference
    fault = verdict(plan.guards, stable, position.canary)
    if fault or not plan.questions:
        return fault
    wrong = [one for one in event.probed if one.round == position.round and not one.passed]
    return f"the probe failed on {wrong[0].instance}: {wrong[0].detail}" if wrong else ""


def _probe(plan: RolloutPlan, position: RolloutPosition, event: Ticked) -> Result:
    """Closes a round that all have passed, and begins the next when it is due."""
    if not plan.questions:
        return position, ()
    if position.round == 0 or position.round_age_s >= plan.probe_every_s:
        # A round that some instance never answered is given up, too: it may be gone.
        position = msgspec.structs.replace(position, round=position.round + 1, round_age_s=0.0)
        return position, (Save(),)
    if not position.probed and event.instances and not _unprobed(position, event):
        position = msgspec.structs.replace(position, probed=True)
    return position, ()


def _unprobed(position: RolloutPosition, event: Ticked) -> list[str]:
    right = {one.instance for one in event.probed if one.round == position.round and one.passed}
    return [instance for instance in event.instances if instance not in right]


def _waits(plan: RolloutPlan, position: RolloutPosition, event: Ticked) -> str:
    """What a step still waits for; empty when it can end."""
    step = step_of(plan, position)
    if position.elapsed_s < step.hold_s:
        return f"held for {step.hold_s - position.elapsed_s:.0f} s more"
    if plan.questions and not position.probed:
        if not event.instances:
            return "no instance has the canary's model"
        return f"waits for the probe of {', '.join(_unprobed(position, event))}"
    missing = plan.guards.min_requests - position.canary.requests
    if missing > 0 and (step.percent or step.instances):
        return f"waits for {missing} more requests to the canary"
    return ""


def _next_step(plan: RolloutPlan, position: RolloutPosition, now: float) -> Result:
    enough = position.stable.answered >= plan.guards.min_requests
    step = position.step + 1
    position = msgspec.structs.replace(
        position,
        step=step,
        elapsed_s=0.0,
        stable=Counts(),
        canary=Counts(),
        reference=position.stable if enough else position.reference,
        probed=False,
        # The next round begins at the next tick: it is the new step's.
        round_age_s=max(position.round_age_s, plan.probe_every_s),
        reason="",
    )
    return _told(position, _words(plan, step), now)


def _command(plan: RolloutPlan, position: RolloutPosition, event: Commanded, now: float) -> Result:
    verb, phase = event.verb, position.phase
    by = f"{verb} by {event.by}"
    if verb == "restart":
        fresh = RolloutPosition(plan.identity, round=_fresh(position.round), events=position.events)
        return _told(fresh, f"{by}: {_words(plan, 0)}", now)
    if verb == "pause" and phase == "progressing":
        return _told(msgspec.structs.replace(position, phase="paused", reason=by), by, now)
    if verb == "resume" and phase == "paused":
        return _told(msgspec.structs.replace(position, phase="progressing", reason=""), by, now)
    if verb == "promote" and position.running:
        return _ended(position, "complete", by, by, now)
    if verb == "abort" and phase in {"progressing", "paused", "complete"}:
        return _ended(position, "aborted", by, by, now)
    if verb not in {"pause", "resume", "promote", "abort"}:
        raise BridgeError(f"a rollout does not know {verb!r}", hint="pause, resume, promote, abort, restart")
    raise BridgeError(f"{plan.name} is {phase}: {verb} does nothing there", hint="restart begins it anew")


def _fresh(last_round: int) -> int:
    """The round of a new beginning: what was answered to an earlier one says nothing of it."""
    return last_round + 1 if last_round else 0


def _ended(position: RolloutPosition, phase: Phase, reason: str, said: str, now: float) -> Result:
    return _told(msgspec.structs.replace(position, phase=phase, reason=reason), said, now)


def _told(position: RolloutPosition, what: str, now: float) -> Result:
    events: Sequence[Happening] = (*position.events, Happening(now, what))
    position = msgspec.structs.replace(position, events=tuple(events[-_KEPT_EVENTS:]))
    return position, (Save(), Tell(what))


def _within(plan: RolloutPlan, position: RolloutPosition) -> RolloutPosition:
    """The position in a plan whose schedule was made shorter meanwhile."""
    return msgspec.structs.replace(position, step=min(position.step, len(plan.steps) - 1))


def _words(plan: RolloutPlan, at: int) -> str:
    step = plan.steps[at]
    share = f"{step.instances} instance(s)" if step.instances else f"{step.percent:g} %"
    return f"step {at + 1} of {len(plan.steps)}: {share} to {plan.canary}"
