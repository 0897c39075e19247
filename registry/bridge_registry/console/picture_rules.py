"""The picture of a mesh from what its registry knows: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bridge_core import gauges
from bridge_core.counts import Counts
from bridge_core.gauges import Gauge
from bridge_core.mesh_picture import (
    AlertPicture,
    Backend,
    GpuPicture,
    InstancePicture,
    MeshPicture,
    ModelPicture,
    NodePicture,
    RegistryPicture,
    RolloutPicture,
    RoutePicture,
    SilencePicture,
    node_state,
)
from bridge_core.names import canonical_or_same, display_or_same, natural
from bridge_core.snapshot import Instance, Snapshot
from bridge_core.traffic import Route, shares
from bridge_core.verdicts import Verdict
from bridge_registry.alerts.alert_rules import Alert
from bridge_registry.alerts.silence_rules import Silence
from bridge_registry.console.traffic_rules import WINDOW_S
from bridge_registry.membership.node_status import NodeStanding
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import RolloutPosition, step_of

_LAST_EVENTS = 20
_ALERTS = 300
_GPUS = 32  # of a node


class Seen(msgspec.Struct, frozen=True):
    """What a picture is painted from.

    Attributes:
        at_unix: The wall clock.
        ahead: Of the monotonic clock, by how many seconds the wall clock is.
        registry: Who paints.
        standings: Every node.
        rejected: Why nodes refused the last snapshot, by name.
        members: Every instance.
        snapshot: The published one.
        rollouts: Every rollout and where it stands.
        by_model: What happened in the last minute.
        by_node: The same, by the node that was called.
        alerts: Those that last first.
        silences: What people silenced.
        gauges: What nodes measured last.
    """

    at_unix: float
    ahead: float
    registry: RegistryPicture
    standings: tuple[NodeStanding, ...]
    rejected: Mapping[str, str]
    members: tuple[Instance, ...]
    snapshot: Snapshot
    rollouts: tuple[tuple[RolloutPlan, RolloutPosition], ...] = ()
    by_model: Mapping[str, Counts] = {}
    by_node: Mapping[str, Counts] = {}
    alerts: tuple[Alert, ...] = ()
    silences: tuple[Silence, ...] = ()
    gauges: Mapping[str, tuple[Gauge, ...]] = {}


def paint(seen: Seen) -> MeshPicture:
    """The picture of it."""
    members: dict[str, list[Instance]] = {}
    for one in seen.members:
        members.setdefault(one.node, []).append(one)
    return MeshPicture(
        at_unix=seen.at_unix,
        registry=seen.registry,
        nodes=tuple(
            _node(one, members.get(one.node.name, ()), seen)
            for one in sorted(seen.standings, key=lambda one: natural(one.node.name))
        ),
        models=tuple(_models(seen)),
        routes=tuple(_route(name, route) for name, route in sorted(seen.snapshot.routes.items())),
        rollouts=tuple(_rollout(plan, position, seen.snapshot) for plan, position in seen.rollouts),
        alerts=tuple(map(_alert, seen.alerts[:_ALERTS])),
        silences=tuple(
            SilencePicture(one.id, tuple(map(str, one.matchers)), one.by, one.reason, int(one.ends))
            for one in seen.silences
        ),
    )


def _node(one: NodeStanding, members: Iterable[Instance], seen: Seen) -> NodePicture:
    node, load = one.node, one.load
    counts = seen.by_node.get(node.name, Counts())
    loads = load.instances if load is not None and one.reports else {}
    heard = int(load.heard + seen.ahead) if load is not None else 0
    began = load.began // 1000 if load is not None else 0
    instances = tuple(
        _with_health(
            seen.snapshot.verdicts.get(member.id),
            InstancePicture(
                id=member.id,
                state=member.state,
                engine=member.engine,
                slots=member.slots,
                in_flight=loads.get(member.id, (0, 0))[0],
                queued=loads.get(member.id, (0, 0))[1],
                weight=member.weight,
                models=tuple(sorted(display_or_same(model.name) for model in member.models)),
                loaded=tuple(sorted(map(display_or_same, member.loaded))),
                loading=member.loading,
            ),
        )
        for member in sorted(members, key=lambda member: natural(member.id))
    )
    return NodePicture(
        name=node.name,
        state=node_state(node.state, instances=bool(instances), reports=one.reports),
        since_unix=began if one.reports else heard,
        version=node.version,
        expires_unix=int(node.expires),
        address=node.peer,
        in_flight=load.in_flight if load is not None and one.reports else 0,
        safe_to_stop=one.safe_to_stop,
        silent_to=dict(load.silent_peers) if load is not None and one.reports else {},
        rejected=seen.rejected.get(node.name, ""),
        labels=dict(node.labels),
        instances=instances,
        requests_per_s=_rate(counts.requests),
        errors_per_s=_rate(counts.failed),
        gpus=tuple(gpus_of(seen.gauges.get(node.name, ()))) if one.reports else (),
    )


def gpus_of(told: Sequence[Gauge]) -> Iterable[GpuPicture]:
    """The GPUs that a node's gauges tell of."""
    warmth = {one.of: one.value for one in told if one.name == gauges.GPU_TEMPERATURE}
    for one in [one for one in told if one.name == gauges.VRAM and one.limit > 0.0][:_GPUS]:
        used = round(100.0 * min(1.0, max(0.0, one.value / one.limit)))
        celsius = 5 * round(min(1000.0, max(0.0, warmth.get(one.of, 0.0))) / 5)
        yield GpuPicture(one.of, int(min(one.limit, 2.0**53)), used, celsius)


