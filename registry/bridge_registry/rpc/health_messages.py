"""What agents report of health, read as what hostile agents might have written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bridge_core import golden
from bridge_core.bounds import MAX_REASON
from bridge_core.count_messages import MOST, counts_of
from bridge_core.counts import Counts
from bridge_core.gauges import MAX_GAUGES, NAMES, OF_INSTANCE, Gauge
from bridge_core.golden import GoldenAnswer, Token
from bridge_core.snapshot import Snapshot
from bridge_core.verdicts import ASPECTS, LEVELS, MAX_REASONS, Reason
from bridge_registry.health.reported import InstanceHealth, NodeHealthReport
from bridge_registry.health.standing_rules import lead
from bridge_wire.v1 import health_pb2 as pb
from bridge_wire.v1 import registry_pb2

_MOST_INSTANCES: Final = 256
_MOST_ANSWERS: Final = 1024
_MOST_TEXT: Final = 256
_LATE_ROUNDS: Final = 6  # clocks differ by 20 s at most


def health_of(
    message: registry_pb2.LoadReport, node: str, snapshot: Snapshot, now: float
) -> NodeHealthReport:
    """What a node says at `now` (Unix seconds), as far as it can be.

    Left out is what is about other nodes' instances, what no agent can have measured, and what was asked out
    of turn: of an instance in a round only the node whose turn it is may speak.
    """
    own = snapshot.instances_of.get(node, frozenset())
    return NodeHealthReport(
        tuple(
            InstanceHealth(one.instance, tuple(_reasons(one)), counts_of(one.counts) or Counts())
            for one in message.health[:_MOST_INSTANCES]
            if one.instance in own
        ),
        tuple(
            Gauge(one.name, one.of[:_MOST_TEXT], one.value, one.limit)
            for one in message.gauges[:MAX_GAUGES]
            if one.name in NAMES
            and 0.0 <= one.value < MOST * MOST
            and 0.0 <= one.limit < MOST * MOST
            and (one.name not in OF_INSTANCE or one.of in own)
        ),
        tuple(_answers(message, node, snapshot, now)),
        lead(message.now_unix, now),
        frozenset(one.node for one in message.silent_peers if one.node in snapshot.nodes),
    )


def _answers(
    message: registry_pb2.LoadReport, node: str, snapshot: Snapshot, now: float
) -> Iterator[GoldenAnswer]:
    active, current = snapshot.active_nodes, golden.round_of(now)
    for one in message.golden[:_MOST_ANSWERS]:
        instance = snapshot.instances.get(one.instance)
        if instance is None or abs(one.round - current) > _LATE_ROUNDS:
            continue
        if golden.asker_of(instance.id, instance.node, active, one.round) != node:
            continue
        if one.question != golden.question_of(one.round):
            continue
        tokens = tuple(
            Token(token.text[:_MOST_TEXT], token.margin if 0.0 <= token.margin <= 1e6 else -1.0)
            for token in one.tokens[: golden.MAX_TOKENS]
        )
        took = one.took_seconds if 0.0 <= one.took_seconds < MOST else 0.0
        yield GoldenAnswer(
            instance.id,
            one.model[:_MOST_TEXT],
            one.round,
            one.question,
            tokens,
            one.fault[:MAX_REASON],
            took,
            now,
        )


def _reasons(message: pb.InstanceHealth) -> Iterator[Reason]:
    for one in message.reasons[:MAX_REASONS]:
        # Whether its answers are right is not its own agent's to say.
        if one.aspect not in ASPECTS or one.aspect == "business" or one.level not in LEVELS:
            continue
        since = one.since_unix if 0.0 <= one.since_unix < 1e11 else 0.0
        yield Reason(one.aspect, one.code[:64], one.level, one.text[:MAX_REASON], since)
