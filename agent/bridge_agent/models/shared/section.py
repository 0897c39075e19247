"""The part of `agent.json` that names shared storage."""

from __future__ import annotations

import os.path
from typing import Annotated

import msgspec


class SharedSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mounted folder in the layout of Ollama's store, below the node's own disk.

    Attributes:
        path: Where it is mounted, absolute.
        publish: This node may write models into it; without, nothing is ever written there.
        timeout_s: How long one read or write may take before the storage counts as away, in seconds.
    """

    path: Annotated[str, msgspec.Meta(pattern="^/[^\x00]*$", min_length=2, max_length=4096)]
    publish: bool = False
    timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=300.0)] = 20.0


def shared_faults(section: SharedSection | None, stores: tuple[str, ...]) -> list[str]:
    """Why this folder cannot be the tier below these models folders of the node.

    What evicts models from a node's own store must never reach the one that all share.
    """
    if section is None:
        return []
    shared = os.path.normpath(section.path)
    return [
        f"models.shared.path {section.path} and the node's models folder {store}: one lies in the other; "
        "name a folder of its own for each"
        for store in stores
        if os.path.commonpath((shared, os.path.normpath(store))) in {shared, os.path.normpath(store)}
    ]
