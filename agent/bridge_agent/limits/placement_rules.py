"""Which engines run on which GPU, and how each is set up. Pure: numbers in, an explained plan out.

Rules:
1. Nothing is ever over-committed: weights, KV cache, compute buffers and a CUDA context a process,
   all at their full size, stay below the share of free VRAM that may be used (`USABLE`).
2. Slots before processes: copies of one model are slots of one process, because a batch reads the
   weights once (measured on an H200: 8 slots of one process 2,638 tokens/s, 8 processes under MPS
   1,273, 1.1B f16). Different models, and those that ask for walls, are processes of their own.
3. Two processes on one GPU without MPS are slower together than one alone (time-slicing), so they
   share it under MPS, or the plan warns.
4. Demands are served in order: first all that fit at their least settings, then each is raised as
   far as the rest allows. On one device more VRAM therefore never drops an earlier demand for a
   later one, and while the same ones fit, it never lowers an earlier one's level.

KV sizes follow llama.cpp: K and V of every layer at the cache's type; DeepSeek's MLA keeps one
compressed row a token and layer (kv_lora_rank + rope dimensions) and no V.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

KvType = Literal["f16", "q8_0", "q4_0"]

# Bytes of one cached number: 32 of them share a 2-byte scale in the quantised types.
KV_BYTES: Final[dict[str, float]] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
# No instance takes more of a device than this share of what is free.
USABLE: Final = 0.85
CUDA_CONTEXT_BYTES: Final = 640 << 20
# By neighbours on the GPU, itself counted: the best of a sweep on an H200 with a 1.1B model
# (bench/RESULTS.md). Never 100 / N: decoding leaves most of its share idle most of the time.
THREAD_PERCENTAGE: Final = ((1, 100), (2, 75), (4, 75), (8, 40), (16, 25))


class ModelShape(msgspec.Struct, frozen=True):
    """What a GGUF's metadata says about the memory its model needs."""

    name: str
    weight_bytes: int
    layers: int
    kv_heads: int
    key_length: int
    value_length: int
    embedding_length: int
    vocabulary: int
    trained_context: int
    mla_row: int = 0  # kv_lora_rank + rope dimensions; 0: ordinary attention

    def kv_bytes(self, kv_type: KvType) -> float:
        """Bytes that one token of context costs."""
        row = self.mla_row or self.kv_heads * (self.key_length + self.value_length)
        return self.layers * row * KV_BYTES[kv_type]

    def compute_bytes(self, batch: int) -> int:
        """Scratch memory for a batch: the logits and a few rows a token, in 32 bits."""
        return batch * (self.vocabulary + 16 * self.embedding_length) * 4


class Demand(msgspec.Struct, frozen=True):
    """A model that the node should serve, and within which bounds."""

    model: ModelShape
    slots: int = 4
    min_slots: int = 1
    context: int = 4096
    min_context: int = 2048
    kv_types: tuple[KvType, ...] = ("f16", "q8_0")  # best first
    batch: int = 512
    walled: bool = False  # a process of its own even where slots would do


class Device(msgspec.Struct, frozen=True):
    """A GPU or a MIG slice as the planner sees it."""

    uuid: str
    free_bytes: int
    mps: bool = True


class Settings(msgspec.Struct, frozen=True):
    """One way to run a demand's model."""

    slots: int
    context: int
    kv_type: KvType
    batch: int


class Placement(msgspec.Struct, frozen=True):
    """One engine process and why it is as it is."""

    model: str
    device: str
    settings: Settings
    bytes: int
    thread_percentage: int  # 100: not limited
    why: tuple[str, ...]


class Planned(msgspec.Struct, frozen=True):
    """The whole node. `unplaced` and `warnings` are sentences for people."""

    placements: tuple[Placement, ...]
    unplaced: tuple[str, ...]
    warnings: tuple[str, ...]


def need(model: ModelShape, settings: Settings) -> int:
    """Bytes of VRAM that the model takes when run so, CUDA's context included."""
    cache = settings.slots * settings.context * model.kv_bytes(settings.kv_type)
    return CUDA_CONTEXT_BYTES + model.weight_bytes + model.compute_bytes(settings.batch) + int(cache) + 1


def levels(demand: Demand) -> tuple[Settings, ...]:
    """Every way to serve a demand, best first: precision goes first, then slots, then context."""
    context = max(min(demand.context, demand.model.trained_context), 1)
    least = min(demand.min_context, context)
    return tuple(
        Settings(slots, size, kv_type, demand.batch)
        for size in _halvings(context, least)
        for slots in _halvings(demand.slots, demand.min_slots)
        for kv_type in demand.kv_types
    )


