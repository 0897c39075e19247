"""Writes a GGUF file of a given shape, one tensor at a time.

A pool of random numbers is drawn once from the seed and quantised once; every tensor is a stretch
of it that starts elsewhere. So the bytes depend on shape, weight type and seed alone, a 7B file is
made at the speed of the disk, and no more than one tensor is ever held in memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge_engine.modelgen.shapes import (
    BYTE_TOKENS,
    SPECIAL_TOKENS,
    LlamaShape,
    Shape,
    ShapeFault,
    Tensor,
    parameter_count,
)
from bridge_engine.templates.known import CHATML_JINJA

if TYPE_CHECKING:
    import numpy as np

_POOL = 1 << 22  # numbers; long enough that no two rows of a small model are alike
_SPREAD = 0.05  # standard deviation: wide enough that greedy answers differ from prompt to prompt
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # llama.cpp's token types


class WeightType(NamedTuple):
    """A way to store weights: GGUF's number for it, and how many numbers one block packs."""

    file_type: int
    block: int


WEIGHT_TYPES: Mapping[str, WeightType] = MappingProxyType(
    {
        "f32": WeightType(0, 1),
        "f16": WeightType(1, 1),
        "q4_0": WeightType(2, 32),
        "q8_0": WeightType(7, 32),
    }
)


def generate(
    path: Path,
    shape: Shape,
    *,
    weights: str = "f16",
    seed: int = 1,
    name: str = "",
    pooling: int | None = None,
    jinja: str = CHATML_JINJA,
) -> None:
    """Writes a model of random weights to `path`, whole or not at all.

    Args:
        path: Where the file goes; an existing one is replaced.
        shape: What it is like; see PRESETS.
        weights: One of WEIGHT_TYPES.
        seed: Same seed, shape and weight type: same bytes.
        name: Goes into the file as `general.name`; empty leaves that out.
        pooling: llama.cpp's pooling type, which makes it an embedding model (1 is the mean).
        jinja: The chat template that it carries.

    Raises:
        ShapeFault: The shape contradicts itself, or its rows do not divide into blocks.
        OSError: The file cannot be written.
    """
    import gguf

    shape.validate()
    if weights not in WEIGHT_TYPES:
        raise ShapeFault(f"unknown weight type {weights!r}", hint=f"one of {', '.join(WEIGHT_TYPES)}")
    _check_blocks(shape, weights)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    writer = gguf.GGUFWriter(partial, shape.architecture)
    try:
        _describe(writer, shape, weights, name, pooling)
        writer.add_chat_template(jinja)
        _write_tensors(writer, shape, weights, seed)
        writer.close()
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_blocks(shape: Shape, weights: str) -> None:
    block = WEIGHT_TYPES[weights].block
    for tensor in shape.tensors():
        if tensor.kind == "weight" and tensor.columns % block:
            raise ShapeFault(
                f"{tensor.name}: rows of {tensor.columns} cannot be cut into {weights}'s blocks of {block}",
                hint="choose f16, or sizes that divide by 32",
            )


def _describe(writer: Any, shape: Shape, weights: str, name: str, pooling: int | None) -> None:
    if name:
        writer.add_name(name)
    writer.add_file_type(WEIGHT_TYPES[weights].file_type)
    writer.add_quantization_version(2)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    if pooling is not None:
        writer.add_pooling_type(_Pooling(pooling))
    if isinstance(shape, LlamaShape):
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_rope_dimension_count(shape.width // shape.heads)
    else:
        _describe_deepseek(writer, shape)
    _describe_tokenizer(writer, shape.vocabulary)


@dataclasses.dataclass(frozen=True, slots=True)
class _Pooling:
    """Any number may be asked for, where gguf's own enumeration lags behind llama.cpp's."""

    value: int


def _describe_deepseek(writer: Any, shape: Any) -> None:
    # With MLA llama.cpp computes attention as if there were one key head, of the cache's width;
    # the widths that the heads really have travel in the _mla keys.
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(shape.rope_width)
    writer.add_q_lora_rank(shape.q_lora_rank)
    writer.add_kv_lora_rank(shape.kv_lora_rank)
    writer.add_key_length(shape.kv_lora_rank + shape.rope_width)
    writer.add_value_length(shape.kv_lora_rank)
    writer.add_key_length_mla(shape.nope_width + shape.rope_width)
    writer.add_value_length_mla(shape.value_width)
    writer.add_leading_dense_block_count(shape.dense_layers)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.experts_used)
    writer.add_expert_shared_count(shape.shared_experts)
    writer.add_expert_feed_forward_length(shape.expert_feed_forward)
    writer.add_expert_weights_scale(1.0)


def _describe_tokenizer(writer: Any, vocabulary: int) -> None:
    fillers = vocabulary - BYTE_TOKENS - len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*_byte_alphabet(), *SPECIAL_TOKENS, *(f"tok{index}" for index in range(fillers))])
    writer.add_token_types(
        [_NORMAL] * BYTE_TOKENS + [_CONTROL, _CONTROL, _USER_DEFINED, _USER_DEFINED] + [_NORMAL] * fillers
    )
    # llama.cpp refuses a vocabulary of this kind without merges; this one can never apply.
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(BYTE_TOKENS)
    writer.add_eos_token_id(BYTE_TOKENS + 1)
    writer.add_add_bos_token(True)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte, by byte.

    Bytes that print stand for themselves; the others get the code points from 256 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(BYTE_TOKENS)]


def _write_tensors(writer: Any, shape: Shape, weights: str, seed: int) -> None:
    import gguf
    import numpy as np

    random = np.random.default_rng(seed)
    pool = random.standard_normal(min(_POOL, -(-parameter_count(shape) // 32) * 32), dtype=np.float32)
    pool *= _SPREAD
    stored = gguf.GGMLQuantizationType[weights.upper()]
    block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
    packed = gguf.quants.quantize(pool.reshape(-1, block), stored).reshape(-1).view(np.uint8)
    plan = list(shape.tensors())
    for tensor in plan:
        dtype = stored if tensor.kind == "weight" else gguf.GGMLQuantizationType.F32
        writer.add_tensor_info(
            tensor.name,
            (*tensor.rows, tensor.columns),
            np.dtype(np.float32),
            _size(tensor, block, block_bytes),
            raw_dtype=dtype,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in plan:
        start = int(random.integers(0, packed.size // block_bytes))
        if tensor.kind == "weight":
            contents = _stretch(packed, start * block_bytes, _size(tensor, block, block_bytes))
        elif tensor.kind == "router":
            contents = _stretch(pool, start, tensor.elements)
        else:
            contents = np.ones(tensor.elements, dtype=np.float32)
        writer.write_tensor_data(contents)


def _size(tensor: Tensor, block: int, block_bytes: int) -> int:
    if tensor.kind == "weight":
        return tensor.elements // block * block_bytes
    return tensor.elements * 4


def _stretch(pool: np.ndarray[Any, Any], offset: int, size: int) -> np.ndarray[Any, Any]:
    """A stretch of the pool, from its start again where the pool ends."""
    import numpy as np

    out = np.empty(size, dtype=pool.dtype)
    filled = 0
    while filled < size:
        part = pool[offset : offset + size - filled]
        out[filled : filled + part.size] = part
        filled += part.size
        offset = 0
    return out
