"""The models of a store as the planner sees them, from their GGUF metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bridge_agent.limits.placement_rules import ModelShape
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import Fatal
from bridge_core.model_store.gguf import GgufHeader
from bridge_core.model_store.layout import ModelStore, Stored
from bridge_core.model_store.open_blob import Unseal
from bridge_core.model_store.weights import read_weights, weights_layer
from bridge_core.names import InvalidName, ModelName


def stored_shapes(
    folder: Path, names: Sequence[str], unseal: Unseal | None = None
) -> list[tuple[ModelShape, str]]:
    """Shape and digest of each named model, in that order; of every model where none is named.

    `unseal` gives the keys of those that lie sealed.

    Raises:
        Fatal: the store or one of the models is not there, or cannot be read.
    """
    if not (folder / "manifests").is_dir():
        raise Fatal(
            f"{folder} is no model store", hint="name the one that `ollama` or the engine uses with --models"
        )
    store = ModelStore(folder, unseal)
    found = []
    try:
        wanted = [_find(store, name) for name in names] or store.all()
        for stored in wanted:
            header, size = read_weights(store, weights_layer(stored))
            found.append((shape_of(stored.name.short(), header, size), stored.digest))
    except ApiError as fault:
        raise Fatal(fault.message) from fault
    except OSError as fault:
        raise Fatal(f"cannot read the models in {folder}: {fault.strerror}") from fault
    return found


def _find(store: ModelStore, name: str) -> Stored:
    try:
        stored = store.find(ModelName.parse(name))
    except InvalidName as fault:
        raise Fatal(f"{name!r} is no model's name") from fault
    if stored is None:
        there = ", ".join(one.name.short() for one in store.all()) or "none"
        raise Fatal(f"there is no model {name!r}", hint=f"the store {store.root} holds: {there}")
    return stored


def shape_of(name: str, header: GgufHeader, weight_bytes: int) -> ModelShape:
    """What a GGUF header says of the memory its model needs.

    Args:
        name: What to call it.
        header: Its metadata and tensors.
        weight_bytes: The file's size: what it maps.
    """

    def number(key: str, default: int) -> int:
        value = header.architecture_value(key)
        return value if isinstance(value, int) and value > 0 else default

    width, heads = number("embedding_length", 1), number("attention.head_count", 1)
    head = max(1, width // heads)
    rank = number("attention.kv_lora_rank", 0)
    embedding = next((one for one in header.tensors if one.name == "token_embd.weight"), None)
    vocabulary = embedding.shape[-1] if embedding is not None and embedding.shape else 1
    return ModelShape(
        name=name,
        weight_bytes=weight_bytes,
        layers=number("block_count", 1),
        kv_heads=number("attention.head_count_kv", heads),
        key_length=number("attention.key_length", head),
        value_length=number("attention.value_length", head),
        embedding_length=width,
        vocabulary=number("vocab_size", vocabulary),
        trained_context=number("context_length", 4096),
        mla_row=rank + number("rope.dimension_count", 64) if rank else 0,
        parameters=header.parameters,
        precision=header.file_type if header.file_type != "unknown" else "",
        embeds=header.architecture_value("pooling_type") is not None,
    )
