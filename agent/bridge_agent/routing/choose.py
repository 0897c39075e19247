"""Where a request goes: route, backend, instance, and the order in which others are tried.

Rules:
1. A name that is a route's goes to one of its backends, by weight, the same one for the same key;
   with nobody to serve it, to the other backends, then to the route's fallback. What goes to a backend
   on trial has the next one that is not to spare.
2. Candidates have the model, by the digest that its name means (`model_digests`), are available, and are
   neither down nor ejected. No more than the policy's share of them is ejected at once; with too few
   healthy ones left, ejection is not regarded (panic); those that are down are asked when there is
   nobody else.
3. Their order is the strategy's. On the ring, those over their bounded share of the work come
   after all others, keeping the ring's order, and those that have yet to load the model after those that
   have it in memory. The share is of the candidates' work among the
   candidates: what lies idle outside a narrowed backend, or is down, takes none of it.
   A conversation that is cached somewhere, and whatever could go to a far node, goes where its first
   token is to be expected soonest (`outlook_rules`), over the share or not.
   Of a model that nobody has in memory one copy is loaded for a burst, however many agents it came in at: its
   requests go to whoever loads it already, over the share or not, else where its name is on the ring.
4. A request that came over a hop goes to this node's own instances alone, and is treated as the route
   says that it came by there.
5. An instance of weight 0, and of a model that is scaled one that is no active holder of it, is for when
   nobody else can: by every strategy it comes last, and on the ring, where it has no place, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from bridge_agent.routing import strategies
from bridge_agent.routing.moment import Load, Skips
from bridge_agent.routing.outlook import Outlook
from bridge_agent.routing.outlook_rules import soonest_first
from bridge_agent.routing.strategies import MAX_CANDIDATES, ramp
from bridge_agent.routing.view import Index, ModelPool, Skipped, Target
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Backend, Route, RoutePolicy
from bridge_core.traffic import split

__all__ = [
    "MAX_CANDIDATES",
    "Decision",
    "Load",
    "Skipped",
    "choose",
    "named_choice",
    "node_subject",
    "only_choice",
    "outside",
]

_MAX_FALLBACKS: Final = 4
# Strategies that send a model's requests where it is in memory; the others spread them on purpose.
_ONE_LOAD: Final = frozenset({"ring_hash", "residency"})
_PLAIN: Final = RoutePolicy()


class Decision(msgspec.Struct, frozen=True):
    """Where a request goes.

    Attributes:
        model: Canonical name of the model that serves it.
        route: The route that mapped to it; empty without one.
        rewritten: The model's name to put into the body, where a route changed it.
        candidates: Whom to try, in order; empty when nobody can serve it.
        skipped: Who was passed over.
        known: Whether anybody has the model at all.
        strategy: How the order was made.
        panic: Ejections were not regarded.
        policy: How the request is treated.
        backend: Which of the route's backends; empty without a route.
        key: What the choice hung on besides the mesh's state.
        work: Each candidate's work when it was chosen.
        spare: Who makes it good when this backend, which is on trial, fails it; None elsewhere.
    """

    model: str
    candidates: tuple[Target, ...]
    known: bool
    route: str = ""
    rewritten: str | None = None
    skipped: tuple[Skipped, ...] = ()
    strategy: str = "only"
    panic: bool = False
    policy: RoutePolicy = _PLAIN
    backend: str = ""
    key: bytes = b""
    work: tuple[int, ...] = ()
    spare: Decision | None = None


def only_choice(index: Index, name: str) -> Decision | None:
    """The decision for a model that one available instance has and no route names, else None.

    It is `choose`'s own and depends on nothing else, so it is made once an index.
    """
    known: Decision | None = index.settled.get(name)
    if known is not None:
        return known
    pool = index.pool(name)
    if name in index.routes or pool is None or len(pool.targets) != 1:
        return None
    decision = choose(index, name, b"", Load({}))
    if not decision.candidates:
        return None
    index.settled[name] = decision
    return decision


def named_choice(index: Index, name: str, instance: str, came_by: str = "") -> Decision | None:
    """The decision for a model at the very instance that another agent chose; None where it cannot be.

    `came_by` is the route that it was asked for by, there.
    """
    target = index.targets.get(instance)
    if target is None or not (target.local and target.available):
        return None
    # The other agent knows what it means by the name: here it may be another digest.
    if instance not in index.copies(name):
        return None
    return Decision(name, (target,), True, strategy="named", policy=_policy(index, came_by))


def choose(
    index: Index, name: str, key: bytes, load: Load, *, only_local: bool = False, came_by: str = ""
) -> Decision:
    """Decides for a request of the model or route `name` (canonical).

    Over a hop the other agent has decided on the model: it is to be one of this node's (`only_local`),
    treated as the route says that it `came_by` there.
    """
    route = index.routes.get(name)
    if route is None or only_local:
        return _among(index, name, key, load, _policy(index, came_by), only_local=only_local)
    return _by_route(index, route, key, load)


def _policy(index: Index, route: str) -> RoutePolicy:
    """How requests by this route are treated; empty, or not known here: as those by none."""
    found = index.routes.get(canonical_or_same(route)) if route else None
    return index.defaults if found is None else found.policy


def _by_route(index: Index, route: Route, key: bytes, load: Load) -> Decision:
    """Asks backend after backend, then the fallback; the route first named says how it is treated."""
    first: Decision | None = None
    trial: Decision | None = None
    seen = set[str]()
    current: Route | None = route
    while current is not None and current.name not in seen and len(seen) <= _MAX_FALLBACKS:
        seen.add(current.name)
        for backend in split(current, key):
            if trial is not None and backend.on_trial:
                continue
            decision = _of_backend(index, route, backend, key, load)
            if decision.candidates:
                if trial is not None:
                    return msgspec.structs.replace(trial, spare=decision)
                if not backend.on_trial:
                    return decision
                trial = decision
            first = _telling(first, decision)
        if trial is not None:
            return trial
        if current.fallback is None:
            break
        follow = index.routes.get(canonical_or_same(current.fallback))
        if follow is None:
            decision = _of_backend(index, route, Backend(current.fallback), key, load)
            if decision.candidates:
                return decision
            first = _telling(first, decision)
        current = follow
    return first or Decision(canonical_or_same(route.name), (), True, route=route.name, policy=route.policy)


def _telling(first: Decision | None, other: Decision) -> Decision:
    """Of two decisions without candidates the one to tell: a model that is down exists, all the same."""
    return first if first is not None and (first.known or not other.known) else other


def _of_backend(index: Index, route: Route, backend: Backend, key: bytes, load: Load) -> Decision:
    decision = _among(index, canonical_or_same(backend.model), key, load, route.policy, backend=backend)
    return msgspec.structs.replace(
        decision, route=route.name, rewritten=backend.model, backend=backend.key, policy=route.policy
    )


def _among(
    index: Index,
    name: str,
    key: bytes,
    load: Load,
    policy: RoutePolicy,
    *,
    backend: Backend | None = None,
    only_local: bool = False,
) -> Decision:
    rotation, narrowed = name, backend is not None and backend.narrowed
    if backend is None or not narrowed:
        pool = index.pool(name)
    else:
        # Each set of candidates has its turns: one that is not among them is forgotten.
        rotation, within = f"{name} {backend.labels} {backend.instances}", backend
        pool = index.part(rotation, name, lambda target: outside(index, within, target))
    if pool is None:
        return Decision(name, (), False, policy=policy, key=key)
    skipped = list(pool.others)
    if len(pool.targets) == 1 and not narrowed:
        # Nearly every model of a small mesh: no ring, no bound, no ejection (rule 2).
        fit = tuple(_fit(pool.targets.values(), skipped, only_local))
        return Decision(name, fit, True, skipped=tuple(skipped), policy=policy, key=key)
    cold = load.cold is not None and not pool.warm and policy.strategy in _ONE_LOAD
    on_ring = cold or policy.strategy == "ring_hash"
    reserve = pool.reserve  # (rule 5), not on the ring
    at = name.encode() if cold else key
    targets = _clockwise(pool, at) if on_ring else pool.targets.values()
    candidates: Iterable[Target] = _fit(targets, skipped, only_local)
    if reserve:
        light = (target for target in pool.targets.values() if target.id in reserve)
        candidates = [*candidates, *(_fit(light, skipped, only_local) if on_ring else ())]
    panic = False
    if load.ejected is not None or load.down is not None:
        candidates, panic = _healthy(list(candidates), load, policy, skipped)
    elif narrowed:
        candidates = list(candidates)
    last: list[Target] = []
    if reserve:
        last = [target for target in candidates if target.id in reserve]
        candidates = [target for target in candidates if target.id not in reserve]
    begun = set[str]()
    if cold:
        candidates = list(candidates)
        begun = _loading(name, candidates, load)
    if begun:
        ranked = sorted(candidates, key=lambda one: one.id not in begun)
        order = tuple(strategies.apart(ranked)[:MAX_CANDIDATES])
    else:
        order = _order(pool, candidates, load, policy, skipped, rotation="" if on_ring else rotation)
    if last:
        order = (*order, *last)[:MAX_CANDIDATES]
    work = tuple(load.work.get(target.id, 0) for target in order)
    return Decision(
        name, order, True, "", None, tuple(skipped), policy.strategy, panic, policy, "", key, work
    )


def _clockwise(pool: ModelPool, key: bytes) -> Iterator[Target]:
    """The ring's order, as far as it is looked at; compiled, a generator expression is a whole list."""
    for id_ in pool.ring.lookup(key):
        yield pool.targets[id_]


