"""What becomes of a policy's holders at a moment: pure, `(plan, position, sight, now) -> position, told`.

Rules:
1. Active instances are never more than max. They are never fewer than min while there is an instance that
   could be one; where one goes (its lease ended, its node is drained), another takes its place at once.
2. Wanted is what the fast loop asks for (`need_rules`) and at least the floor of the slow one
   (`forecast_rules`), between min and max.
3. A step outwards waits for its cool-down, a step inwards for its own, counted also from the last step
   outwards. Inwards goes by the mean of some minutes alone, a tenth at a time: load that swings moves little.
4. Who is taken out gets no new requests and finishes what it has. It keeps the model loaded for a time,
   and is released only when nothing is in flight there: no stream is cut. Engines, too, unload a model only
   when nobody uses it.
5. Metrics gone is no sign of rest: while fewer than half of the active instances are known nothing changes
   but replacements, and while any is not, nothing goes inwards.
6. While a rollout moves requests from or to the model nothing goes inwards: what it measures must not change
   under it. A paused policy changes nothing at all.
7. To zero it goes after the policy's time without a request, all at once; unless loading was seen to take
   longer than the wake budget, or the forecast expects requests. Whoever then asks has the model loaded
   where the request goes, and that instance becomes the active one.
8. A load that takes longer than `LOAD_S` is given up, and that instance not asked again for a time.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bridge_registry.scaling import forecast_rules, need_rules, placement_rules
from bridge_registry.scaling.plan import Loading, ScalingPlan, ScalingPosition, Seen, Sight, Way

LOAD_S: Final = 600.0
DRAIN_S: Final = 3600.0  # after that a stream that is still in flight is the engine's to finish
_AHEAD_S: Final = 600.0  # beyond the lead time, so that instances are there before the load is
_WORTH: Final = 0.1  # slots: for less than that nobody is kept loaded
_SMOOTHING: Final = 0.3
_REMEMBERED: Final = 4096


class Tell(msgspec.Struct, frozen=True):
    """Something that an operator may want to read."""

    what: str


Outcome = tuple[ScalingPosition, tuple[Tell, ...]]


def begin(plan: ScalingPlan, sight: Sight, now: float) -> ScalingPosition:
    """Where a policy begins: those that have the model in memory already are its active ones."""
    empty = ScalingPosition(plan.model, asked_at=now)
    here = [one for one in sight.instances if one.loaded]
    found = placement_rules.additions(plan, empty, here, count=plan.max, loading_nodes=(), now=now)
    active = tuple(sorted(one.id for one, _ in found))
    return _with(empty, active=active, wanted=max(plan.min, len(active)), reason="the policy is new")


def decide(plan: ScalingPlan, position: ScalingPosition, sight: Sight, now: float) -> Outcome:
    """The position after `now`, and what to tell."""
    if plan.paused:
        return _with(position, reason="the policy is paused"), ()
    told: list[Tell] = []
    position = _settled(position, sight, now, told)
    active = [one for one in sight.instances if one.id in position.active]
    known = sum(one.known for one in active)
    blind = 2 * known < len(active)
    if _asked(position, sight):
        position = _with(position, asked_at=now)
    if blind:
        wanted, why = max(plan.min, position.wanted), f"{len(active) - known} of {len(active)} do not report"
        position = _with(position, measured_at=now)
    else:
        position = need_rules.measured(plan, position, sight, active, now)
        position, wanted, why = _wanted(plan, position, sight, active, now)
    wanted = max(plan.min, min(plan.max, wanted))
    position = _with(position, wanted=wanted, reason=why)
    position = _inwards(plan, position, sight, now, told)
    position = _outwards(plan, position, sight, now, told)
    return _released(plan, position, sight, now, told), tuple(told)


def _with(position: ScalingPosition, **changes: Any) -> ScalingPosition:
    return msgspec.structs.replace(position, **changes)


def _settled(position: ScalingPosition, sight: Sight, now: float, told: list[Tell]) -> ScalingPosition:
    """Who is gone is forgotten, who left the ring is no longer active, who has loaded is."""
    seen = {one.id: one for one in sight.instances}
    active, loading = list(position.active), dict(position.loading)
    warm = {id_: at for id_, at in position.warm.items() if id_ in seen}
    failed = {id_: at for id_, at in position.failed.items() if now - at < placement_rules.FAILED_S}
    leads = dict(position.leads)
    for id_ in position.active:
        if id_ not in seen or not seen[id_].available:
            active.remove(id_)
            if id_ in seen:
                warm[id_] = now  # what it still answers goes on, and it may come back
            told.append(Tell(f"{id_} serves no longer: it is {'not available' if id_ in seen else 'gone'}"))
    for id_, load in position.loading.items():
        one = seen.get(id_)
        if one is not None and one.available and one.loaded:
            active.append(id_)
            took = max(0.0, now - load.since)
            before = leads.get(load.way, took)
            leads[load.way] = round(before + _SMOOTHING * (took - before), 3)
            told.append(Tell(f"{id_} has loaded it after {took:.1f} s ({load.way})"))
        elif one is None or not one.available or now - load.since > LOAD_S:
            failed[id_] = now
            told.append(Tell(f"{id_} did not load it"))
        else:
            continue
        del loading[id_]
    return _with(
        position, active=tuple(sorted(active)), loading=loading, warm=warm, failed=failed, leads=leads
    )


def _asked(position: ScalingPosition, sight: Sight) -> bool:
    if sight.asked:
        return True
    return any(
        one.loaded and one.alone and one.known and one.in_flight + one.queued for one in sight.instances
    )


def _wanted(
    plan: ScalingPlan, position: ScalingPosition, sight: Sight, active: list[Seen], now: float
) -> tuple[ScalingPosition, int, str]:
    every = active or list(sight.instances)
    slots = sum(one.slots for one in every) / len(every) if every else 1.0
    wanted, why = need_rules.recommended(plan, position, len(active), slots)
    wanted = min(plan.max, wanted)
    position, floor = _floor(plan, position, slots, now)
    if floor > wanted:
        wanted, why = floor, f"so many were needed at this time of day; {why}"
    return position, *_zero(plan, position, wanted, why, now)


def _floor(
    plan: ScalingPlan, position: ScalingPosition, slots: float, now: float
) -> tuple[ScalingPosition, int]:
    profile, bucket = forecast_rules.note(position.profile, position.bucket, position.need, now)
    ahead = position.lead_s("disk") + _AHEAD_S
    usual = need_rules.usual_of(position)
    soon = forecast_rules.expected(profile, usual, now, ahead) if plan.forecast else 0.0
    floor = min(plan.max, need_rules.floor_of(plan, position, soon, slots)) if soon >= _WORTH else 0
    return _with(position, profile=profile, bucket=bucket, floor=floor), floor


def _zero(plan: ScalingPlan, position: ScalingPosition, wanted: int, why: str, now: float) -> tuple[int, str]:
    """Rule 7."""
    if plan.zero_after_s is None or plan.min:
        return wanted, why
    idle = now - position.asked_at
    if idle < plan.zero_after_s:
        if not position.active and not position.loading:
            return max(1, wanted), "it was asked for"
        return max(1, wanted), why
    if position.floor:
        return wanted, why
    slowest = max(position.leads.get("disk", 0.0), position.leads.get("page-cache", 0.0))
    if slowest > plan.wake_budget_s:
        return 1, f"loading takes {slowest:.0f} s, more than the wake budget of {plan.wake_budget_s:.0f} s"
    return 0, f"nobody asked for it for {idle:.0f} s"


def _inwards(
    plan: ScalingPlan, position: ScalingPosition, sight: Sight, now: float, told: list[Tell]
) -> ScalingPosition:
    active = [one for one in sight.instances if one.id in position.active]
    still = any(not one.known for one in active)
    over = len(position.active) - plan.max  # the policy was changed: that waits for nothing
    fewer = len(position.active) + len(position.loading) - position.wanted
    if fewer <= 0:
        return position
    waits = now - max(position.in_at, position.out_at) < plan.in_s
    if (waits or sight.moving or still) and over <= 0:
        why = "a rollout is moving requests" if sight.moving else "some do not report" if still else ""
        return _with(position, reason=f"{position.reason}; {why}" if why else position.reason)
    newest = sorted(position.loading, key=lambda id_: -position.loading[id_].since)[:fewer]
    loading = {id_: one for id_, one in position.loading.items() if id_ not in newest}
    step = fewer - len(newest)
    if position.wanted:
        step = min(step, max(1, len(active) // 10))
    out = placement_rules.removals(plan, active, max(step, over))
    if out:
        told.append(Tell(f"takes out {', '.join(out)}: {position.reason}"))
    return _with(
        position,
        active=tuple(id_ for id_ in position.active if id_ not in out),
        loading=loading,
        warm={**position.warm, **dict.fromkeys(out, now)},
        released={**position.released, **dict.fromkeys(newest, now)},
        in_at=now,
    )


def _outwards(
    plan: ScalingPlan, position: ScalingPosition, sight: Sight, now: float, told: list[Tell]
) -> ScalingPosition:
    more = position.wanted - len(position.active) - len(position.loading)
    room = placement_rules.possible(plan, position, sight.instances, now)
    position = _with(position, unmet=max(0, position.wanted - room))
    replaces = len(position.active) < plan.min
    if more <= 0 or (now - position.out_at < plan.out_s and not replaces):
        return position
    found = placement_rules.additions(
        plan, position, sight.instances, count=more, loading_nodes=sight.loading_nodes, now=now
    )
    if not found:
        return position
    at_once = [one.id for one, way in found if way in {"unhide", "resident"}]
    loads: list[tuple[str, Way]] = [(one.id, way) for one, way in found if one.id not in at_once]
    if at_once:
        told.append(Tell(f"adds {', '.join(at_once)}, which has it in memory: {position.reason}"))
    if loads:
        said = ", ".join(f"{id_} ({way})" for id_, way in loads)
        told.append(Tell(f"has {said} load it: {position.reason}"))
    # Loads that follow one another under `loads_at_once` are one step: the cool-down is for the next want.
    begun = position.out_at if len(found) < more and position.loading else now
    return _with(
        position,
        active=tuple(sorted((*position.active, *at_once))),
        loading={**position.loading, **{id_: Loading(now, way) for id_, way in loads}},
        warm={id_: at for id_, at in position.warm.items() if id_ not in at_once and id_ not in dict(loads)},
        out_at=begun,
    )


def _released(
    plan: ScalingPlan, position: ScalingPosition, sight: Sight, now: float, told: list[Tell]
) -> ScalingPosition:
    seen = {one.id: one for one in sight.instances}
    gone = []
    for id_, since in position.warm.items():
        one = seen.get(id_)
        if now - since < plan.keep_warm_s or one is None:
            continue
        busy = not one.known or bool(one.in_flight + one.queued)
        if not busy or now - since > plan.keep_warm_s + DRAIN_S:
            gone.append(id_)
    if not gone:
        return position
    told.append(Tell(f"releases {', '.join(gone)}"))
    released = {id_: at for id_, at in position.released.items() if now - at < placement_rules.CACHED_S}
    released = dict(list({**released, **dict.fromkeys(gone, now)}.items())[-_REMEMBERED:])
    warm = {id_: at for id_, at in position.warm.items() if id_ not in gone}
    return _with(position, warm=warm, released=released)
