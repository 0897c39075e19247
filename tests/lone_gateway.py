"""A gateway of its own before engines, in a mesh of one node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from bridge_agent.batching.batching_rules import BatchingPolicy
from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.config import GatewayConfig, ListenerKind
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView
from bridge_core import http1
from bridge_core.snapshot import MeshConfig, RoutePolicy, Snapshot, Version, encode_entry

NODE = "bench"
_POLICY, _BATCHING = RoutePolicy(), BatchingPolicy()  # as where nothing is said of them


@contextlib.asynccontextmanager
async def gateway_before(
    engines: Sequence[LocalInstance],
    *,
    policy: RoutePolicy = _POLICY,
    batching: BatchingPolicy | None = _BATCHING,
) -> AsyncIterator[tuple[Gateway, http1.Pool]]:
    """The gateway, and connections to it."""
    view = MeshView(NODE)
    upstreams = Upstreams(view, None)
    async with asyncio.TaskGroup() as group:
        config = GatewayConfig(node=NODE, host_name=NODE, batching=batching)
        gateway = Gateway(config, view, upstreams, group)
        entry = encode_entry(MeshConfig(defaults=policy))
        view.publish(Snapshot(Version(1, 1), {"mesh": entry}))
        view.publish_local(tuple(engines))
        server = await http1.serve(gateway.http_app(ListenerKind.LOCAL), name="http")
        pool = http1.Pool(("127.0.0.1", server.port))
        try:
            yield gateway, pool
        finally:
            await pool.close()
            await server.close()
    await upstreams.close()
