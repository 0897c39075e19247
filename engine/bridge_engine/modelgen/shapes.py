"""The shapes of generated models: hyperparameters, and the tensors that they imply.

Pure: a shape is a value, `tensors()` lists what a file of that shape contains, in the order in
which it is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from bridge_core.errors import BridgeError

BYTE_TOKENS = 256
SPECIAL_TOKENS = ("<|bos|>", "<|eot|>", "<|user|>", "<|assistant|>")
SMALLEST_VOCABULARY = BYTE_TOKENS + len(SPECIAL_TOKENS)


class ShapeFault(BridgeError):
    """A shape contradicts itself or cannot be quantised as asked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        name: Its name in GGUF.
        rows: Sizes of all dimensions but the innermost, outermost first.
        columns: The innermost size, the one that quantisation blocks run along.
        kind: `weight` (random, quantised), `norm` (ones, f32) or `router` (random, f32).
    """

    name: str
    rows: tuple[int, ...]
    columns: int
    kind: str = "weight"

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        count = self.columns
        for size in self.rows:
            count *= size
        return count


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """A dense transformer of the architecture `llama`."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int = SMALLEST_VOCABULARY
    context_length: int = 2048

    architecture = "llama"

    def validate(self) -> None:
        """Raises ShapeFault when the numbers contradict each other."""
        _validate_common(self)
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ShapeFault("width must divide by heads, and heads by kv_heads")

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of a file of this shape, in file order."""
        yield from _ends(self)
        kv = self.width // self.heads * self.kv_heads
        for layer in range(self.layers):
            block = f"blk.{layer}"
            yield Tensor(f"{block}.attn_norm.weight", (), self.width, "norm")
            yield Tensor(f"{block}.attn_q.weight", (self.width,), self.width)
            yield Tensor(f"{block}.attn_k.weight", (kv,), self.width)
            yield Tensor(f"{block}.attn_v.weight", (kv,), self.width)
            yield Tensor(f"{block}.attn_output.weight", (self.width,), self.width)
            yield from _feed_forward(block, self.width, self.feed_forward)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeepSeekShape:
    """A model of the architecture `deepseek2`: latent attention (MLA) and a mixture of experts.

    Attributes:
        q_lora_rank: Width of the compressed queries.
        kv_lora_rank: Width of the compressed keys and values, which is what the cache holds.
        nope_width: Of each head's key, the part without a position.
        rope_width: Of each head's key, the part with a position, shared by all heads.
        value_width: Of each head's value.
        dense_layers: How many leading layers have a plain feed-forward part.
        experts: Experts of each later layer; `experts_used` of them answer a token.
        shared_experts: Experts that answer every token.
    """

    layers: int
    width: int
    heads: int
    feed_forward: int
    q_lora_rank: int
    kv_lora_rank: int
    nope_width: int
    rope_width: int
    value_width: int
    dense_layers: int
    experts: int
    experts_used: int
    shared_experts: int
    expert_feed_forward: int
    vocabulary: int = SMALLEST_VOCABULARY
    context_length: int = 2048

    architecture = "deepseek2"

    def validate(self) -> None:
        """Raises ShapeFault when the numbers contradict each other."""
        _validate_common(self)
        if self.experts_used > self.experts:
            raise ShapeFault("experts_used cannot exceed experts")
        if self.dense_layers > self.layers:
            raise ShapeFault("dense_layers cannot exceed layers")

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of a file of this shape, in file order."""
        yield from _ends(self)
        for layer in range(self.layers):
            block = f"blk.{layer}"
            yield from self._attention(block)
            if layer < self.dense_layers:
                yield from _feed_forward(block, self.width, self.feed_forward)
            else:
                yield from self._experts(block)

    def _attention(self, block: str) -> Iterator[Tensor]:
        key = self.nope_width + self.rope_width
        yield Tensor(f"{block}.attn_norm.weight", (), self.width, "norm")
        yield Tensor(f"{block}.attn_q_a.weight", (self.q_lora_rank,), self.width)
        yield Tensor(f"{block}.attn_q_a_norm.weight", (), self.q_lora_rank, "norm")
        yield Tensor(f"{block}.attn_q_b.weight", (self.heads * key,), self.q_lora_rank)
        yield Tensor(f"{block}.attn_kv_a_mqa.weight", (self.kv_lora_rank + self.rope_width,), self.width)
        yield Tensor(f"{block}.attn_kv_a_norm.weight", (), self.kv_lora_rank, "norm")
        yield Tensor(f"{block}.attn_k_b.weight", (self.heads, self.kv_lora_rank), self.nope_width)
        yield Tensor(f"{block}.attn_v_b.weight", (self.heads, self.value_width), self.kv_lora_rank)
        yield Tensor(f"{block}.attn_output.weight", (self.width,), self.heads * self.value_width)

    def _experts(self, block: str) -> Iterator[Tensor]:
        inner, shared = self.expert_feed_forward, self.expert_feed_forward * self.shared_experts
        yield Tensor(f"{block}.ffn_norm.weight", (), self.width, "norm")
        yield Tensor(f"{block}.ffn_gate_inp.weight", (self.experts,), self.width, "router")
        yield Tensor(f"{block}.ffn_gate_exps.weight", (self.experts, inner), self.width)
        yield Tensor(f"{block}.ffn_up_exps.weight", (self.experts, inner), self.width)
        yield Tensor(f"{block}.ffn_down_exps.weight", (self.experts, self.width), inner)
        yield Tensor(f"{block}.ffn_gate_shexp.weight", (shared,), self.width)
        yield Tensor(f"{block}.ffn_up_shexp.weight", (shared,), self.width)
        yield Tensor(f"{block}.ffn_down_shexp.weight", (self.width,), shared)


