"""Gives each request that comes in its place in a trace. Lives in the loop that serves the listeners."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from time import monotonic

from bridge_agent.tracing.context_rules import (
    TRACEPARENT,
    TRACESTATE,
    Parent,
    Trace,
    begun,
    parent_of,
    picked,
    state_of,
)
from bridge_agent.tracing.sampling_rules import bucket
from bridge_core.http1 import Headers, Request


class _Came(Enum):
    """Which fields of a trace requests of one head have."""

    NOTHING = 0
    PARENT = 1  # once, and no tracestate
    MORE = 2


class Tracer:
    """Begins this node's part of traces.

    Args:
        ratio: The share of the traces that begin here which is kept.
        flagged_per_s: How many a second are kept because a client marked them.
        draw: Random bits, so many.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        ratio: float,
        flagged_per_s: float,
        *,
        draw: Callable[[int], int],
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._ratio = ratio
        self._flagged = bucket(flagged_per_s, now())
        self._draw = draw

    def begin(self, request: Request, now: float, *, trusted: bool = False) -> Trace:
        """The place of a request that came at `now`.

        Args:
            request: It.
            now: Monotonic seconds.
            trusted: Another node of the mesh sent it, which has decided whether its trace is kept.
        """
        came: _Came | None = request.memo.get(Tracer)
        if came is None:
            came = request.memo[Tracer] = _came(request.headers)
        parent, state = None, b""
        if came is not _Came.NOTHING:
            parent, state = _read(request.headers, came)
        bits = self._draw(128) if parent is None else 0
        if parent is None:
            sampled = picked(bits, self._ratio)
        else:
            sampled = parent.sampled and (trusted or self._flagged.take(now))
        return begun(bits, self._draw(64), parent=parent, state=state, sampled=sampled)


def _came(headers: Headers) -> _Came:
    parents = len(headers.get_all(TRACEPARENT))
    if not parents:
        return _Came.NOTHING
    return _Came.MORE if parents > 1 or TRACESTATE in headers else _Came.PARENT


def _read(headers: Headers, came: _Came) -> tuple[Parent | None, bytes]:
    if came is _Came.PARENT:
        return parent_of([headers.get(TRACEPARENT, b"")]), b""  # type: ignore[list-item]  # has a default
    parent = parent_of(headers.get_all(TRACEPARENT))
    return parent, b"" if parent is None else state_of(headers.get_all(TRACESTATE))
