"""A second attempt beside a slow first one: whichever answers first is the answer.

Only for calls that do not stream, only where the policy says so, only to an instance that is free
now, and only within the retry budget: a hedge is a retry that does not wait for the failure.
"""

from __future__ import annotations

from abc import abstractmethod

from bridge_agent.gateway.core import Core
from bridge_agent.gateway.relay import forwarded
from bridge_agent.routing.view import Target
from bridge_core.http1 import PoolBusy, PoolClosed, Request, UpstreamError
from bridge_core.http1.client import ClientExchange, ResponseHead, ResponseSink


class Hedged(ResponseSink):
    """A request that may be hedged."""

    __slots__ = ()

    @abstractmethod
    def adopt(self, hedge: Hedge) -> None:
        """The hedge answered first: it is the running attempt from here on."""


class Hedge(ResponseSink):
    """The second attempt; `drop` it when it is not wanted any more.

    Attributes:
        target: Where it went.
        upstream: The request there; None once it failed.
        slot_at: Since when it has a slot of an own instance; None: it has none.
    """

    __slots__ = ("_adopted", "_core", "_hedged", "slot_at", "target", "upstream")

    def __init__(self, core: Core, hedged: Hedged, target: Target, slot_at: float | None) -> None:
        self.target = target
        self.slot_at = slot_at
        self.upstream: ClientExchange | None = None
        self._core = core
        self._hedged = hedged
        self._adopted = False

    def send(self, request: Request, without: frozenset[bytes], extra: bytes, body: bytes) -> bool:
        """Sends what `forwarded` makes of the request; False when that cannot be now."""
        try:
            pool = self._core.upstreams.pool(self.target)
            self.upstream = pool.send(forwarded(request, pool.host, without, extra, body), self)
        except (PoolBusy, PoolClosed):
            self._give_slot_back(suspect=False)
            return False
        self._core.counters.begin(self.target.id)
        self._core.counters.hedges += 1
        self._core.retrying += 1
        return True

    def drop(self) -> None:
        """Cancels it."""
        if self.upstream is not None:
            self.upstream.cancel()
            self._end(suspect=True)

    def _give_slot_back(self, *, suspect: bool) -> None:
        if self.slot_at is not None:
            held = self._core.now() - self.slot_at
            self._core.admission.give_back(self.target.id, held, suspect=suspect)

    def _end(self, *, suspect: bool = False) -> None:
        self.upstream = None
        self._give_slot_back(suspect=suspect)
        self._core.counters.end(self.target.id)
        self._core.retrying -= 1

    def on_head(self, head: ResponseHead) -> None:
        """See `ResponseSink`: a refusal or failure is no answer, the first attempt goes on alone."""
        if head.status != 200:
            self.drop()
            return
        self._adopted = True
        self._core.retrying -= 1
        self._core.counters.hedges_won += 1
        self._hedged.adopt(self)
        self._hedged.on_head(head)

    def on_data(self, data: bytes) -> None:
        """See `ResponseSink`."""
        self._hedged.on_data(data)

    def on_end(self) -> None:
        """See `ResponseSink`."""
        self._hedged.on_end()

    def on_error(self, error: UpstreamError) -> None:
        """See `ResponseSink`."""
        if self._adopted:
            self._hedged.on_error(error)
        else:
            self._end()
