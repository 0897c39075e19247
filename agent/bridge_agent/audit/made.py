"""The node's audit log, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bridge_agent.audit.rendering import Rendering
from bridge_agent.routing.view import MeshView
from bridge_core.audit.input_keys import InputKeys
from bridge_core.audit.queue import AuditLog
from bridge_core.security_settings import AuditSettings

LOG: Final = "log"
INPUT_KEYS: Final = "input-keys"


def made_of(folder: Path, identity: str, node: str, view: MeshView) -> AuditLog:
    """The log under `folder`.

    Args:
        folder: The node's, for all of its audit.
        identity: The node's SPIFFE id: without its scheme it is the log's origin.
        node: The node's name.
        view: Has the snapshot, and in it how the log is kept.
    """

    def settings() -> AuditSettings:
        return view.current.mesh.audit

    keys = InputKeys(folder / INPUT_KEYS)
    reading = Rendering(node, keys, lambda: view.current, settings)
    origin = identity.removeprefix("spiffe://")
    return AuditLog(folder / LOG, origin, reading, settings=settings, tidied=keys.forget)
