"""Between what an agent and the registry say of quotas, and protobuf messages."""

from __future__ import annotations

from typing import Final

from bridge_agent.membership.registry_api import Grants
from bridge_agent.quotas.stream_rules import QuotaReport
from bridge_core.quotas import RESOURCES, Bucket, CellLimit
from bridge_wire.v1 import quota_pb2 as pb

_NUMBERS: Final = {resource: number for number, resource in enumerate(RESOURCES, 1)}


def report_message(began_unix_ms: int, report: QuotaReport) -> pb.CellReport:
    """A report as it is sent."""
    return pb.CellReport(
        sequence=report.sequence,
        acknowledged=report.acknowledged,
        began_unix_ms=began_unix_ms,
        cells=[
            pb.Cell(bucket=_bucket(one.bucket), used=one.used, wanted=one.wanted, limit=one.limit)
            for one in report.cells
        ],
        uses=[
            pb.UseOfModel(
                principal=key.principal,
                groups=key.groups,
                model=key.model,
                day=key.day,
                requests=use.requests,
                refused=use.refused,
                prompt_tokens=use.prompt_tokens,
                output_tokens=use.output_tokens,
            )
            for key, use in report.uses.items()
        ],
    )


def grants_of(message: pb.CellGrants) -> Grants:
    """What a registry said; what this agent has no word for is left out."""
    return Grants(
        message.sequence,
        message.answered,
        tuple(
            CellLimit(
                Bucket(
                    one.bucket.quota,
                    one.bucket.of,
                    one.bucket.begins_unix_ms,
                    RESOURCES[one.bucket.resource - 1],
                ),
                one.limit,
                one.others,
            )
            for one in message.cells
            if 1 <= one.bucket.resource <= len(RESOURCES)
        ),
    )


def _bucket(bucket: Bucket) -> pb.Bucket:
    return pb.Bucket(
        quota=bucket.quota,
        of=bucket.of,
        begins_unix_ms=bucket.begins,
        resource=_NUMBERS[bucket.resource],  # type: ignore[arg-type]  # the enum's own numbers
    )
