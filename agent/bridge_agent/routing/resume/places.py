"""Where the rest of a stream may be asked for, in which order.

Rules:
1. Only where the very same model lies, by digest. What narrows a route's backend (labels, instances)
   holds for the rest of a stream as for its beginning: the rest may go to another backend of the
   route, never outside of them.
2. Not where the stream died a moment ago.
3. Those taken for dead come last. Before: the stream's own backend, who is not ejected, who has a free
   slot, who does not fall together with the one that died, who has the model in memory, who has less
   work for what it can do.
4. A rest that waits in a queue goes elsewhere as soon as somebody well has a free slot: the instance
   that died is often back first, and its client is in the middle of a sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from bridge_agent.routing.choose import Load, node_subject, outside
from bridge_agent.routing.view import Index, Target
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Backend

_EVERYWHERE: Final = (Backend(""),)


class ContinuationPlace(msgspec.Struct, frozen=True):
    """What the rest of a stream needs.

    Attributes:
        model: Canonical name of its model.
        digest: Of the model; empty: not known, any will do.
        route: The route that the request came by; empty without one.
        backend: Key of the route's backend that began it.
        domain: What the instance that died falls together with; empty: nothing.
    """

    model: str
    digest: str = ""
    route: str = ""
    backend: str = ""
    domain: str = ""


def places(
    index: Index, sought: ContinuationPlace, load: Load, avoided: Collection[str] = ()
) -> tuple[Target, ...]:
    """Whom to ask for the rest, in order.

    Args:
        index: The mesh.
        sought: What is asked for.
        load: The moment.
        avoided: Ids of instances that the stream died on a moment ago.
    """
    pool = index.pool(sought.model)
    if pool is None:
        return ()
    backends = _backends(index, sought)
    ranked = []
    for target in pool.targets.values():
        if not target.available or target.id in avoided:
            continue
        if sought.digest and digest_of(target, sought.model) != sought.digest:
            continue
        side = next((at for at, one in enumerate(backends) if not outside(index, one, target)), None)
        if side is not None:
            ranked.append((_rank(target, side, sought, load), target))
    return tuple(target for _, target in sorted(ranked, key=lambda pair: pair[0]))


def better(
    index: Index, sought: ContinuationPlace, load: Load, asked: str, avoided: Collection[str] = ()
) -> bool:
    """Whether the rest waits in a queue at `asked`, and asked for anew it would not wait."""
    target = index.targets.get(asked)
    if target is None or not crowded(target, load.work):
        return False
    first = next(iter(places(index, sought, load, avoided)), None)
    if first is None or first.id == asked or not _free(first, load.work):
        return False
    return not (_dead(first, load) or _ejected(first, load))


def crowded(target: Target, work: Mapping[str, int]) -> bool:
    """Whether more requests are there than it has slots for: some of them wait."""
    return work.get(target.id, 0) > target.slots


def digest_of(target: Target, model: str) -> str:
    """The digest of a model (canonical name) as an instance has it; empty when it is not known."""
    return next((known.digest for known in target.models if canonical_or_same(known.name) == model), "")


def _backends(index: Index, sought: ContinuationPlace) -> tuple[Backend, ...]:
    """The backends of this model, of the route and its fallbacks, the stream's own first.

    A route that is gone narrows nothing, nor does one that no longer has the model: a rollout may have
    ended meanwhile, and the stream is still to be finished.
    """
    found: list[Backend] = []
    seen = set[str]()
    name = canonical_or_same(sought.route) if sought.route else ""
    while name in index.routes and name not in seen:
        seen.add(name)
        route = index.routes[name]
        found += [one for one in route.backends if canonical_or_same(one.model) == sought.model]
        name = canonical_or_same(route.fallback) if route.fallback else ""
    return tuple(sorted(found, key=lambda one: one.key != sought.backend)) or _EVERYWHERE


def _rank(target: Target, side: int, sought: ContinuationPlace, load: Load) -> tuple[int | float | str, ...]:
    return (
        _dead(target, load),
        side,
        _ejected(target, load),
        not _free(target, load.work),
        bool(sought.domain) and target.failure_domain == sought.domain,
        sought.model not in target.loaded,
        load.work.get(target.id, 0) / max(1, target.capacity),
        target.id,
    )


def _free(target: Target, work: Mapping[str, int]) -> bool:
    return work.get(target.id, 0) < target.slots


def _dead(target: Target, load: Load) -> bool:
    down = load.down
    return down is not None and (down(target.id) > 0 or down(node_subject(target.node)) > 0)


def _ejected(target: Target, load: Load) -> bool:
    ejected = load.ejected
    return ejected is not None and (ejected(target.id) > 0 or ejected(node_subject(target.node)) > 0)