def _with_health(verdict: Verdict | None, one: InstancePicture) -> InstancePicture:
    if verdict is None:
        return one
    why = tuple(reason.text or reason.code for reason in verdict.reasons)
    return msgspec.structs.replace(one, health=verdict.level, why=why, out=verdict.out)


def _alert(alert: Alert) -> AlertPicture:
    seen = alert.seen
    return AlertPicture(
        name=seen.id,
        kind=seen.name,
        severity=seen.severity,
        summary=seen.summary,
        node=seen.node,
        since_unix=int(alert.since),
        ended_unix=int(alert.ended),
        command=seen.command,
        well=seen.well,
        runbook=seen.runbook,
        silenced=alert.silenced,
        instance=seen.instance,
        of=seen.of,
    )


def _models(seen: Seen) -> Iterable[ModelPicture]:
    have: dict[str, int] = {}
    loaded: dict[str, int] = {}
    for one in seen.members:
        for name in {canonical_or_same(model.name) for model in one.models}:
            have[name] = have.get(name, 0) + 1
        for name in set(map(canonical_or_same, one.loaded)):
            loaded[name] = loaded.get(name, 0) + 1
    for name in sorted(have.keys() | seen.by_model.keys(), key=display_or_same):
        counts = seen.by_model.get(name, Counts())
        yield ModelPicture(
            name=display_or_same(name),
            instances=have.get(name, 0),
            loaded=loaded.get(name, 0),
            requests_per_s=_rate(counts.requests),
            errors_per_s=_rate(counts.failed),
            tokens_per_s=_rate(counts.tokens),
            ttft_p50=counts.ttft_quantile(0.5),
            ttft_p95=counts.ttft_quantile(0.95),
        )


def _route(name: str, route: Route) -> RoutePicture:
    by_key = shares(route.backends)
    backends = tuple(Backend(one.key, display_or_same(one.model), by_key[one.key]) for one in route.backends)
    return RoutePicture(name, route.policy.strategy, backends)


def _rollout(plan: RolloutPlan, position: RolloutPosition, snapshot: Snapshot) -> RolloutPicture:
    step = step_of(plan, position)
    route = snapshot.routes.get(plan.route)
    weights = shares(route.backends) if route is not None else {}
    return RolloutPicture(
        name=plan.name,
        route=plan.route,
        phase=position.phase,
        step=position.step,
        steps=len(plan.steps),
        elapsed_s=round(position.elapsed_s),
        hold_s=step.hold_s,
        reason=position.reason,
        stable=plan.stable,
        canary=plan.canary,
        canary_share=weights.get(plan.canary, 0.0),
        stable_error_rate=position.stable.error_rate,
        canary_error_rate=position.canary.error_rate,
        canary_requests=position.canary.requests,
        events=tuple((one.at, one.what) for one in position.events[-_LAST_EVENTS:]),
    )


def _rate(count: int) -> float:
    return round(count / WINDOW_S, 3)
