"""What the mesh has of manifests and blobs, read here: from this node's disk, else from other nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Final

import msgspec

from bridge_agent.models.blobs import Blobs
from bridge_agent.models.claim_rules import in_order
from bridge_agent.models.manifest_finding import holders, manifest_from
from bridge_agent.models.peer_client import PeerClient, PeerFault
from bridge_agent.models.piece_links import PieceLinks
from bridge_agent.models.piece_rules import ALL, piece_size, span
from bridge_agent.models.store_reads import manifest_bytes, read_whole
from bridge_agent.routing.view import MeshView
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import ModelName

_ASKED: Final = 32


class Found(msgspec.Struct, frozen=True):
    """A blob: its digest's digits, its bytes, and the node that has it; empty: this one."""

    hex: str
    size: int
    node: str = ""


class Shelf:
    """Finds and reads.

    Args:
        blobs: Those of the models folder.
        store: Gives the store in it; asked on the loop.
        view: Says who has which model.
        peers: Asks other nodes.
    """

    def __init__(
        self, blobs: Blobs, store: Callable[[], ModelStore], view: MeshView, peers: PeerClient
    ) -> None:
        self._blobs = blobs
        self._store = store
        self._view = view
        self._peers = peers

    async def manifest(self, name: ModelName) -> bytes | None:
        """A model's manifest: this node's, else the one that the mesh means; None where nobody has it."""
        data = await asyncio.to_thread(manifest_bytes, self._store(), name)
        if data is not None:
            return data
        return await manifest_from(self._peers, name, holders(self._view, name))

    async def find(self, hex_: str) -> Found | None:
        """A blob; None where nobody who answers has all of it."""
        size = await asyncio.to_thread(self._blobs.size, hex_)
        if size is not None:
            return Found(hex_, size)
        for node in islice(in_order(hex_, self._peers.nodes()), _ASKED):
            try:
                said = await self._peers.have(node, hex_)
            except PeerFault:
                continue
            if said.have == ALL:
                return Found(hex_, said.size, node)
        return None

    async def read(self, blob: Found, begin: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of a blob from `begin` to before `end`.

        Raises:
            BridgeError: the disk or the node fails meanwhile.
        """
        whole, links = piece_size(blob.size), PieceLinks(1)
        try:
            for piece in range(begin // whole, -(-end // whole)):
                at, length = span(blob.size, piece)
                if blob.node:
                    data, _ = await self._peers.piece(blob.node, blob.hex, blob.size, piece, links)
                else:
                    found = await asyncio.to_thread(read_whole, self._blobs, blob.hex, piece)
                    if found is None:
                        raise PeerFault(f"blob {blob.hex[:12]} is gone")
                    data = found[0]
                yield data[max(0, begin - at) : min(length, end - at)]
        finally:
            links.close()
