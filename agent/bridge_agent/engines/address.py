"""How an engine is connected to: by its address, or inside its private network."""

from __future__ import annotations

import asyncio
import socket

from bridge_agent.engines.network import connect_inside
from bridge_core.http1.pool import Address

CONNECT_S = 2.0


def engine_address(host: str, port: int, network_pid: int) -> Address:
    """What a pool connects to.

    Args:
        host: Where the engine listens.
        port: The same.
        network_pid: A process of the network namespace that this is in; 0: the agent's own.
    """
    if not network_pid:
        return host, port

    async def connect() -> socket.socket:
        return await asyncio.to_thread(connect_inside, network_pid, (host, port), CONNECT_S)

    return connect