def _loading(name: str, candidates: list[Target], load: Load) -> set[str]:
    """Those that bring the model into memory already."""
    sent = load.cold(name) if load.cold is not None else ""
    return {one.id for one in candidates if one.id == sent or one.load_of(name) is not None}


def _order(
    pool: ModelPool,
    candidates: Iterable[Target],
    load: Load,
    policy: RoutePolicy,
    skipped: list[Skipped],
    *,
    rotation: str,
) -> tuple[Target, ...]:
    """The candidates in the order of the strategy; `rotation`: whose turns these are, empty on the ring."""
    work, window = load.work, policy.slow_start_s
    slow = {
        id_: pool.targets[id_].capacity * ramp(age, window)
        for id_, age in load.ages.items()
        if age < window and id_ in pool.targets
    }
    if not rotation:
        room = _room(pool, candidates, work, policy.bounded_load)
        under, over = strategies.ring_hash(candidates, pool.name, slow, work, room)
        if load.outlook is not None:
            under += _cached(pool, candidates, under + over, load.outlook)
            return _soonest(pool, under, over, load, skipped)
        skipped += [Skipped(target.id, "over its bounded share") for target in over]
        return tuple(strategies.apart(under + over)[:MAX_CANDIDATES])
    listed = list(candidates)
    shares = {target.id: slow.get(target.id, target.capacity) for target in listed}
    if policy.strategy == "round_robin":
        return tuple(strategies.round_robin(listed, shares, load.turns, rotation))
    if policy.strategy == "least_request":
        order = strategies.least_request(listed, shares, work, load.draw)
    else:
        order = strategies.residency(listed, pool.name, shares, work, load.draw)
    if load.outlook is not None and load.outlook.far:
        return _soonest(pool, order, [], load, skipped)
    return tuple(order)


