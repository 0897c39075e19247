"""Counts in protobuf: the seven fields that several messages have; agents write, registries read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypedDict

from bridge_core.counts import BOUNDS, Counts

MOST: Final = 1 << 48  # of any counter: sums over a whole mesh still fit 64 bits


class CountFields(TypedDict):
    """The fields of a message that holds counts."""

    requests: int
    errors: int
    stream_errors: int
    ttft_buckets: Sequence[int]
    ttft_seconds: float
    tokens: int
    generating_seconds: float


class CountsMessage(Protocol):
    """A message that holds counts."""

    requests: int
    errors: int
    stream_errors: int
    ttft_seconds: float
    tokens: int
    generating_seconds: float

    @property
    def ttft_buckets(self) -> Sequence[int]:
        """See `Counts.ttft`."""


def fields_of(counts: Counts) -> CountFields:
    """What a message is made with."""
    return CountFields(
        requests=counts.requests,
        errors=counts.errors,
        stream_errors=counts.stream_errors,
        ttft_buckets=counts.ttft,
        ttft_seconds=counts.ttft_s,
        tokens=counts.tokens,
        generating_seconds=counts.generating_s,
    )


def counts_of(message: CountsMessage) -> Counts | None:
    """The counts of a message that anybody may have written; None: no agent can have counted that."""
    counters = (message.requests, message.errors, message.stream_errors, message.tokens)
    if len(message.ttft_buckets) > len(BOUNDS) + 1 or max(*counters, *message.ttft_buckets) > MOST:
        return None
    # Also false for what is no number.
    if not all(0.0 <= one < MOST for one in (message.ttft_seconds, message.generating_seconds)):
        return None
    return Counts(
        message.requests,
        message.errors,
        message.stream_errors,
        tuple(message.ttft_buckets),
        message.ttft_seconds,
        message.tokens,
        message.generating_seconds,
    )
