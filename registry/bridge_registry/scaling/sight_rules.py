"""What a policy sees, put together from members, nodes and what agents report: pure.

Rules:
1. Seen are the instances that have the model on disk, on nodes that are enrolled.
2. An instance is known while its node's last report is no older than `FRESH_S`.
3. Requests that wait are in an agent's count of those in flight: they are told apart here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from bridge_core import node_class
from bridge_core.names import canonical_or_same
from bridge_core.node_class import NodeClass
from bridge_core.snapshot import Instance, Node, Route
from bridge_registry.membership.load_book import ModelFigures, NodeLoad
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import RolloutPosition
from bridge_registry.scaling.plan import ScalingPlan, ScalingPosition, Seen, Sight

FRESH_S: Final = 10.0
_LOCAL: Final = "local"
_NOTHING: Final = (0, 0)


class Mesh(msgspec.Struct, frozen=True):
    """What there is to see; `loads` by node, with monotonic times."""

    instances: Iterable[Instance]
    nodes: Mapping[str, Node]
    classes: Collection[NodeClass]
    loads: Mapping[str, NodeLoad]
    rollouts: Iterable[tuple[RolloutPlan, RolloutPosition]] = ()
    routes: Mapping[str, Route] = {}


def sight(
    plan: ScalingPlan,
    mesh: Mesh,
    asked: ModelFigures,
    others: Mapping[str, ScalingPosition],
    now: float,
) -> Sight:
    """What is seen for `plan` at monotonic time `now`; `others` are the other policies' positions."""
    taken = {id_ for one in others.values() for id_ in (*one.active, *one.loading)}
    return Sight(
        tuple(_seen(plan, mesh, taken, now)),
        asked.asked,
        asked.ttft,
        _moving(plan, mesh),
        frozenset(id_.partition("/")[0] for one in others.values() for id_ in one.loading),
    )


def _seen(plan: ScalingPlan, mesh: Mesh, taken: Collection[str], now: float) -> Iterable[Seen]:
    wanted = canonical_or_same(plan.model)
    for one in sorted(mesh.instances, key=lambda instance: instance.id):
        node = mesh.nodes.get(one.node)
        if node is None or not any(canonical_or_same(model.name) == wanted for model in one.models):
            continue
        load = mesh.loads.get(one.node)
        in_flight, queued = _NOTHING if load is None else load.instances.get(one.id, _NOTHING)
        known = load is not None and now - load.at <= FRESH_S and one.id in load.instances
        loaded = {canonical_or_same(name) for name in one.loaded}
        found = node_class.choose(mesh.classes, node.labels)
        yield Seen(
            one.id,
            one.node,
            _LOCAL if found is None else found.name,
            max(1, one.slots),
            max(0, in_flight - queued),
            queued,
            wanted in loaded,
            len(loaded) <= 1,
            one.state == "ready" and node.state == "active",
            known,
            one.id in taken,
        )


def _moving(plan: ScalingPlan, mesh: Mesh) -> bool:
    wanted = canonical_or_same(plan.model)
    for rollout, position in mesh.rollouts:
        route = mesh.routes.get(rollout.route)
        if route is None or not position.running:
            continue
        sides = [one for one in route.backends if one.key in {rollout.stable, rollout.canary}]
        if any(canonical_or_same(one.model) == wanted for one in sides):
            return True
    return False