def _cached(
    pool: ModelPool, candidates: Iterable[Target], looked_at: list[Target], outlook: Outlook
) -> list[Target]:
    """The candidates that the conversation is cached at and that the ring was not followed to."""
    among = {one.id for one in candidates} if isinstance(candidates, list) else pool.targets.keys()
    ids = outlook.cached.keys() - {one.id for one in looked_at}
    return [pool.targets[id_] for id_ in sorted(ids & among) if pool.targets[id_].available]


def _soonest(
    pool: ModelPool, under: list[Target], over: list[Target], load: Load, skipped: list[Skipped]
) -> tuple[Target, ...]:
    """Those of this order where the first token is to be expected soonest, by `outlook_rules`."""
    timed = soonest_first([*under, *over], pool.name, load.work, load.outlook or Outlook())
    if not timed:
        return ()
    best_s, best = timed[0]
    passed = {one.id for one in (under[: under.index(best)] if best in under else under) + over}
    for seconds, one in timed:
        if one.id in passed and one is not best:
            reason = f"first token expected after {seconds:.2f} s, from {best.id} after {best_s:.2f} s"
            skipped.append(Skipped(one.id, reason))
    return tuple(strategies.apart([one for _, one in timed])[:MAX_CANDIDATES])


def _room(
    pool: ModelPool, candidates: Iterable[Target], work: Mapping[str, int], bound: float
) -> float | None:
    """Work that an instance may have per unit of capacity; None while all are idle."""
    if isinstance(candidates, list):
        total = sum(work.get(target.id, 0) for target in candidates)
        capacity = sum(target.capacity for target in candidates)
    else:  # all of the pool, which is looked at only as far as needed
        total = sum(count for id_, count in work.items() if id_ in pool.targets)
        capacity = pool.capacity
    return (1 + bound) * (total + 1) / capacity if total and capacity else None


