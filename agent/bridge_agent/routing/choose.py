"""Where a request goes: route, backend, instance, and the order in which others are tried.

Rules:
1. A name that is a route's goes to one of its backends, by weight, the same one for the same key;
   with nobody to serve it, to the other backends, then to the route's fallback.
2. Candidates have the model, are available, and are neither excluded nor ejected. When ejection
   alone would leave nobody, it is not regarded (panic).
3. Their order is the ring's, clockwise from the key; those over their bounded share of the work
   in flight come after all others, keeping that order.
4. A request that came over a hop goes to this node's own instances alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bridge_agent.routing.view import Index, Pool, Target
from bridge_core.names import InvalidName, canonical
from bridge_core.snapshot import Route

MAX_CANDIDATES: Final = 4
_MAX_FALLBACKS: Final = 4

Ejected = Callable[[str], bool]


class Skipped(msgspec.Struct, frozen=True):
    """A candidate that was passed over, and why."""

    instance: str
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """Where a request goes.

    Attributes:
        model: Canonical name of the model that serves it.
        route: The route that mapped to it; empty without one.
        rewritten: The model's name to put into the body, where a route changed it.
        candidates: Whom to try, in order; empty when nobody can serve it.
        skipped: Who was passed over.
        known: Whether anybody has the model at all.
        deadline_s: The route's limit for the whole request.
        strategy: How the order was made.
        panic: Ejections were not regarded.
    """

    model: str
    candidates: tuple[Target, ...]
    known: bool
    route: str = ""
    rewritten: str | None = None
    skipped: tuple[Skipped, ...] = ()
    deadline_s: float | None = None
    strategy: str = "ring_hash"
    panic: bool = False


class Load(msgspec.Struct, frozen=True):
    """What a choice knows of the moment.

    Attributes:
        in_flight: Requests in flight by instance id, as this agent counts them.
        ejected: Whether an instance or node is skipped at present.
        bound: ε of the bounded load.
    """

    in_flight: Mapping[str, int]
    ejected: Ejected | None = None
    bound: float = 0.25


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


def choose(index: Index, name: str, key: bytes, load: Load, *, only_local: bool = False) -> Decision:
    """Decides for a request of the model or route `name` (canonical)."""
    route = index.routes.get(name)
    if route is None or only_local:
        return _among(index, name, key, load, only_local=only_local)
    return _by_route(index, route, key, load)


def _by_route(index: Index, route: Route, key: bytes, load: Load) -> Decision:
    first: Decision | None = None
    seen = set[str]()
    hops, current = 0, route
    while True:
        seen.add(current.name)
        for model in backends_in_order(current, key):
            decision = _among(index, _canonical(model), key, load, only_local=False)
            decision = msgspec.structs.replace(
                decision, route=route.name, rewritten=model, deadline_s=route.deadline_s
            )
            if decision.candidates:
                return decision
            first = first or decision
        hops += 1
        if current.fallback is None or hops > _MAX_FALLBACKS:
            break
        fallback = index.routes.get(_canonical(current.fallback))
        if fallback is None:
            decision = _among(index, _canonical(current.fallback), key, load, only_local=False)
            if decision.candidates:
                return msgspec.structs.replace(
                    decision, route=route.name, rewritten=current.fallback, deadline_s=route.deadline_s
                )
            break
        if fallback.name in seen:
            break
        current = fallback
    return first or Decision(_canonical(route.name), (), True, route=route.name)


def backends_in_order(route: Route, key: bytes) -> list[str]:
    """The route's models: the one that `key` falls to by weight, then the others by weight."""
    total = sum(max(0, backend.weight) for backend in route.backends)
    if not total:
        return []
    digest = hashlib.md5(route.name.encode() + b"\0" + key, usedforsecurity=False).digest()
    point = int.from_bytes(digest[:8], "little") % total
    chosen = ""
    for backend in route.backends:
        if point < backend.weight:
            chosen = backend.model
            break
        point -= max(0, backend.weight)
    others = sorted(route.backends, key=lambda backend: -backend.weight)
    return [chosen, *(other.model for other in others if other.model != chosen and other.weight > 0)]


def _among(index: Index, name: str, key: bytes, load: Load, *, only_local: bool) -> Decision:
    pool = index.pool(name)
    if pool is None:
        return Decision(name, (), False)
    if len(pool.targets) == 1:
        # Nearly every model of a small mesh: no ring, no bound, no ejection (rule 2, panic).
        (target,) = pool.targets.values()
        reason = _unfit(target, only_local)
        if reason:
            return Decision(name, (), True, skipped=(Skipped(target.id, reason),))
        return Decision(name, (target,), True)
    under: list[Target] = []
    over: list[Target] = []
    ejected: list[Target] = []
    skipped: list[Skipped] = []
    room, is_ejected = _room(pool, load), load.ejected
    for id_ in pool.ring.lookup(key):
        target = pool.targets[id_]
        reason = _unfit(target, only_local)
        if reason:
            skipped.append(Skipped(id_, reason))
        elif is_ejected is not None and (is_ejected(id_) or is_ejected(node_subject(target.node))):
            ejected.append(target)
        elif room is not None and load.in_flight.get(id_, 0) >= math.ceil(room * target.weight):
            over.append(target)
            skipped.append(Skipped(id_, "over its bounded share"))
        else:
            under.append(target)
            if len(under) == MAX_CANDIDATES:
                break
    order = under + over
    panic = not order and bool(ejected)
    if panic:
        order = ejected
    else:
        skipped += [Skipped(target.id, "ejected after failures") for target in ejected]
    return Decision(name, tuple(order[:MAX_CANDIDATES]), True, skipped=tuple(skipped), panic=panic)


def _room(pool: Pool, load: Load) -> float | None:
    """Requests in flight that an instance may have per unit of weight; None while all are idle."""
    total = sum(count for id_, count in load.in_flight.items() if id_ in pool.targets)
    return (1 + load.bound) * (total + 1) / pool.weight if total and pool.weight else None


def _unfit(target: Target, only_local: bool) -> str:
    if only_local and not target.local:
        return "not of this node"
    return target.reason


def node_subject(node: str) -> str:
    """The name a node goes by in the health book (an instance's has a slash)."""
    return node


def _canonical(name: str) -> str:
    try:
        return canonical(name)
    except InvalidName:
        return name
