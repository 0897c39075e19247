"""Who makes the call that a library serves: its own context does not carry the connection."""

from __future__ import annotations

from contextvars import ContextVar

from bridge_agent.gateway.grpc_adapter.callers import GrpcCaller

caller: ContextVar[GrpcCaller] = ContextVar("caller")
