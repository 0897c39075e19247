"""The fast loop: how many instances slots, queue and first bytes ask for. Pure.

Rules:
1. Needed are the slots in use: `usual` as a mean over the policy's time (seven and a half minutes), `need`
   over two fifteenths of it (a minute). The first measurement counts as it is.
2. The fleet is sized by `usual`, so that minutes that happen to be busy do not move it: to the number that
   comes nearest to the target. A number is left upwards when half an instance more is needed, and downwards
   only when a whole one less is, or the slots would be filled further from the target than `BAND`.
3. What rules 2, 4 and 5 do is lopsided, and an eighth of a fleet of eight is coarse. So what is aimed at is
   `trim` away from the target: the integral over eight times that time (an hour) of how far off the use of
   slots was, but no more than `BAND`. Under a load that moves, the mean of some hours is the target; one
   that stays comes to rest. Where min or max hold the fleet, nothing is summed up, and the trim fades.
4. Where `need` fills the slots further than halfway from the target to full, as many are asked for at
   once as bring it back there. The load grows faster than `usual` can tell.
5. A queue longer than its goal, on a mean over ten seconds, asks for an eighth more, one at least, and
   for all that `need` asks for at the target.
6. First bytes that are later than their goal ask for one more, where slots are nearly as full as they are
   meant to be or requests wait: else more instances would not make a long prompt shorter.
7. An instance whose node does not report counts as filled to the target: it asks for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from bridge_core.counts import Counts
from bridge_registry.scaling.plan import ScalingPlan, ScalingPosition, Seen, Sight

BAND: Final = 0.05
_NEED: Final = 60.0 / 450.0  # of the time that a plan's `usual` is a mean over
_TRIM: Final = 3600.0 / 450.0
_QUEUE_S: Final = 10.0
_UP: Final = 0.5  # instances that may be missing, and be too many, before `usual` moves the fleet
_DOWN: Final = 1.0
_TTFT_WINDOW_S: Final = 30.0
_TTFT_ANSWERS: Final = 20
_NEAR: Final = 0.15
_TINY: Final = 1e-6


def measured(
    plan: ScalingPlan, position: ScalingPosition, sight: Sight, active: Iterable[Seen], now: float
) -> ScalingPosition:
    """The position with what is seen of the active instances at `now`."""
    slots = [one.slots for one in active]
    need = sum(one.in_flight if one.known else plan.target * one.slots for one in active)  # rule 7
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
        need=float(need) if first else _towards(position.need, need, passed / (_NEED * plan.measured_s)),
        usual=float(need) if first else _towards(usual_of(position), need, passed / plan.measured_s),
        trim=position.trim if first else _trimmed(plan, position, need / sum(slots), len(slots), passed),
        queued=queued if first else _towards(position.queued, queued, passed / _QUEUE_S),
        measured_at=now,
        ttft=ttft,
        ttft_at=ttft_at,
        slow=slow,
    )


def usual_of(position: ScalingPosition) -> float:
    """Slots that are usually needed; one that was stored before there was such a mean has the short one."""
    return position.usual if position.usual >= 0 else position.need


def aim(plan: ScalingPlan, position: ScalingPosition) -> float:
    """The share of slots that the fleet is sized for (rule 3)."""
    return min(1.0, max(plan.target / 2, plan.target + _bounded(position.trim)))


def sized(plan: ScalingPlan, position: ScalingPosition, active: int, slots: float) -> int:
    """How many active instances rule 2 asks for, once measured. `slots` are those of one instance."""
    aimed, usual = aim(plan, position), usual_of(position)
    exact = usual / (aimed * slots)
    if active and -_DOWN <= exact - active <= _UP:
        return active
    if active and abs(usual / (active * slots) - aimed) <= BAND:
        return active
    return math.floor(exact + 0.5)


def recommended(plan: ScalingPlan, position: ScalingPosition, active: int, slots: float) -> tuple[int, str]:
    """How many all rules ask for, and why."""
    if not active:
        return nearest(plan.target, position.need, slots), f"{position.need:.1f} slots are needed"
    filled, usual = (found / (active * slots) for found in (position.need, usual_of(position)))
    wanted = sized(plan, position, active, slots)
    why = f"{usual:.0%} of the slots are in use, {plan.target:.0%} are the target"
    hot = (1.0 + plan.target) / 2
    if filled > hot and (more := nearest(hot, position.need, slots)) > wanted:
        wanted, why = more, f"{filled:.0%} of the slots came into use, {plan.target:.0%} are the target"
    if plan.queued_per_instance is not None and position.queued > plan.queued_per_instance * active:
        more = max(active + max(1, active // 8), nearest(plan.target, position.need, slots))
        if more > wanted:
            wanted, why = more, f"{position.queued:.0f} requests wait for a slot"
    if position.slow:
        if filled < plan.target - _NEAR and position.queued < 1:
            why += "; first bytes are late though slots are free: more instances would not help"
        elif wanted <= active:
            wanted, why = active + 1, "first bytes are later than their goal"
    return wanted, why


def floor_of(plan: ScalingPlan, position: ScalingPosition, soon: float, slots: float) -> int:
    """How few instances rule 2 would leave as they are where `soon` slots are the usual, one at least."""
    return max(1, math.ceil(soon / (aim(plan, position) * slots) - _UP - _TINY))


def nearest(target: float, need: float, slots: float) -> int:
    """As many instances as come nearest to the target without passing the band above it."""
    least = math.ceil(need / ((target + BAND) * slots) - _TINY)
    return max(least, math.floor(need / (target * slots) + 0.5))


def _trimmed(
    plan: ScalingPlan, position: ScalingPosition, filled: float, active: int, passed: float
) -> float:
    """Rule 3."""
    off, share = plan.target - filled, passed / (_TRIM * plan.measured_s)
    held = active <= max(1, plan.min) if off > 0 else active >= plan.max
    return _towards(position.trim, 0.0, share) if held else _bounded(position.trim + off * share)


def _bounded(trim: float) -> float:
    """What lies in the store may be anything; a number it is."""
    return min(BAND, max(-BAND, trim)) if math.isfinite(trim) else 0.0


def _towards(old: float, new: float, share: float) -> float:
    """Exponential smoothing by the time that passed, in time constants."""
    return old + (new - old) * (1.0 - math.exp(-share))
