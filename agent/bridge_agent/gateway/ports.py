"""Between a request whose stream died and who has its rest generated: each side implements its part whole."""

from __future__ import annotations

from typing import Protocol

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.asked import AskedBody
from bridge_agent.gateway.routes import HttpRoute
from bridge_agent.gateway.stream_filter import StreamFilter
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.request_rules import FailedAttempt
from bridge_agent.routing.view import Target
from bridge_core.http1 import Exchange


class ContinuableRequest(Protocol):
    """A request whose answer is a stream that may be continued; it alone changes what is read here."""

    @property
    def arrival(self) -> Arrival:
        """The request as it came."""

    @property
    def exchange(self) -> Exchange:
        """The client's."""

    @property
    def route(self) -> HttpRoute:
        """By which it came."""

    @property
    def asked(self) -> AskedBody:
        """What it asks for."""

    @property
    def stream(self) -> StreamFilter | None:
        """Its answer."""

    @property
    def head_at(self) -> float:
        """When its answer began."""

    @property
    def serving(self) -> Decision:
        """The decision that holds."""

    def stalled(self) -> None:
        """The stream has been silent for longer than it ever is: it counts as died."""

    def rest_failed(self, attempt: FailedAttempt) -> None:
        """A try to have the rest generated failed."""

    def carry(self, data: bytes) -> None:
        """Passes on what the rest of the stream brought."""

    def carried(self) -> None:
        """The rest of the stream came whole."""

    def given_up(self, message: str) -> None:
        """Nobody could continue the stream."""


class ContinuationTask(Protocol):
    """The rest of a stream, while it is sought and generated."""

    @property
    def instance(self) -> str:
        """Where it came from last; empty while none came."""

    def stop(self) -> None:
        """Gives it up, and what it has running."""


class StreamKeeper(Protocol):
    """Who continues streams that died."""

    def opened(self, request: ContinuableRequest) -> None:
        """Its stream began."""

    def closed(self, request: ContinuableRequest) -> None:
        """Its stream is over."""

    def take_over(self, request: ContinuableRequest, target: Target, reason: str) -> ContinuationTask | None:
        """Has the rest of a stream that died at `target` generated; None where that cannot be."""
