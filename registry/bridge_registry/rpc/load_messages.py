"""Between what agents report of requests and rollouts, and protobuf messages."""

from __future__ import annotations

from typing import Final

from bridge_core.bounds import MAX_REASON
from bridge_core.count_messages import MOST, counts_of
from bridge_core.counts import BOUNDS, Counts
from bridge_core.formats import spoken
from bridge_core.names import canonical_or_same
from bridge_core.probe import ProbeResult
from bridge_core.snapshot import Snapshot
from bridge_registry.membership.load_book import ModelFigures, NodeLoadReport
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import RolloutPosition, step_of
from bridge_registry.rpc.messages import version_of
from bridge_wire.v1 import registry_pb2 as pb

_MOST_ISSUERS: Final = 8
_PIN_DIGITS: Final = 64
_MOST_MODELS: Final = 512  # more than an agent keeps
_LONGEST_MODEL: Final = 512
_LONGEST_VERSION: Final = 64


def report_of(message: pb.LoadReport, node: str, snapshot: Snapshot, now: float) -> NodeLoadReport:
    """What a node says at `now` (Unix seconds), as far as it can be.

    Left out is what is not in `snapshot` (backends, rollouts, clients, instances, also other nodes') and what
    no agent can have counted: nothing that a node makes up is kept or added to what others say.
    """
    asked = {probe.rollout for probe in snapshot.probes}
    known = {(route.name, one.key) for route in snapshot.routes.values() for one in route.backends}
    return NodeLoadReport(
        message.began_unix_ms,
        message.in_flight,
        version_of(message.snapshot),
        {
            (one.route, one.backend): counts
            for one in message.backends
            if (one.route, one.backend) in known and (counts := counts_of(one)) is not None
        },
        tuple(
            ProbeResult(one.rollout, one.round, one.instance, one.passed, one.detail[:MAX_REASON])
            for one in message.probes
            if one.rollout in asked
            and one.instance in snapshot.instances
            and snapshot.instances[one.instance].node == node
        ),
        {one.node: one.since_unix for one in message.silent_peers if one.node in snapshot.nodes},
        frozenset(one for one in message.trusts[:_MOST_ISSUERS] if len(one) == _PIN_DIGITS),
        {
            name: min(used, int(now))
            for name, used in message.clients_used_unix.items()
            if name in snapshot.clients
        },
        {
            one.instance: (min(one.in_flight, MOST), min(one.queued, MOST))
            for one in message.instances
            if one.instance in snapshot.instances and snapshot.instances[one.instance].node == node
        },
        {
            one.model: counts
            for one in message.models[:_MOST_MODELS]
            if len(one.model) <= _LONGEST_MODEL and (counts := counts_of(one)) is not None
        },
        _demand(message, snapshot),
        message.version[:_LONGEST_VERSION],
        spoken(message.speaks, proves=bool(message.trusts)),
    )


def _demand(message: pb.LoadReport, snapshot: Snapshot) -> dict[str, ModelFigures]:
    scaled = {canonical_or_same(one.model) for one in snapshot.holders}
    found: dict[str, ModelFigures] = {}
    for one in message.scaled_models:
        if one.model not in scaled or len(one.ttft_buckets) > len(BOUNDS) + 1:
            continue
        if max(one.asked, *one.ttft_buckets) > MOST or not 0.0 <= one.ttft_seconds < MOST:
            continue
        found[one.model] = ModelFigures(
            one.asked, Counts(ttft=tuple(one.ttft_buckets), ttft_s=one.ttft_seconds)
        )
    return found


def rollout_message(
    plan: RolloutPlan, position: RolloutPosition, weights: dict[str, float]
) -> pb.RolloutStatus:
    """A rollout; `weights` are the shares in force, by backend."""
    step = step_of(plan, position)
    return pb.RolloutStatus(
        name=plan.name,
        route=plan.route,
        phase=position.phase,
        step=position.step,
        steps=len(plan.steps),
        elapsed_seconds=position.elapsed_s,
        hold_seconds=step.hold_s,
        reason=position.reason,
        stable=_side(plan.stable, position.stable, weights),
        canary=_side(plan.canary, position.canary, weights),
        events=[pb.RolloutEvent(at_unix=int(one.at), what=one.what) for one in position.events],
    )


def _side(backend: str, counts: Counts, weights: dict[str, float]) -> pb.RolloutSide:
    return pb.RolloutSide(
        backend=backend,
        share=weights.get(backend, 0.0),
        requests=counts.requests,
        error_rate=counts.error_rate,
        stream_error_rate=counts.stream_error_rate,
        ttft_p50=counts.ttft_quantile(0.5),
        ttft_p95=counts.ttft_quantile(0.95),
        tokens_per_second=counts.tokens_per_s,
    )
