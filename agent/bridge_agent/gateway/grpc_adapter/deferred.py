"""gRPC's runtimes are loaded with the first call: 12 MiB that an agent nobody calls by gRPC does without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from bridge_agent.authentication.refusal import Refused
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_core.http1 import App, Request


class Asgi(Protocol):
    """An ASGI application."""

    def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> Awaitable[None]:
        """ASGI."""


class DeferredGrpc:
    """The gRPC listener's application, made in a thread when it is first called.

    Args:
        pipeline: The gateway's entry.
        serving: What health clients are told.
        refusal: Why a call is nobody's who may call, told its head and its certificate's serial; None: it
            is somebody's.

    Attributes:
        calls: Those under way.
    """

    def __init__(
        self, pipeline: App, serving: Serving, *, refusal: Callable[[Request, str], Refused | None]
    ) -> None:
        self.calls = Calls()
        self._pipeline = pipeline
        self._serving = serving
        self._refusal = refusal
        self._made: Asgi | None = None
        self._making = asyncio.Lock()

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """ASGI."""
        if self._made is None:
            async with self._making:
                if self._made is None:
                    self._made = await asyncio.to_thread(self._make)
        await self._made(scope, receive, send)

    def _make(self) -> Asgi:
        from bridge_agent.gateway.grpc_adapter.application import SERVICE, GrpcApplication
        from bridge_agent.gateway.grpc_adapter.health import Health

        return GrpcApplication(
            self._pipeline, Health((SERVICE,), self._serving), refusal=self._refusal, calls=self.calls
        )
