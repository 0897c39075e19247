"""The fast loop: how many instances slots, queue and first bytes ask for. Pure.

Rules:
1. Needed are the slots in use, as a mean over a minute and a half: what comes and goes within seconds is what
   queues are for. The first measurement counts as it is.
2. As long as the needed slots fill the active instances to within `BAND` of the target nothing is asked
   for. Else so many that they come nearest to it.
3. A queue longer than its goal, also on a mean over half a minute, asks for an eighth more, one at
   least. How many are let go is decided by rule 2 alone.
4. First bytes that are later than their goal ask for one more, where slots are nearly as full as they are
   meant to be or requests wait: else more instances would not make a long prompt shorter.
5. An instance whose node does not report counts as filled to the target: it asks for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from bridge_core.counts import Counts
from bridge_registry.scaling.plan import ScalingPlan, ScalingPosition, Seen, Sight

BAND: Final = 0.05
_NEED_S: Final = 90.0
_QUEUE_S: Final = 30.0
_TTFT_WINDOW_S: Final = 30.0
_TTFT_ANSWERS: Final = 20
_NEAR: Final = 0.15
_TINY: Final = 1e-6


def measured(
    plan: ScalingPlan, position: ScalingPosition, sight: Sight, active: Iterable[Seen], now: float
) -> ScalingPosition:
    """The position with what is seen of the active instances at `now`."""
    slots = [one.slots for one in active]
    need = sum(one.in_flight if one.known else plan.target * one.slots for one in active)  # rule 5
    queued = float(sum(one.queued for one in active if one.known))
    first = position.need < 0 or not slots
    passed = max(0.0, now - position.measured_at)
    ttft, ttft_at, slow = position.ttft.plus(sight.ttft), position.ttft_at or now, position.slow
    if now - ttft_at >= _TTFT_WINDOW_S:
        slow = (
            plan.ttft_p95_s is not None
            and ttft.answered >= _TTFT_ANSWERS
            and ttft.ttft_quantile(0.95) > plan.ttft_p95_s
        )
        ttft, ttft_at = Counts(), now
    return msgspec.structs.replace(
        position,
        need=float(need) if first else _towards(position.need, need, passed / _NEED_S),
        queued=queued if first else _towards(position.queued, queued, passed / _QUEUE_S),
        measured_at=now,
        ttft=ttft,
        ttft_at=ttft_at,
        slow=slow,
    )


def sized(plan: ScalingPlan, position: ScalingPosition, active: int, slots: float) -> int:
    """How many active instances rule 2 asks for, once measured. `slots` are those of one instance."""
    if active and abs(position.need / (active * slots) - plan.target) <= BAND:
        return active
    return nearest(plan.target, position.need, slots)


def recommended(plan: ScalingPlan, position: ScalingPosition, active: int, slots: float) -> tuple[int, str]:
    """How many all rules ask for, and why."""
    if not active:
        return nearest(plan.target, position.need, slots), f"{position.need:.1f} slots are needed"
    filled = position.need / (active * slots)
    wanted = sized(plan, position, active, slots)
    why = f"{filled:.0%} of the slots are in use, {plan.target:.0%} are the target"
    if plan.queued_per_instance is not None and position.queued > plan.queued_per_instance * active:
        more = active + max(1, active // 8)
        if more > wanted:
            wanted, why = more, f"{position.queued:.0f} requests wait for a slot"
    if position.slow:
        if filled < plan.target - _NEAR and position.queued < 1:
            why += "; first bytes are late though slots are free: more instances would not help"
        elif wanted <= active:
            wanted, why = active + 1, "first bytes are later than their goal"
    return wanted, why


def nearest(target: float, need: float, slots: float) -> int:
    """As many instances as come nearest to the target without passing the band above it."""
    exact = need / (target * slots)
    least = math.ceil(need / ((target + BAND) * slots) - _TINY)
    return max(least, math.floor(exact + 0.5))


def _towards(old: float, new: float, share: float) -> float:
    """Exponential smoothing by the time that passed, in time constants."""
    return old + (new - old) * (1.0 - math.exp(-share))
