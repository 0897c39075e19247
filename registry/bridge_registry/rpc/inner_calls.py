"""Calls that the registry makes of its own services, for somebody who proved elsewhere who it is.

The console's acts are such calls. They go through the gate and the audit as those over gRPC do, so that there
is one place that says who may what, and one that records it.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio

from bridge_registry.rpc.gate import Context
from bridge_registry.rpc.tls_front import RpcCaller

Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]


class CallRefused(grpc.aio.AbortError):  # type: ignore[misc]  # grpc has no types
    """The service refused the call: its status, and why in a sentence."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class InnerCalls:
    """Makes them, and knows who is behind each while it lasts.

    Args:
        outer: Who is behind the name that gRPC gives a peer. Names of calls made here begin with "inner:",
            which gRPC's never do: it calls its peers by a scheme of addresses.
    """

    def __init__(self, outer: Callable[[str], RpcCaller]) -> None:
        self._outer = outer
        self._callers: dict[str, RpcCaller] = {}
        self._numbers = itertools.count()

    def caller(self, name: str) -> RpcCaller:
        """Who is behind a call, made here or by gRPC."""
        return self._callers.get(name) or self._outer(name)

    async def make(self, behaviour: Behaviour, request: Any, caller: RpcCaller) -> Any:
        """Calls a service's method as `caller`; returns its answer.

        Raises:
            CallRefused: it refused.
        """
        name = f"inner:{next(self._numbers)}"
        self._callers[name] = caller
        try:
            return await behaviour(request, cast("Context", _InnerContext(name)))
        finally:
            del self._callers[name]


class _InnerContext:
    """As much of gRPC's context as the gate, the audit and the services use."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._code: grpc.StatusCode | None = None
        self._details = ""

    def peer(self) -> str:
        return self._name

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        self._code, self._details = code, details
        raise CallRefused(code, details)

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def details(self) -> str:
        return self._details