def merge(demands: Iterable[Demand]) -> tuple[Demand, ...]:
    """Copies of one model that ask for no walls become slots of one process (rule 2)."""
    merged: list[Demand] = []
    for demand in demands:
        twin = next((n for n, other in enumerate(merged) if _mergeable(other, demand)), None)
        if twin is None:
            merged.append(demand)
        else:
            merged[twin] = msgspec.structs.replace(merged[twin], slots=merged[twin].slots + demand.slots)
    return tuple(merged)


def plan(demands: Sequence[Demand], devices: Sequence[Device]) -> Planned:
    """Places demands in order; see the module's rules."""
    asked = merge(demands)
    budget = {device.uuid: int(device.free_bytes * USABLE) for device in devices}
    homes: list[tuple[Demand, str]] = []
    unplaced: list[str] = []
    for demand in asked:
        least = need(demand.model, levels(demand)[-1])
        home = _roomiest(budget, least)
        if home is None:
            largest = max(budget.values(), default=0)
            unplaced.append(
                f"{demand.model.name} needs at least {_mib(least)};"
                f" the most that any device has left is {_mib(largest)}"
            )
            continue
        budget[home] -= least
        homes.append((demand, home))
    placements: list[Placement] = []
    for demand, home in homes:
        ways = levels(demand)
        room = budget[home] + need(demand.model, ways[-1])
        rejected = [way for way in ways if need(demand.model, way) > room]
        # Levels are not sorted by size (a smaller context may be larger with more slots).
        chosen = next(way for way in ways if need(demand.model, way) <= room)
        budget[home] = room - need(demand.model, chosen)
        neighbours = sum(other == home for _, other in homes)
        under_mps = next(device.mps for device in devices if device.uuid == home) and neighbours > 1
        share = thread_percentage(neighbours) if under_mps else 100
        why = _explain(
            demand, chosen, rejected[: ways.index(chosen)], room, neighbours=neighbours, share=share
        )
        placements.append(Placement(demand.model.name, home, chosen, need(demand.model, chosen), share, why))
    return Planned(tuple(placements), tuple(unplaced), _warnings(devices, homes))


def thread_percentage(neighbours: int) -> int:
    """The active-thread percentage for each of `neighbours` engines on one GPU."""
    best = 100
    for count, percentage in THREAD_PERCENTAGE:
        if neighbours >= count:
            best = percentage
    return best


def _mergeable(one: Demand, other: Demand) -> bool:
    return not one.walled and not other.walled and one.model == other.model


def _halvings(most: int, least: int) -> tuple[int, ...]:
    """`most`, its halves while above `least`, and `least`."""
    values = [most]
    while values[-1] // 2 > least:
        values.append(values[-1] // 2)
    return tuple(dict.fromkeys([*values, min(most, least)]))


def _roomiest(budget: dict[str, int], size: int) -> str | None:
    """The device with the most left that can take `size`; the first of equals."""
    fitting = [uuid for uuid, left in budget.items() if left >= size]
    return max(fitting, key=lambda uuid: budget[uuid]) if fitting else None


def _explain(
    demand: Demand, chosen: Settings, rejected: Sequence[Settings], room: int, *, neighbours: int, share: int
) -> tuple[str, ...]:
    model, cache = demand.model, chosen.slots * chosen.context * demand.model.kv_bytes(chosen.kv_type)
    parts = (
        f"{_mib(model.weight_bytes)} of weights",
        f"{_mib(int(cache))} of {chosen.kv_type} cache for {chosen.slots} slots of {chosen.context} tokens",
        f"{_mib(model.compute_bytes(chosen.batch))} to compute",
        f"{_mib(CUDA_CONTEXT_BYTES)} for CUDA, within {_mib(room)}",
    )
    why = [", ".join(parts)]
    why.extend(
        f"{way.slots} slots of {way.context} tokens in {way.kv_type} would need {_mib(need(model, way))}"
        for way in rejected[:3]
    )
    if demand.context > model.trained_context:
        why.append(
            f"the model was trained for {model.trained_context} tokens, {demand.context} were asked for"
        )
    if neighbours > 1:
        why.append(f"{neighbours} engines share the device; each may use {share} % of its threads")
    return tuple(why)


def _warnings(devices: Sequence[Device], homes: Sequence[tuple[Demand, str]]) -> tuple[str, ...]:
    found = []
    for device in devices:
        names = [demand.model.name for demand, home in homes if home == device.uuid]
        if len(names) > 1 and not device.mps:
            found.append(
                f"{', '.join(names)} share {device.uuid} without MPS:"
                " time-sliced, they are slower together than one alone"
            )
    return tuple(found)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
