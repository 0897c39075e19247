"""gRPC's runtimes are loaded with the first call: 12 MiB that an agent nobody calls by gRPC does without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_core.http1 import App


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
        admit: Whether the holder of a certificate (identity, serial) may call at all.
    """

    def __init__(self, pipeline: App, serving: Serving, *, admit: Callable[[str, str], bool]) -> None:
        self._pipeline = pipeline
        self._serving = serving
        self._admit = admit
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

        return GrpcApplication(self._pipeline, Health((SERVICE,), self._serving), admit=self._admit)
