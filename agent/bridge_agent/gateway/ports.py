"""What the gateway needs of others: who continues streams that died, who pulls models, loads them, and says
which have to be signed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Protocol

from bridge_agent.loading.load_options import LoadOptions
from bridge_agent.routing.health_rules import Failure
from bridge_core.snapshot import MemberModel

if TYPE_CHECKING:
    from bridge_agent.gateway.request import RoutedRequest
    from bridge_agent.routing.view import Target
    from bridge_core.names import ModelName


class SharedRequest(Protocol):
    """What one try has of a request that was sent for several, as of a `ClientExchange`."""

    def cancel(self) -> None:
        """Gives it up: nothing more comes of it for this try."""

    def pause(self) -> None:
        """The client reads slowly."""

    def resume(self) -> None:
        """It reads again."""


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


class SignedModels(Protocol):
    """Who knows which models have to be signed."""

    def enforced(self, name: str) -> bool:
        """Whether the model of this canonical name has to be signed."""

    def refuses(self, name: str) -> bool:
        """Whether it has to be, and was not found to be."""

    async def copy(self, source: ModelName, destination: ModelName) -> bool:
        """Lists a model by another name; False: there is none. Raises NotSigned, BridgeError."""


class LoadWaiter(Protocol):
    """Who waits for a load; called from the loop, and not after it left."""

    def loaded(self) -> None:
        """The model is in memory, or its engine had better say itself what is wrong."""

    def load_failed(self, failure: Failure, detail: str) -> None:
        """It could not be loaded there."""


class ModelLoading(Protocol):
    """Who has this node's engines load models."""

    def wait(
        self,
        instance: str,
        model: MemberModel,
        options: LoadOptions,
        waiter: LoadWaiter,
        *,
        embedding: bool = False,
    ) -> bool:
        """Has `waiter` told when the model is in the instance's memory; False: it need not wait."""

    def leave(self, instance: str, waiter: LoadWaiter) -> None:
        """It waits no longer; the load that it waited for goes on if it has begun."""

    def unloaded(self, instance: str, model: str) -> None:
        """A client has the model of this canonical name taken out of the instance's memory."""

    def awaits_its_turn(self, instance: str, waiter: LoadWaiter) -> bool:
        """Whether what it waits for has not begun: other models are loaded there first."""

    def rest_s(self, instance: str) -> float:
        """Seconds until the load that goes on there is done, as far as can be told; 0: nobody knows."""
