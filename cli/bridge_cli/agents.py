"""Asking every agent of a mesh, as an admin, over their peer listeners."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

import msgspec

from bridge_cli.access import Access
from bridge_cli.connection import status_of
from bridge_core.addresses import split_address
from bridge_core.command.plain_text import one_line
from bridge_core.errors import BridgeError
from bridge_core.http1 import Pool
from bridge_core.tls import client_context, verify_peer

_TIMEOUT_S: Final = 15.0
_MOST: Final = 1 << 30
_LONGEST_REASON: Final = 200  # bytes of what a node says that it cannot do


class Said(msgspec.Struct):
    """What the agents answered, by node: a body, or why there is none."""

    bodies: dict[str, bytes]
    silent: dict[str, str]


async def ask_agents(
    to: Access, path: str, *, first: bool = False, only: str | None = None, within_s: float = _TIMEOUT_S
) -> Said:
    """Sends `GET path` to every node that the registry knows, or to `only` that one.

    Args:
        to: The mesh, and as whom it is asked.
        path: What is asked for, with its query.
        first: Ask one node after the other, and only until one answers.
        only: Ask this node alone.
        within_s: How long a node may take.

    Raises:
        BridgeError: no registry answers, or an identity cannot be used.
    """
    status = await status_of(to)
    context = client_context(to.cert, to.key, to.ca)
    said = Said({}, {})
    nodes = [node for node in status.nodes if node.state != "revoked" and only in (None, node.name)]
    if only is not None and not nodes:
        raise BridgeError(f"there is no node {only!r}", hint="`bridgectl nodes` lists them")

    async def one(node: Any) -> None:
        try:
            async with asyncio.timeout(within_s):
                said.bodies[node.name] = await _ask(node, path, context, status.trust_domain)
        except (BridgeError, OSError, TimeoutError) as fault:
            said.silent[node.name] = str(fault) or "it did not answer in time"

    if not first:
        await asyncio.gather(*(one(node) for node in nodes))
        return said
    for node in nodes:
        await one(node)
        if said.bodies:
            break
    return said


async def _ask(node: Any, path: str, context: ssl.SSLContext, trust_domain: str) -> bytes:
    pool = link(node.name, node.peer_address, context, trust_domain)
    try:
        async with pool.request("GET", path, ()) as response:
            body: bytes = await response.read(_MOST)
    finally:
        await pool.close()
    if response.status != 200:
        why = one_line(body[:_LONGEST_REASON].decode(errors="replace"), _LONGEST_REASON)
        raise BridgeError(f"it answered {response.status}" + (f": {why}" if why else ""))
    return body


def link(node: str, address: str, context: ssl.SSLContext, trust_domain: str) -> Pool:
    """Connections to a node's peer listener; the caller closes them.

    Raises:
        BridgeError: the node has no address.
    """
    if not address:
        raise BridgeError("it has no address yet")

    def check(ssl_object: ssl.SSLObject) -> None:
        verify_peer(ssl_object, trust_domain=trust_domain, kind="node", name=node)

    return Pool(split_address(address), ssl=context, verify_peer=check)
