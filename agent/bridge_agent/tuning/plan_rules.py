"""From a plan of processes to engines as an agent's settings name them. Pure.

Rules:
1. Models of one device that run alike (slots, context, precision, batch) and need one process each
   share an instance: it holds them all loaded, each in a process of its own.
2. A model that needs several processes gets as many instances.
3. CPU threads: beside a GPU one for every eight cores (they only wait for it); without, the cores are
   shared out over the models.
4. What was measured on this node goes before what is planned: its slots are asked for first, and its
   threads, batch and precision are taken over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bridge_agent.engines.config import EngineConfig
from bridge_agent.limits.placement_rules import Demand, Device, ModelShape, Placement, Planned, plan
from bridge_agent.tuning.records import TuningRecord
from bridge_core.errors import Fatal
from bridge_core.model_store.weights import EMBEDDING_BATCH


class EnginePlan(msgspec.Struct, frozen=True):
    """One instance: what `agent.json` says of it, what it serves and why it is so."""

    index: int
    gpus: str | None
    models: tuple[str, ...]
    max_loaded: int
    num_parallel: int
    context_length: int
    kv_cache_type: str
    num_batch: int
    num_thread: int
    thread_percentage: int
    bytes: int
    why: tuple[str, ...]


class NodePlan(msgspec.Struct, frozen=True):
    """The whole node; `unplaced` and `warnings` are sentences for people."""

    about: str
    engines: tuple[EnginePlan, ...]
    unplaced: tuple[str, ...]
    warnings: tuple[str, ...]
    mps: bool


class ModelDemand(msgspec.Struct, frozen=True):
    """What every model is asked to get, as far as it fits."""

    slots: int = 4
    context: int = 4096
    min_context: int = 2048
    batch: int = 512


def plan_node(
    shapes: Sequence[tuple[ModelShape, str]],
    devices: Sequence[Device],
    *,
    cores: int,
    about: str,
    wish: ModelDemand,
    records: Mapping[str, TuningRecord],
) -> NodePlan:
    """Plans a node.

    Args:
        shapes: The models in order of importance, each with its digest.
        devices: What they may run on.
        cores: The node's CPUs.
        about: What the node is, for people.
        wish: What to ask for.
        records: What was measured here, by digest.
    """
    measured = {shape.name: records[digest] for shape, digest in shapes if digest in records}
    planned = plan([_demand(shape, wish, measured.get(shape.name)) for shape, _ in shapes], devices)
    engines = _engines(planned, devices, cores, measured)
    mps = any(device.mps and _processes_on(planned, device.uuid) > 1 for device in devices)
    return NodePlan(about, engines, planned.unplaced, planned.warnings, mps)


def as_configs(plan: NodePlan, like: EngineConfig) -> tuple[EngineConfig, ...]:
    """The plan's engines as settings; what a plan says nothing of is as in `like`.

    Raises:
        Fatal: not every model is placed, or `like` is an engine that cannot be set up so.
    """
    if like.kind != "llamacpp" or like.attach is not None:
        raise Fatal(
            f"the node's first engine is {'attached' if like.attach else like.kind}: a plan is for llamacpp",
            hint="edit agent.json by what the plan says",
        )
    if plan.unplaced or not plan.engines:
        raise Fatal(f"not saved: {'; '.join(plan.unplaced) or 'there is no model to plan for'}")
    return tuple(
        msgspec.structs.replace(
            like,
            index=engine.index,
            gpus=engine.gpus or like.gpus,
            num_parallel=engine.num_parallel,
            context_length=engine.context_length,
            max_loaded=engine.max_loaded,
            kv_cache_type=engine.kv_cache_type,
            num_batch=engine.num_batch,
            num_thread=engine.num_thread,
        )
        for engine in plan.engines
    )


def _demand(shape: ModelShape, wish: ModelDemand, record: TuningRecord | None) -> Demand:
    if shape.embeds:
        return Demand(shape, slots=1, context=wish.context, min_context=1, batch=EMBEDDING_BATCH)
    if record is None:
        least = min(wish.min_context, wish.context)
        return Demand(shape, slots=wish.slots, context=wish.context, min_context=least, batch=wish.batch)
    best = record.best.choice
    return Demand(
        shape,
        slots=best.slots * best.engines,
        context=wish.context,
        min_context=min(wish.min_context, wish.context),
        kv_types=(best.kv_type,),
        batch=best.batch,
    )


def _engines(
    planned: Planned, devices: Sequence[Device], cores: int, measured: Mapping[str, TuningRecord]
) -> tuple[EnginePlan, ...]:
    on_cpu = {device.uuid for device in devices if device.cpu}
    groups: dict[tuple[object, ...], list[Placement]] = {}
    for placement in planned.placements:
        threads = measured[placement.model].best.choice.threads if placement.model in measured else 0
        alike = (placement.device, placement.settings, threads)
        groups.setdefault(alike if placement.processes == 1 else (placement.model, *alike), []).append(
            placement
        )
    models = sum(placement.processes for placement in planned.placements)
    engines: list[EnginePlan] = []
    for members in groups.values():
        first = members[0]
        cpu = first.device in on_cpu
        record = measured.get(first.model)
        threads = record.best.choice.threads if record is not None else 0
        why = [reason for one in members for reason in (f"{one.model}: {text}" for text in one.why)]
        why += [_told(measured[one.model]) for one in members if one.model in measured]
        for _ in range(first.processes):
            engines.append(
                EnginePlan(
                    index=len(engines),
                    gpus=None if cpu else first.device,
                    models=tuple(one.model for one in members),
                    max_loaded=len(members),
                    num_parallel=first.slots,
                    context_length=first.settings.context,
                    kv_cache_type=first.settings.kv_type,
                    num_batch=first.settings.batch,
                    num_thread=threads or max(1, cores // (models if cpu else 8)),
                    thread_percentage=first.thread_percentage,
                    bytes=sum(one.bytes for one in members) // first.processes,
                    why=tuple(why),
                )
            )
    return tuple(engines)


def _processes_on(planned: Planned, device: str) -> int:
    return sum(one.processes for one in planned.placements if one.device == device)


def _told(record: TuningRecord) -> str:
    best = record.best
    return (
        f"{record.model}: measured here: {best.choice.slots} slots, {best.choice.threads or 'all'} threads,"
        f" batches of {best.choice.batch}, {best.choice.kv_type} cache gave"
        f" {best.measured.tokens_per_s:,.0f} tokens/s, the first after {best.measured.ttft_s * 1000:,.0f} ms"
    )
