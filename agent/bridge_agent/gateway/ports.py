"""Who continues streams that died, as requests see it: made above them by the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bridge_agent.gateway.request import RoutedRequest
    from bridge_agent.routing.view import Target


class ContinuationTask(Protocol):
    """The rest of a stream, while it is sought and generated."""

    @property
    def instance(self) -> str:
        """Where it came from last; empty while none came."""

    def stop(self) -> None:
        """Gives it up, and what it has running."""


class StreamKeeper(Protocol):
    """Who continues streams that died."""

    def opened(self, request: RoutedRequest) -> None:
        """Its stream began."""

    def closed(self, request: RoutedRequest) -> None:
        """Its stream is over."""

    def take_over(self, request: RoutedRequest, target: Target, reason: str) -> ContinuationTask | None:
        """Has the rest of a stream that died at `target` generated; None where that cannot be."""
