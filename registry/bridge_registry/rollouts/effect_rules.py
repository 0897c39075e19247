"""What a rollout's position makes of its route, and what agents are asked meanwhile: pure.

Rules:
1. The weights of the two backends in the ModelRoute, added up, are what the rollout divides; the
   other backends keep their shares.
2. A step of n instances narrows the canary to n of its instances, the first by id, and gives it
   their share of all instances of the two.
3. While it runs the canary is on trial: what fails there is made good by the other backends.
4. A complete rollout leaves everything with the canary, one that went back everything with stable,
   until its document is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bridge_core.names import canonical_or_same
from bridge_core.probe import Probe
from bridge_core.snapshot import Backend, Instance, Node, Route
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import RolloutPosition, step_of

_FINE: Final = 1000  # a thousandth of a request in a hundred is the smallest share


def route_under(
    route: Route,
    plan: RolloutPlan,
    position: RolloutPosition,
    instances: Iterable[Instance],
    nodes: Mapping[str, Node],
) -> Route:
    """The route as it is in force."""
    sides = {backend.key: backend for backend in route.backends}
    if plan.stable not in sides or plan.canary not in sides:
        return route  # an older document; the checks see to it otherwise
    stable, canary = sides[plan.stable], sides[plan.canary]
    all_instances = tuple(instances)
    own = eligible(canary, all_instances, nodes)
    everybody = len({*own, *eligible(stable, all_instances, nodes)})
    percent, chosen = _share(plan, position, own, everybody)
    total = (stable.weight + canary.weight) * _FINE
    taken = round(total * percent / 100.0)
    changed = {
        plan.stable: msgspec.structs.replace(stable, weight=total - taken),
        plan.canary: msgspec.structs.replace(
            canary, weight=taken, instances=chosen or canary.instances, on_trial=position.running
        ),
    }
    backends = tuple(
        changed.get(backend.key) or msgspec.structs.replace(backend, weight=backend.weight * _FINE)
        for backend in route.backends
    )
    return msgspec.structs.replace(route, backends=backends)


def probes(plan: RolloutPlan, position: RolloutPosition, route: Route) -> dict[str, Probe]:
    """Entry keys and what agents are asked."""
    sides = {backend.key: backend for backend in route.backends}
    found: dict[str, Probe] = {}
    canary, stable = sides.get(plan.canary), sides.get(plan.stable)
    if canary is not None and plan.questions and position.running and position.round:
        found[f"probe/{plan.name}/canary"] = Probe(
            plan.name,
            position.round,
            canary.model,
            canary.instances,
            canary.labels,
            plan.questions,
            plan.pass_share,
            plan.max_tokens,
        )
    if stable is not None and plan.keep_warm_s and position.running and position.step:
        warm = plan.keep_warm_s
        found[f"probe/{plan.name}/stable"] = Probe(
            plan.name, 0, stable.model, stable.instances, stable.labels, keep_alive_s=warm
        )
    return found


def eligible(backend: Backend, instances: Iterable[Instance], nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """The instances that can serve a backend, by id."""
    wanted = canonical_or_same(backend.model)
    return tuple(
        sorted(
            one.id
            for one in instances
            if one.state == "ready"
            and (not backend.instances or one.id in backend.instances)
            and _fits(nodes.get(one.node), backend.labels)
            and any(canonical_or_same(model.name) == wanted for model in one.models)
        )
    )


def _share(
    plan: RolloutPlan, position: RolloutPosition, own: tuple[str, ...], everybody: int
) -> tuple[float, tuple[str, ...]]:
    """The canary's percent, and the instances it is narrowed to; empty: it is not."""
    if position.phase == "complete":
        return 100.0, ()
    if not position.running:
        return 0.0, ()
    step = step_of(plan, position)
    if not step.instances:
        return step.percent, ()
    chosen = own[: step.instances]
    return (100.0 * len(chosen) / everybody if everybody else 0.0), chosen


def _fits(node: Node | None, labels: Mapping[str, str]) -> bool:
    return node is not None and node.state == "active" and labels.items() <= node.labels.items()
