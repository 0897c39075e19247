"""Which instances: the cheapest to add, the cheapest to take out. Pure.

Rules:
1. Cost decides: one that was only hidden, one that has the model in memory anyhow, one whose file is
   likely in the page cache, one that reads it from disk. Only then the outside can be asked for more.
2. Of equal cost, first one that holds no other model that is scaled, then the least busy one, then by id.
3. No more than the budget of its node's class; of a class without one none, where there are budgets.
4. No two loads on one node at a time, and no more together than the policy allows: they share a disk.
5. Taken out is first what is over its budget, then who has the least to finish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from bridge_registry.scaling.plan import WAYS, ScalingPlan, ScalingPosition, Seen, Way

CACHED_S = 3600.0  # so long a file that was mapped is likely in the page cache
FAILED_S = 300.0  # so long one that did not load is not asked again


def way_of(one: Seen, position: ScalingPosition, now: float) -> Way:
    """How the instance would come to serve the model."""
    if one.id in position.warm and one.loaded:
        return "unhide"
    if one.loaded:
        return "resident"
    return "page-cache" if now - position.released.get(one.id, -CACHED_S) < CACHED_S else "disk"


def additions(
    plan: ScalingPlan,
    position: ScalingPosition,
    instances: Iterable[Seen],
    *,
    count: int,
    loading_nodes: Collection[str],
    now: float,
) -> list[tuple[Seen, Way]]:
    """Whom to add, in the order of cost: as many as can be now, `count` at most."""
    known = {one.id: one for one in instances}
    holding = {*position.active, *position.loading}
    classes = Counter(known[id_].node_class for id_ in holding if id_ in known)
    nodes = {*loading_nodes, *(known[id_].node for id_ in position.loading if id_ in known)}
    loads = plan.loads_at_once - len(position.loading)
    found: list[tuple[Seen, Way]] = []
    for one, way in _by_cost(position, (one for one in known.values() if one.id not in holding), now):
        if len(found) >= count:
            break
        if not has_room(plan, classes, one.node_class):
            continue
        if way in {"page-cache", "disk"}:
            if loads <= 0 or one.node in nodes:
                continue
            loads -= 1
            nodes.add(one.node)
        classes[one.node_class] += 1
        found.append((one, way))
    return found


def possible(plan: ScalingPlan, position: ScalingPosition, instances: Iterable[Seen], now: float) -> int:
    """How many could hold the model in all, budgets regarded and loads left time."""
    classes: Counter[str] = Counter()
    for one in instances:
        holds = one.id in position.active or one.id in position.loading
        if (holds or _can(one, position, now)) and has_room(plan, classes, one.node_class):
            classes[one.node_class] += 1
    return classes.total()


def removals(plan: ScalingPlan, active: Iterable[Seen], count: int) -> list[str]:
    """Whom to take out."""
    order = sorted(active, key=lambda one: (one.in_flight + one.queued, one.id))
    classes = Counter(one.node_class for one in order)
    over: list[Seen] = []
    for one in order:
        if plan.budgets and classes[one.node_class] > plan.budgets.get(one.node_class, 0):
            classes[one.node_class] -= 1
            over.append(one)
    chosen = [*over, *(one for one in order if one not in over)]
    return [one.id for one in chosen[:count]]


def has_room(plan: ScalingPlan, classes: Counter[str], node_class: str) -> bool:
    """Whether one more instance of the class is within its budget."""
    return not plan.budgets or classes[node_class] < plan.budgets.get(node_class, 0)


def _by_cost(position: ScalingPosition, instances: Iterable[Seen], now: float) -> list[tuple[Seen, Way]]:
    ways = [(one, way_of(one, position, now)) for one in instances if _can(one, position, now)]
    return sorted(
        ways,
        key=lambda pair: (
            WAYS.index(pair[1]),
            pair[0].taken,
            pair[0].in_flight + pair[0].queued,
            pair[0].id,
        ),
    )


def _can(one: Seen, position: ScalingPosition, now: float) -> bool:
    return one.available and now - position.failed.get(one.id, -FAILED_S) >= FAILED_S
