"""The manifest that the mesh means by a model's name, from the nodes that have it."""

from __future__ import annotations

import hashlib

import msgspec
import structlog

from bridge_agent.models.peer_client import PeerClient, PeerFault
from bridge_agent.routing.view import MeshView
from bridge_core.model_digests import meant
from bridge_core.names import ModelName

log = structlog.get_logger()


class Holders(msgspec.Struct, frozen=True):
    """The digest that the mesh means by a name, and the other nodes that list it; empty: none is known."""

    digest: str
    nodes: tuple[str, ...]


def holders(view: MeshView, name: ModelName) -> Holders:
    """Which other nodes have a model as the mesh means it (`model_digests`)."""
    copies = [copy for copy in view.index.copies(str(name).lower()).values() if not copy.own]
    wanted = meant(copies)
    nodes = [copy.node for copy in copies if copy.model.digest == wanted] if wanted else []
    return Holders(wanted.removeprefix("sha256:"), tuple(dict.fromkeys(nodes)))


async def manifest_from(peers: PeerClient, name: ModelName, known: Holders) -> bytes | None:
    """The manifest with the digest that is meant; None where nobody who answers has it."""
    for node in known.nodes:
        try:
            data = await peers.manifest(node, str(name))
        except PeerFault as refusal:
            log.info("manifest_not_given", node=node, reason=refusal.message)
            continue
        if hashlib.sha256(data).hexdigest() == known.digest:
            return data
        log.warning("manifest_wrong", node=node, model=name.short())
    return None
