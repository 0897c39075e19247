"""Lists a model in this node's store, once all of it is there. Everything here blocks: run it in threads."""

from __future__ import annotations

from bridge_agent.models.blob_files import give_like, make_folders
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.manifest_rules import blobs_of
from bridge_core.dialects.errors import ApiError
from bridge_core.files import write_atomically
from bridge_core.model_store.layout import Manifest, ModelStore, disk_errors, hex_digest
from bridge_core.names import ModelName


def list_model(blobs: Blobs, store: ModelStore, name: ModelName, data: bytes, manifest: Manifest) -> bool:
    """Writes a manifest, as the bytes that came, whose blobs are all there; False: it was not written.

    Raises:
        BridgeError: the disk refuses.
    """
    with store.changing:  # nothing is removed between the look and the manifest that says it is used
        if _lacks(blobs, manifest):
            return False
        _write(store, name, data)
    return True


def _lacks(blobs: Blobs, manifest: Manifest) -> bool:
    """Whether a blob is gone again: an engine may delete a model that shares it."""
    return any(blobs.size(hex_digest(one.digest)) != one.size for one in blobs_of(manifest))


def _write(store: ModelStore, name: ModelName, data: bytes) -> None:
    try:
        replaced = store.find(name)
    except ApiError:  # a damaged one is what this mends
        replaced = None
    path = store.manifest_path(replaced.name if replaced else name)
    with disk_errors():
        make_folders(store.manifests, path.parent)
        write_atomically(path, data, mode=0o644)
        give_like(store.manifests, path)
    if replaced is not None:
        store.prune(replaced.manifest)
