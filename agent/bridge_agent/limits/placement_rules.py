"""Which engines run on which GPU, and how each is set up. Pure: numbers in, an explained plan out.

Rules:
1. Nothing is ever over-committed: weights, KV cache, compute buffers and a CUDA context a process,
   all at their full size, stay below the share of free VRAM that may be used (`USABLE`).
2. Copies of one model are slots of one process where a batch that reads the weights once saves
   much, and processes under MPS where it does not, and the one CPU thread that samples for all slots
   is what limits: below `SLOTS_WIN_BYTES` of weights times slots. On an H200 that told the faster
   way in all twelve cells of three models by 2, 4, 8 and 16 (bench/RESULTS.md): 1.1B f16 by 8, slots
   2,416 tokens/s against 1,370; 0.3B q4_0 by 8, 3,798 against 6,010. Different models, and those
   that ask for walls, are processes of their own.
3. Two processes on one GPU without MPS are slower together than one alone (time-slicing), so they
   share it under MPS, or the plan warns.
4. Demands are served in order: first all that fit at their least settings, then each is raised as
   far as the rest allows. On one device more VRAM therefore never drops an earlier demand for a
   later one, and while the same ones fit, it never lowers an earlier one's level.

5. A model that no device has room for is split by layers over as few whole GPUs as it takes, those that
   nobody else is on; it has them to itself, outside MPS, whose servers are of one GPU each. What fits on one
   device is never split: every layer boundary between devices costs time.

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
CPU_PROCESS_BYTES: Final = 192 << 20
SLOTS_WIN_BYTES: Final = 6e9
# Bits a weight takes, scales included, best first; what a smaller file of the same model would need.
PRECISIONS: Final = (
    ("F16", 16.0),
    ("Q8_0", 8.5),
    ("Q6_K", 6.6),
    ("Q5_K_M", 5.7),
    ("Q4_K_M", 4.85),
    ("Q3_K_M", 3.9),
)
# By neighbours on the GPU, itself counted: the best of a sweep on an H200 with a 1.1B model
# (bench/RESULTS.md). Never 100 / N: decoding leaves most of its share idle most of the time.
THREAD_PERCENTAGE: Final = ((2, 75), (4, 75), (8, 40), (16, 25))


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
    parameters: int = 0  # 0: not known
    precision: str = ""  # of the weights, by name
    embeds: bool = False  # it has one slot, and reads a text in one batch

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
    """A GPU, a MIG slice, or the machine's own memory and cores as the planner sees them."""

    uuid: str
    free_bytes: int
    mps: bool = True
    cpu: bool = False
    gpus: int = 1  # several: whole devices that one model is split over, their UUIDs with commas

    @property
    def overhead(self) -> int:
        """Bytes that a process takes before it has any model."""
        return CPU_PROCESS_BYTES if self.cpu else self.gpus * CUDA_CONTEXT_BYTES


class EngineSizing(msgspec.Struct, frozen=True):
    """One way to run a demand's model."""

    slots: int
    context: int
    kv_type: KvType
    batch: int


class Placement(msgspec.Struct, frozen=True):
    """A demand's engine processes on one device, and why they are as they are.

    Attributes:
        settings: Of all of them together: each has `settings.slots / processes` slots.
        processes: How many; each holds the weights.
        bytes: What all take.
        thread_percentage: Of each, under MPS; 100: not limited.
    """

    model: str
    device: str
    settings: EngineSizing
    bytes: int
    thread_percentage: int
    why: tuple[str, ...]
    processes: int

    @property
    def slots(self) -> int:
        """Slots of each process."""
        return self.settings.slots // self.processes


class Planned(msgspec.Struct, frozen=True):
    """The whole node. `unplaced` and `warnings` are sentences for people."""

    placements: tuple[Placement, ...]
    unplaced: tuple[str, ...]
    warnings: tuple[str, ...]


def need(
    model: ModelShape, settings: EngineSizing, *, processes: int = 1, overhead: int = CUDA_CONTEXT_BYTES
) -> int:
    """Bytes that the model takes when run so, with what its processes take before they have it."""
    each = overhead + model.weight_bytes + model.compute_bytes(settings.batch)
    cache = settings.slots * settings.context * model.kv_bytes(settings.kv_type)
    return processes * each + int(cache) + 1


