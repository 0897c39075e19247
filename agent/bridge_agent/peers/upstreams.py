"""Connections to where requests go: this node's engines, and the peers' mutual-TLS links.

Over a link that is known to be cut (`link_rules`) only questions are sent, which find out when it is whole
again; requests fail at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from bridge_agent.peers.hop import VARYING_BACK
from bridge_agent.peers.way import PeerWay
from bridge_agent.routing.link_rules import LinkBook
from bridge_agent.routing.view import Index, MeshView, Target
from bridge_core.addresses import split_address
from bridge_core.errors import BridgeError
from bridge_core.http1 import ConnectFailed, Pool
from bridge_core.http1.limits import PoolLimits
from bridge_core.http1.pool import Address
from bridge_core.tls import SslObject, verify_peer

log = structlog.get_logger()

CONNECT_S: Final = 2.0  # a dead peer must be found out well before a client loses patience


class PeerTls(Protocol):
    """Where contexts for outgoing links come from; `bridge_core.tls.TlsIdentity` is one."""

    def client(self) -> ssl.SSLContext:
        """A client's context, kept current when the certificate is renewed."""


class Upstreams:
    """Pools by instance (local) and by node (peers), closed when the snapshot drops them.

    Args:
        view: The mesh; also names the trust domain that peers must be of.
        tls: This node's identity; None where there are no peers.
        local_address: Where a local instance's engine is connected to; by default its address.
            An engine in a network namespace of its own is reached through a socket factory.
        connect_s: Longest connect, in seconds.

    Attributes:
        links: What is known of the links to the peers.
    """

    def __init__(
        self,
        view: MeshView,
        tls: PeerTls | None,
        local_address: Callable[[Target], Address] | None = None,
        *,
        connect_s: float = CONNECT_S,
    ) -> None:
        self._view = view
        self._tls = tls
        self._peer_limits = PoolLimits(connect_s=connect_s, silence_s=4.0)
        self._local_limits = PoolLimits(connect_s=connect_s, idle=512)
        self._context: ssl.SSLContext | None = None
        self._local_address = local_address or (lambda target: split_address(target.address))
        self.links = LinkBook()
        self._pools: dict[tuple[str, str], Pool] = {}
        self._cut: set[str] = set()
        self._ways: dict[tuple[str, str], Pool] = {}  # of those the ones that requests may take
        self._closing: set[asyncio.Task[None]] = set()
        view.subscribe(self._prune)

    def pool(self, target: Target) -> Pool:
        """The pool of an instance's engine, or of its node's peer link.

        Raises:
            ConnectFailed: the link is cut, or the node's address is none.
        """
        if target.local:
            pool = self._ways.get((target.id, target.address))
            return pool if pool is not None else self._open_local(target)
        pool = self._ways.get((target.node, target.address))
        return pool if pool is not None else self._open_way(target.node, target.address)

    def link(self, node: str, address: str) -> Pool:
        """The link to a node's peer listener, cut or not."""
        pool = self._pools.get((node, address))
        return pool if pool is not None else self._open_peer(node, address)

    def way(self, target: Target) -> PeerWay:
        """How to make a connection of one's own to a node.

        Raises:
            ConnectFailed: as `pool` does.
        """
        self.pool(target)  # which knows whether the link is cut, and makes the context
        check = self._check_of(target.node)
        return PeerWay(target.node, split_address(target.address), self._context, check)

    def cut(self, node: str) -> None:
        """Sends nothing to a node whose link is cut; called when that may have come about."""
        if self.links.fault(node) and node not in self._cut:
            self._cut.add(node)
            for key in [key for key in self._ways if key[0] == node]:
                del self._ways[key]

    def mend(self, node: str) -> None:
        """The node answered."""
        self._cut.discard(node)

    def unreachable(self, target: Target, reason: str) -> str:
        """What to tell a client whose request could not be brought to a peer."""
        # The pool's words name the node, which these do already.
        bare = reason.removeprefix(f"cannot connect to {_label(target.node)}: ")
        bare = bare.replace(f"connecting to {_label(target.node)} took", "connecting took")
        return self.links.words(self._view.index.node, target.node, target.address, bare)

    def reset(self, node: str, address: str) -> None:
        """Drops the link to a node that does not answer; requests on their way there fail."""
        self._ways.pop((node, address), None)
        pool = self._pools.pop((node, address), None)
        if pool is not None:
            self._close(pool)

    async def close(self) -> None:
        """Closes every connection; requests under way fail."""
        pools, self._pools, self._ways = list(self._pools.values()), {}, {}
        for pool in pools:
            await pool.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _open_local(self, target: Target) -> Pool:
        # Ollama answers 403 to Host names that are not local.
        _, port = split_address(target.address)
        pool = Pool(
            self._local_address(target),
            host=b"127.0.0.1:%d" % port,
            label=f"the engine {target.id}",
            limits=self._local_limits,
        )
        self._pools[target.id, target.address] = self._ways[target.id, target.address] = pool
        return pool

    def _open_way(self, node: str, address: str) -> Pool:
        if node in self._cut:
            raise ConnectFailed(self.links.fault(node))
        try:
            pool = self._ways[node, address] = self.link(node, address)
        except BridgeError as fault:
            raise ConnectFailed(fault.message, hint=fault.hint) from fault
        return pool

    def _open_peer(self, node: str, address: str) -> Pool:
        if self._tls is not None and self._context is None:
            self._context = self._tls.client()

        pool = Pool(
            split_address(address),
            ssl=self._context,
            verify_peer=self._check_of(node) if self._context is not None else None,
            host=address.encode(),
            label=_label(node),
            limits=self._peer_limits,
            varying=VARYING_BACK,
        )
        self._pools[node, address] = pool
        return pool

    def _check_of(self, node: str) -> Callable[[SslObject | None], None]:
        def check(ssl_object: SslObject | None) -> None:
            domain = self._view.current.mesh.trust_domain
            verify_peer(ssl_object, trust_domain=domain, kind="node", name=node)

        return check

    def _prune(self, index: Index) -> None:
        """Closes pools to addresses that nobody has any more.

        An engine that went takes its streams with it; a peer's address may be gone from the
        snapshot while its streams still run, so its pool only closes once nothing uses it.
        """
        wanted = {(target.id, target.address) for target in index.local}
        wanted |= {(node.name, node.peer) for node in index.snapshot.nodes.values()}
        for key, pool in list(self._pools.items()):
            if key not in wanted and pool.size == pool.idle:
                del self._pools[key]
                self._ways.pop(key, None)
                self._close(pool)
        nodes = index.snapshot.nodes.keys()
        self.links.forget(nodes)
        self._cut &= nodes

    def _close(self, pool: Pool) -> None:
        task = asyncio.get_running_loop().create_task(pool.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _label(node: str) -> str:
    return f"node {node}"
