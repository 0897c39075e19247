"""What other nodes and clients are given of this node's store. Everything here blocks: run it in threads."""

from __future__ import annotations

import hashlib

from bridge_agent.models.blob_files import read_piece
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.manifest_rules import MOST_MANIFEST
from bridge_agent.models.piece_rules import piece_count
from bridge_core.dialects.errors import ApiError
from bridge_core.model_store.layout import ModelStore, read_bounded
from bridge_core.names import ModelName


def read_whole(blobs: Blobs, hex_: str, piece: int) -> tuple[bytes, str] | None:
    """A piece of a whole blob, and its hash; None: it is not here.

    Raises:
        BlobFault: it cannot be read, or does not open.
    """
    found = blobs.open(hex_)
    if found is None:
        return None
    with found:
        if piece >= piece_count(found.size):
            return None
        data = read_piece(found.read, found.size, piece)
    return data, hashlib.sha256(data).hexdigest()


def manifest_bytes(store: ModelStore, name: ModelName) -> bytes | None:
    """A manifest as it lies on the disk, its name compared as Ollama does; None where there is none."""
    try:
        found = store.find(name)
    except ApiError:  # a damaged one is none
        return None
    if found is None:
        return None
    path = store.manifest_path(found.name)
    if path.is_symlink():
        return None
    try:
        return read_bounded(path, MOST_MANIFEST)
    except (OSError, ValueError):
        return None