Shape = LlamaShape | DeepSeekShape


def parameter_count(shape: Shape) -> int:
    """How many parameters a model of the shape has."""
    return sum(tensor.elements for tensor in shape.tensors())


def _ends(shape: Shape) -> Iterator[Tensor]:
    yield Tensor("token_embd.weight", (shape.vocabulary,), shape.width)
    yield Tensor("output.weight", (shape.vocabulary,), shape.width)
    yield Tensor("output_norm.weight", (), shape.width, "norm")


def _feed_forward(block: str, width: int, inner: int) -> Iterator[Tensor]:
    yield Tensor(f"{block}.ffn_norm.weight", (), width, "norm")
    yield Tensor(f"{block}.ffn_gate.weight", (inner,), width)
    yield Tensor(f"{block}.ffn_up.weight", (inner,), width)
    yield Tensor(f"{block}.ffn_down.weight", (width,), inner)


def _validate_common(shape: Shape) -> None:
    for field in dataclasses.fields(shape):
        smallest = 0 if field.name == "dense_layers" else 1
        if getattr(shape, field.name) < smallest:
            raise ShapeFault(f"{field.name} must be at least {smallest}")
    if shape.vocabulary < SMALLEST_VOCABULARY:
        raise ShapeFault(
            f"vocabulary must be at least {SMALLEST_VOCABULARY}: the bytes and the special tokens"
        )


PRESETS: Mapping[str, Shape] = MappingProxyType(
    {
        "tiny": LlamaShape(layers=2, width=64, heads=4, kv_heads=4, feed_forward=128),
        "15m": LlamaShape(layers=6, width=288, heads=6, kv_heads=6, feed_forward=768, vocabulary=16384),
        "135m": LlamaShape(
            layers=30,
            width=576,
            heads=9,
            kv_heads=3,
            feed_forward=1536,
            vocabulary=49152,
            context_length=8192,
        ),
        "1b": LlamaShape(
            layers=16,
            width=2048,
            heads=32,
            kv_heads=8,
            feed_forward=8192,
            vocabulary=32768,
            context_length=8192,
        ),
        "3b": LlamaShape(
            layers=28,
            width=3072,
            heads=24,
            kv_heads=8,
            feed_forward=8192,
            vocabulary=32768,
            context_length=8192,
        ),
        "7b": LlamaShape(
            layers=32,
            width=4096,
            heads=32,
            kv_heads=32,
            feed_forward=11008,
            vocabulary=32000,
            context_length=4096,
        ),
        "tiny-deepseek2": DeepSeekShape(
            layers=3,
            width=64,
            heads=4,
            feed_forward=128,
            q_lora_rank=32,
            kv_lora_rank=32,
            nope_width=32,
            rope_width=32,
            value_width=32,
            dense_layers=1,
            experts=8,
            experts_used=2,
            shared_experts=1,
            expert_feed_forward=64,
        ),
        "deepseek2-1b": DeepSeekShape(
            layers=12,
            width=1024,
            heads=16,
            feed_forward=4096,
            q_lora_rank=512,
            kv_lora_rank=256,
            nope_width=64,
            rope_width=32,
            value_width=64,
            dense_layers=1,
            experts=32,
            experts_used=4,
            shared_experts=1,
            expert_feed_forward=768,
            vocabulary=32000,
            context_length=4096,
        ),
        "deepseek2-7b": DeepSeekShape(
            layers=20,
            width=2048,
            heads=16,
            feed_forward=8192,
            q_lora_rank=1024,
            kv_lora_rank=512,
            nope_width=128,
            rope_width=64,
            value_width=128,
            dense_layers=1,
            experts=48,
            experts_used=6,
            shared_experts=2,
            expert_feed_forward=1024,
            vocabulary=32000,
            context_length=4096,
        ),
    }
)
