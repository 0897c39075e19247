"""What nodes and admins ask of quotas."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from bridge_core.quotas import RESOURCES, Bucket, CellLimit, CellUse
from bridge_registry.quotas.office import QuotaOffice, QuotaStanding
from bridge_registry.quotas.usage_rules import UsageKey, Used
from bridge_registry.rpc.gate import Context, Gate
from bridge_wire.v1 import quota_pb2 as pb
from bridge_wire.v1 import quota_pb2_grpc as rpc

_MOST: Final = 1 << 53
_LONGEST: Final = 512  # of a name
_MOST_GROUPS: Final = 64
_NUMBERS: Final = {resource: number for number, resource in enumerate(RESOURCES, 1)}


class QuotaService(rpc.QuotasServicer):
    """See quota.proto.

    Args:
        gate: Admits calls.
        office: Lends.
    """

    def __init__(self, gate: Gate, office: QuotaOffice) -> None:
        self._gate = gate
        self._office = office

    async def LeaseCells(self, requests: AsyncIterator[pb.CellReport], context: Context) -> None:
        """See quota.proto. Ends when this registry stops leading, or the node has another stream."""
        async with self._gate.admit(context, "node") as peer:
            assert peer is not None  # noqa: S101 - the gate saw to it
            stream = self._office.open(peer.identity.name)
            reading = asyncio.create_task(self._read(stream, requests, context))
            try:
                while True:
                    await stream.wake.wait()
                    if stream.ended:
                        break
                    stream.wake.clear()
                    await context.write(_grants_message(stream, *self._office.grants(stream)))
            finally:
                reading.cancel()
                self._office.close(stream)  # before the wait, which may be cancelled too
                await asyncio.gather(reading, return_exceptions=True)

    async def _read(
        self, stream: QuotaStanding, requests: AsyncIterator[pb.CellReport], context: Context
    ) -> None:
        try:
            async for message in requests:
                if not self._gate.still_admitted(context, "node"):
                    break
                self._office.take(
                    stream,
                    _cells(message.cells),
                    _uses(message.uses),
                    sequence=message.sequence,
                    acknowledged=message.acknowledged,
                    began=message.began_unix_ms,
                )
        finally:
            stream.end()


class QuotaAdminService(rpc.QuotaAdminServicer):
    """See quota.proto.

    Args:
        gate: Admits calls.
        office: Knows.
    """

    def __init__(self, gate: Gate, office: QuotaOffice) -> None:
        self._gate = gate
        self._office = office

    async def Usage(self, request: pb.UsageRequest, context: Context) -> pb.UsageResponse:
        """See quota.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            found = self._office.usage(
                principal=request.principal,
                group=request.group,
                model=request.model,
                days=(request.from_day, request.to_day),
            )
            return pb.UsageResponse(
                uses=[
                    pb.UseOfModel(
                        principal=one.key.principal,
                        groups=one.key.groups,
                        model=one.key.model,
                        day=one.day,
                        requests=one.used.requests,
                        refused=one.used.refused,
                        prompt_tokens=one.used.prompt_tokens,
                        output_tokens=one.used.output_tokens,
                    )
                    for one in found
                ]
            )

    async def Use(self, request: pb.QuotaUseRequest, context: Context) -> pb.QuotaUseResponse:
        """See quota.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            return pb.QuotaUseResponse(
                buckets=[
                    pb.BucketUse(
                        bucket=_bucket_message(one.bucket),
                        amount=one.quota.amount(one.bucket.resource),
                        used=one.used,
                        nodes=one.nodes,
                        shadow=one.quota.shadow,
                        window_ms=one.quota.window_ms,
                    )
                    for one in self._office.uses()
                ]
            )


def _cells(messages: Iterable[pb.Cell]) -> Iterator[CellUse]:
    for one in messages:
        bucket = one.bucket
        if 1 <= bucket.resource <= len(RESOURCES) and max(one.used, one.wanted, one.limit) <= _MOST:
            which = Bucket(bucket.quota, bucket.of, bucket.begins_unix_ms, RESOURCES[bucket.resource - 1])
            yield CellUse(which, one.used, one.wanted, one.limit)


def _uses(messages: Iterable[pb.UseOfModel]) -> Iterator[tuple[int, UsageKey, Used]]:
    for one in messages:
        texts = (one.principal, one.model, *one.groups)
        counts = (one.requests, one.refused, one.prompt_tokens, one.output_tokens)
        if max(map(len, texts)) <= _LONGEST and len(one.groups) <= _MOST_GROUPS and max(counts) <= _MOST:
            yield one.day, UsageKey(one.principal, tuple(one.groups), one.model), Used(*counts)


def _grants_message(stream: QuotaStanding, sequence: int, limits: Iterable[CellLimit]) -> pb.CellGrants:
    return pb.CellGrants(
        sequence=sequence,
        answered=stream.answered,
        cells=[
            pb.CellGrant(bucket=_bucket_message(one.bucket), limit=one.limit, others=one.others)
            for one in limits
        ],
    )


def _bucket_message(bucket: Bucket) -> pb.Bucket:
    return pb.Bucket(
        quota=bucket.quota,
        of=bucket.of,
        begins_unix_ms=bucket.begins,
        resource=_NUMBERS[bucket.resource],  # type: ignore[arg-type]  # the enum's own numbers
    )
