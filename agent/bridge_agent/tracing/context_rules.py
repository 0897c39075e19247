"""What of a trace comes with a request and goes on with it: W3C Trace Context, level 1. Pure.

Rules (https://www.w3.org/TR/trace-context-1/):
1. A `traceparent` that is malformed, comes more than once or has an id of zeros alone is none: a new trace
   begins, and the `tracestate` beside it is dropped.
2. A version that is not known yet is read by what version 00 has of it; what is passed on is version 00.
3. What is passed on has this node's span as its parent, and of the flags `sampled` alone.
4. `tracestate` is passed on as it came. One with a malformed member, a key twice or more than 32 members is
   dropped whole; of one that is too long the members that have no room are. Nobody makes us read on and on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
FIELDS: Final = frozenset({TRACEPARENT, TRACESTATE})
"""The fields by which a trace travels."""

_PARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_SAMPLED: Final = 0x01
_KEY: Final = rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER: Final = re.compile(rb"(%b)=[ -+\--<>-~]{0,255}[!-+\--<>-~]" % _KEY)
_MOST_MEMBERS: Final = 32
_MOST_STATE: Final = 512  # characters that everybody has to pass on
_LONG_MEMBER: Final = 128  # such ones go first
_RANDOM_BITS: Final = 56
_ALL: Final = 1 << _RANDOM_BITS


class Parent(msgspec.Struct, frozen=True, gc=False):
    """What a `traceparent` says: hexadecimal ids, and whether its sender may have recorded its span."""

    trace_id: bytes
    span_id: bytes
    sampled: bool


class Trace(msgspec.Struct, frozen=True, gc=False):
    """Where a request stands in its trace.

    Attributes:
        trace_id: 32 lower-case hexadecimal digits.
        span_id: This node's span: 16 of them.
        sampled: Whether the span is kept, whatever comes of the request; every node after this one is told.
        parent_id: The span it belongs under; empty: it begins the trace.
        state: The `tracestate` to pass on; empty: none.
    """

    trace_id: bytes
    span_id: bytes
    sampled: bool
    parent_id: bytes = b""
    state: bytes = b""

    def lines(self) -> bytes:
        """The header lines that pass it on."""
        line = b"traceparent: 00-%b-%b-0%d\r\n" % (self.trace_id, self.span_id, self.sampled)
        return b"%btracestate: %b\r\n" % (line, self.state) if self.state else line


def parent_of(values: Sequence[bytes]) -> Parent | None:
    """What the `traceparent` fields of a request say; None: nothing that counts."""
    found = _PARENT.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if more is not None and version == b"00":
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def state_of(values: Sequence[bytes]) -> bytes:
    """The `tracestate` to pass on, of the fields as they came; empty: none."""
    whole = b",".join(values)
    if whole.count(b",") >= 2 * _MOST_MEMBERS:  # some may be empty
        return b""
    members = [member for one in whole.split(b",") if (member := one.strip(b" \t"))]
    if len(members) > _MOST_MEMBERS:
        return b""
    keys = set[bytes]()
    for member in members:
        found = _MEMBER.fullmatch(member)
        if found is None or found.group(1) in keys:
            return b""
        keys.add(found.group(1))
    return b",".join(_fitting(members))


def _fitting(members: list[bytes]) -> list[bytes]:
    """Those that have room: the oldest, which stand last, go first, and before them the long ones."""
    kept = members
    for candidates in ([one for one in members if len(one) > _LONG_MEMBER], members):
        for member in reversed(candidates):
            if sum(map(len, kept)) + len(kept) - 1 <= _MOST_STATE:
                return kept
            kept = [one for one in kept if one is not member]
    return kept


def begun(trace_bits: int, span_bits: int, *, parent: Parent | None, state: bytes, sampled: bool) -> Trace:
    """This node's place in a request's trace.

    Args:
        trace_bits: 128 random bits, of which a new trace's id is made.
        span_bits: 64 random bits.
        parent: What came with the request.
        state: Likewise.
        sampled: Whether the span is kept, whatever comes of the request.
    """
    span_id = b"%016x" % (span_bits or 1)
    if parent is None:
        return Trace(b"%032x" % (trace_bits or 1), span_id, sampled)
    return Trace(parent.trace_id, span_id, sampled, parent.span_id, state)


def picked(trace_bits: int, ratio: float) -> bool:
    """Whether a new trace is one of the share `ratio` (0 to 1) that is kept.

    Decided by the last 56 bits of its id against a threshold, as OpenTelemetry's consistent probability
    sampling does it: whoever else samples by that keeps the same ones, and of two ratios the larger one
    keeps all that the smaller one does.
    """
    return trace_bits % _ALL >= _ALL - round(ratio * _ALL)