def _fit(targets: Iterable[Target], skipped: list[Skipped], only_local: bool) -> Iterator[Target]:
    """Those that may serve the request at all; the others are noted with the reason."""
    for target in targets:
        reason = target.reason
        if only_local and not target.local:
            reason = "not of this node"
        if reason:
            skipped.append(Skipped(target.id, reason))
        else:
            yield target


def outside(index: Index, backend: Backend, target: Target) -> str:
    """Why an instance is none of a backend's; empty where it is one."""
    if backend.instances and target.id not in backend.instances:
        return "not an instance of this backend"
    node = index.node_record(target.node)
    labels = {} if node is None else node.labels
    if any(labels.get(name) != value for name, value in backend.labels.items()):
        return "its node lacks the backend's labels"
    return ""


def _healthy(
    fit: list[Target], load: Load, policy: RoutePolicy, skipped: list[Skipped]
) -> tuple[list[Target], bool]:
    """Rule 2: those that are well, keeping their order, and whether ejection was disregarded."""
    left = {target.id: _left(load.ejected, target) for target in fit}
    dead = {target.id for target in fit if _left(load.down, target) > 0}
    alive = [target for target in fit if target.id not in dead]
    if not alive:
        return fit, bool(fit)
    outlier = policy.outlier
    ejected = sorted((target.id for target in alive if left[target.id] > 0), key=lambda id_: left[id_])
    panic = len(alive) - len(ejected) < outlier.panic_threshold * len(alive)
    # Those whose time is nearly over come back first.
    allowed = 0 if panic else max(1, int(outlier.max_ejected * len(alive)))
    out = set(ejected[max(0, len(ejected) - allowed) :]) if allowed else set()
    well = [target for target in alive if target.id not in out]
    skipped += [Skipped(target.id, "does not answer") for target in fit if target.id in dead]
    skipped += [Skipped(id_, "ejected after failures") for id_ in ejected if id_ in out]
    return well, panic


def _left(skips: Skips | None, target: Target) -> float:
    return 0.0 if skips is None else max(skips(target.id), skips(node_subject(target.node)))


def node_subject(node: str) -> str:
    """The name a node goes by in the health book (an instance's has a slash)."""
    return node
