"""Between what agents report of requests and rollouts, and protobuf messages."""

from __future__ import annotations

from typing import Final

from bridge_core.counts import Counts
from bridge_core.probe import ProbeResult
from bridge_registry.membership.load_book import NodeLoadReport
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import RolloutPosition, step_of
from bridge_registry.rpc.messages import version_of
from bridge_wire.v1 import registry_pb2 as pb

_MOST_PEERS: Final = 1_000


def report_of(message: pb.LoadReport, node: str) -> NodeLoadReport:
    """What a node says; results of others' instances are left out."""
    return NodeLoadReport(
        message.began_unix_ms,
        message.in_flight,
        version_of(message.snapshot),
        {(one.route, one.backend): _counts(one) for one in message.backends},
        tuple(
            ProbeResult(one.rollout, one.round, one.instance, one.passed, one.detail[:1000])
            for one in message.probes
            if one.instance.rpartition("/")[0] == node
        ),
        {one.node: one.since_unix for one in message.silent_peers[:_MOST_PEERS]},
    )


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


def _counts(message: pb.BackendLoad) -> Counts:
    return Counts(
        message.requests,
        message.errors,
        message.stream_errors,
        tuple(message.ttft_buckets),
        message.ttft_seconds,
        message.tokens,
        message.generating_seconds,
    )
