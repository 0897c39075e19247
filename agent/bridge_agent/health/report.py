"""What an agent tells the registry of its instances' health, and how that travels."""

from __future__ import annotations

import msgspec

from bridge_core.count_messages import fields_of
from bridge_core.counts import Counts
from bridge_core.gauges import Gauge
from bridge_core.golden import GoldenAnswer
from bridge_core.verdicts import Reason
from bridge_wire.v1 import health_pb2 as pb


class InstanceHealth(msgspec.Struct, frozen=True):
    """One own instance: what is wrong with it, and what it did."""

    instance: str
    reasons: tuple[Reason, ...] = ()
    counts: Counts = Counts()


class HealthReport(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        instances: Its own.
        gauges: What the node measured.
        golden: What other nodes' instances answered lately.
    """

    instances: tuple[InstanceHealth, ...] = ()
    gauges: tuple[Gauge, ...] = ()
    golden: tuple[GoldenAnswer, ...] = ()


def health_messages(report: HealthReport) -> list[pb.InstanceHealth]:
    """The instances as protobuf."""
    return [
        pb.InstanceHealth(
            instance=one.instance,
            reasons=[
                pb.HealthReason(
                    aspect=reason.aspect,
                    code=reason.code,
                    level=reason.level,
                    text=reason.text,
                    since_unix=reason.since,
                )
                for reason in one.reasons
            ],
            counts=pb.InstanceCounts(**fields_of(one.counts)),
        )
        for one in report.instances
    ]


def gauge_messages(report: HealthReport) -> list[pb.Gauge]:
    """The gauges as protobuf."""
    return [pb.Gauge(name=one.name, of=one.of, value=one.value, limit=one.limit) for one in report.gauges]


def golden_messages(report: HealthReport) -> list[pb.GoldenAnswer]:
    """The answers as protobuf."""
    return [
        pb.GoldenAnswer(
            instance=one.instance,
            model=one.model,
            round=one.round,
            question=one.question,
            tokens=[pb.GoldenToken(text=token.text, margin=token.margin) for token in one.tokens],
            fault=one.fault,
            took_seconds=one.took_s,
        )
        for one in report.golden
    ]
