"""The node's audit log, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bridge_agent.audit.input_keys import InputKeys
from bridge_agent.audit.rendering import Rendering
from bridge_agent.gateway.config import RequestRecord
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView
from bridge_core.audit.cosigning import Cosigning
from bridge_core.audit.entries import AuditRecord
from bridge_core.audit.queue import AuditLog
from bridge_core.sealing import Sealer
from bridge_core.security_settings import AuditSettings

LOG: Final = "log"
INPUT_KEYS: Final = "input-keys"


def made_of(
    folder: Path,
    identity: str,
    node: str,
    view: MeshView,
    sealer: Sealer,
    *,
    seen: Sequence[Callable[[RequestRecord, AuditRecord], None]] = (),
) -> AuditLog:
    """The log under `folder`.

    Args:
        folder: The node's, for all of its audit.
        identity: The node's SPIFFE id: without its scheme it is the log's origin.
        node: The node's name.
        view: Has the snapshot, and in it how the log is kept.
        sealer: Seals records where the mesh says so.
        seen: See `Rendering`.
    """

    def settings() -> AuditSettings:
        return view.current.mesh.audit

    keys = InputKeys(folder / INPUT_KEYS)
    reading = Rendering(node, keys, lambda: view.current, seen=seen)
    origin = identity.removeprefix("spiffe://")
    return AuditLog(
        folder / LOG,
        origin,
        reading,
        together=reading.together,
        settings=settings,
        sealer=sealer,
        tidied=keys.forget,
    )


def cosigning_of(audit: AuditLog, view: MeshView, upstreams: Upstreams) -> Cosigning:
    """Who has the log's heads cosigned by other nodes."""
    return Cosigning(
        audit,
        lambda: list(view.current.nodes.values()),
        lambda node: upstreams.link(node.name, node.peer),
        own=view.index.node,
        many=lambda: view.current.mesh.audit.cosigners,
    )
