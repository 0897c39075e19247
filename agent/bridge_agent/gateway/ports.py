"""What the gateway needs of others: who continues streams that died, and who pulls models."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from bridge_agent.gateway.request import RoutedRequest
    from bridge_agent.routing.view import Target
    from bridge_core.names import ModelName


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


class ModelSource(Protocol):
    """Who pulls models to this node."""

    def records(self, name: ModelName, *, insecure: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        """Ollama's records of a pull, the last one `success`. Raises BridgeError."""
