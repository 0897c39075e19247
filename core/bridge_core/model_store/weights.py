"""The weights of a stored model: which layer they are, and what its header says."""

from __future__ import annotations

from typing import Final

from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.model_store.gguf import GgufHeader, NotGguf
from bridge_core.model_store.layout import Layer, ModelStore, Stored

EMBEDDING_BATCH: Final = 2048
"""Tokens that an embedding model reads at a time: a text is embedded in one batch or not at all."""


def weights_layer(stored: Stored) -> Layer:
    """The layer that holds the weights.

    Raises:
        ApiError: 500; the manifest names none.
    """
    for layer in stored.manifest.layers:
        if layer.kind == "model":
            return layer
    raise ApiError(500, f"{stored.name.short()} has no weights: its manifest names no model layer")


def read_weights(store: ModelStore, layer: Layer) -> tuple[GgufHeader, int]:
    """The header of a layer of weights, and the bytes of its text.

    Raises:
        ApiError: 500; it is missing or damaged, or sealed and does not open.
    """
    path = store.blob_path(layer.digest)
    try:
        return store.header(layer.digest)
    except OSError as fault:
        raise ApiError(500, f"weights are missing: {path.name}; pull or create the model again") from fault
    except NotGguf as fault:
        raise ApiError(500, f"weights are damaged: {path.name}: {fault.message}") from fault
    except BridgeError as fault:
        raise ApiError(500, f"weights do not open: {path.name}: {fault}") from fault