def levels(demand: Demand) -> tuple[EngineSizing, ...]:
    """Every way to serve a demand, best first: precision goes first, then slots, then context."""
    context = max(min(demand.context, demand.model.trained_context), 1)
    least = min(demand.min_context, context)
    return tuple(
        EngineSizing(slots, size, kv_type, demand.batch)
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
    known = {device.uuid: device for device in devices}
    budget = {device.uuid: int(device.free_bytes * USABLE) for device in devices}
    homes: list[tuple[Demand, Device]] = []
    unplaced: list[str] = []
    for demand in merge(demands):
        least = levels(demand)[-1]
        sizes = {uuid: need(demand.model, least, overhead=one.overhead) for uuid, one in known.items()}
        fitting = [uuid for uuid in known if budget[uuid] >= sizes[uuid]]
        if not fitting:
            taken = {part for _, home in homes for part in home.uuid.split(",")}
            together = _together(demand, least, [one for one in devices if one.uuid not in taken])
            if together is None:
                unplaced.append(_too_large(demand, least, max((budget[one] for one in known), default=0)))
                continue
            for part in together.uuid.split(","):
                budget[part] = 0
            budget[together.uuid] = int(together.free_bytes * USABLE) - need(
                demand.model, least, overhead=together.overhead
            )
            homes.append((demand, together))
            continue
        home = max(fitting, key=lambda uuid: budget[uuid])  # the first of equals
        budget[home] -= sizes[home]
        homes.append((demand, known[home]))
    chosen = [_raise(demand, device, budget) for demand, device in homes]
    counts = [
        _processes(demand, way.settings, device, budget)
        for (demand, device), way in zip(homes, chosen, strict=True)
    ]
    placements = []
    for (demand, device), way, count in zip(homes, chosen, counts, strict=True):
        on_device = zip(homes, counts, strict=True)
        neighbours = sum(number for (_, other), number in on_device if other.uuid == device.uuid)
        share = thread_percentage(neighbours) if device.mps else 100
        size = need(demand.model, way.settings, processes=count, overhead=device.overhead)
        why = _explain(demand, device, way, count, neighbours=neighbours, share=share)
        placements.append(Placement(demand.model.name, device.uuid, way.settings, size, share, why, count))
    return Planned(tuple(placements), tuple(unplaced), _warnings(devices, placements))


def _together(demand: Demand, least: EngineSizing, free: Sequence[Device]) -> Device | None:
    """As few whole GPUs as the demand needs, as one device; None where all of them are not enough.

    That one of them alone has no room for it was seen before.
    """
    several: list[Device] = []
    for device in sorted((one for one in free if not one.cpu), key=lambda one: -one.free_bytes):
        several.append(device)
        made = Device(
            ",".join(one.uuid for one in several),
            sum(one.free_bytes for one in several),
            mps=False,
            gpus=len(several),
        )
        if need(demand.model, least, overhead=made.overhead) <= int(made.free_bytes * USABLE):
            return made
    return None


class _Way(msgspec.Struct, frozen=True):
    """The level that a demand got, what it had to fit into, and the better ones that did not."""

    settings: EngineSizing
    room: int
    rejected: tuple[EngineSizing, ...]


def _raise(demand: Demand, device: Device, budget: dict[str, int]) -> _Way:
    """The best level that what is left of the device allows; takes it from the budget."""
    ways = levels(demand)
    sizes = [need(demand.model, way, overhead=device.overhead) for way in ways]
    room = budget[device.uuid] + sizes[-1]
    # Levels are not sorted by size (a smaller context may be larger with more slots).
    best = next(number for number, size in enumerate(sizes) if size <= room)
    budget[device.uuid] = room - sizes[best]
    return _Way(ways[best], room, ways[:best])


def _processes(demand: Demand, settings: EngineSizing, device: Device, budget: dict[str, int]) -> int:
    """How many processes share the slots (rule 2); takes what more than one needs from the budget."""
    small = demand.model.weight_bytes * settings.slots < SLOTS_WIN_BYTES
    if demand.walled or device.cpu or not device.mps or settings.slots == 1 or not small:
        return 1
    alone = need(demand.model, settings, overhead=device.overhead)
    more = need(demand.model, settings, processes=settings.slots, overhead=device.overhead) - alone
    if more > budget[device.uuid]:
        return 1
    budget[device.uuid] -= more
    return settings.slots


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


def _too_large(demand: Demand, least: EngineSizing, largest: int) -> str:
    model = demand.model
    said = (
        f"{model.name} needs at least {_mib(need(model, least))};"
        f" the most that any device has left is {_mib(largest)}"
    )
    for name, bits in PRECISIONS:
        size = int(model.parameters * bits / 8)
        smaller = msgspec.structs.replace(model, weight_bytes=size)
        if size and need(smaller, least) <= largest:
            return f"{said}; a file of it in {name} would need {_mib(need(smaller, least))} and fit"
    return said


def _explain(
    demand: Demand, device: Device, way: _Way, processes: int, *, neighbours: int, share: int
) -> tuple[str, ...]:
    model, chosen = demand.model, way.settings
    cache = chosen.slots * chosen.context * model.kv_bytes(chosen.kv_type)
    each, base = f"{processes} times " if processes > 1 else "", "the process" if device.cpu else "CUDA"
    parts = (
        f"{each}{_mib(model.weight_bytes)} of {model.precision} weights".replace("  ", " "),
        f"{_mib(int(cache))} of {chosen.kv_type} cache for {chosen.slots} slots of {chosen.context} tokens",
        f"{each}{_mib(model.compute_bytes(chosen.batch))} to compute batches of {chosen.batch}",
        f"{each}{_mib(device.overhead)} for {base}, within {_mib(way.room)}",
    )
    why = [", ".join(parts)]
    why.extend(
        f"{better.slots} slots of {better.context} tokens in {better.kv_type} would need"
        f" {_mib(need(model, better, overhead=device.overhead))}"
        for better in way.rejected[:3]
    )
    if demand.context > model.trained_context:
        why.append(
            f"the model was trained for {model.trained_context} tokens, {demand.context} were asked for"
        )
    if processes > 1:
        why.append(
            f"{processes} processes of one slot: its weights are so small that slots of one process would"
            " wait for the thread that samples for all of them"
        )
    elif chosen.slots > 1:
        why.append(f"{chosen.slots} slots of one process: one reading of the weights serves them all")
    if device.gpus > 1:
        why.append(
            f"no single device has room for it: its layers are split over {device.gpus}, which it has to"
            " itself (llama-server's --split-mode layer)"
        )
    if neighbours > 1 and device.mps:
        why.append(
            f"{neighbours} processes share the device under MPS; each may use {share} % of its threads"
        )
    return tuple(why)


def _warnings(devices: Sequence[Device], placements: Sequence[Placement]) -> tuple[str, ...]:
    found = []
    for device in devices:
        names = [placement.model for placement in placements if placement.device == device.uuid]
        if len(names) > 1 and not device.mps and not device.cpu:
            found.append(
                f"{', '.join(names)} share {device.uuid} without MPS:"
                " time-sliced, they are slower together than one alone"
            )
    return tuple(found)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
