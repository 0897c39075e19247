"""The commands `bridge-agent plan` and `bridge-agent tune`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog
from rich.console import Console

from bridge_agent.config import StateDir, load_config, save_config
from bridge_agent.engines.config import EngineConfig
from bridge_agent.limits.placement_rules import thread_percentage
from bridge_agent.limits.surroundings import open_gpus
from bridge_agent.tuning.measure import Bench
from bridge_agent.tuning.model_shapes import stored_shapes
from bridge_agent.tuning.node_facts import CPU, NodeFacts, supposed, this_node
from bridge_agent.tuning.plan_report import print_plan
from bridge_agent.tuning.plan_rules import ModelDemand, as_configs, plan_node
from bridge_agent.tuning.records import Trial, TuningRecord, load_records, save_record
from bridge_agent.tuning.tune import tune
from bridge_agent.tuning.tune_rules import describe, explain, node_space
from bridge_core.command.guard import guarded
from bridge_core.errors import Fatal
from bridge_core.model_store.open_blob import Unseal

_out = Console(highlight=False)


def plan_command(
    names: list[str],
    state: StateDir,
    *,
    models: Path | None,
    vram: str | None,
    gpus: int,
    mps: bool,
    wish: ModelDemand,
    save: bool,
    as_json: bool,
) -> None:
    """Prints how engines are best set up, and with `save` writes it into `agent.json`."""

    def work() -> None:
        if save and vram:
            raise Fatal("--save is for the GPUs that are here, not for those that --vram supposes")
        facts: NodeFacts = supposed(vram, gpus=gpus, mps=mps) if vram else this_node()
        _, store = _engine(state, models)
        plan = plan_node(
            stored_shapes(store, names, _unseal(state)),
            facts.devices,
            cores=facts.cores,
            about=facts.about,
            wish=wish,
            records={} if vram else load_records(state.root),
        )
        if as_json:
            _print_json(plan)
        else:
            print_plan(plan, _out)
        if save:
            settings = load_config(state)
            engines = as_configs(plan, settings.engines[0])
            try:
                save_config(state, msgspec.structs.replace(settings, engines=engines))
            except OSError as fault:
                raise Fatal(f"cannot write {state.settings}: {fault.strerror}") from fault
            if not as_json:
                _out.print(f"saved in {state.settings}; it is in force from the agent's next start")

    guarded(work)


class TuneOptions(msgspec.Struct, frozen=True):
    """What `bridge-agent tune` was asked for; see its options."""

    model: str
    store: Path | None
    context: int
    tokens: int
    limit_s: float
    engines: int
    ttft_s: float


def tune_command(order: TuneOptions, state: StateDir, *, as_json: bool) -> None:
    """Measures candidates and keeps the best."""

    def told(trial: Trial) -> None:
        if not as_json:
            said = trial.measured.fault or f"{trial.measured.tokens_per_s:,.1f} tokens/s"
            _out.print(f"{describe(trial.choice)}: {said}", markup=False, soft_wrap=True)

    def work() -> None:
        # The engines' own comings and goings are not what was asked for.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
        if load > cores / 2 and not as_json:
            busy = f"others work on this machine (load {load:.1f}, {cores} cores)"
            _out.print(f"{busy}: what is measured is what they leave", soft_wrap=True)
        record, path = asyncio.run(_tune(order, state, told))
        if as_json:
            _print_json(record)
            return
        _out.print("")
        for reason in record.why:
            _out.print(f"- {reason}", markup=False, soft_wrap=True)
        _out.print(f"kept in {path}; `bridge-agent plan` goes by it", markup=False, soft_wrap=True)

    guarded(work)


async def _tune(
    order: TuneOptions, state: StateDir, told: Callable[[Trial], None]
) -> tuple[TuningRecord, Path]:
    config, store = _engine(state, order.store)
    if config.kind != "llamacpp":
        raise Fatal(f"engines of kind {config.kind} are not tuned", hint="Ollama chooses for itself")
    ((shape, digest),) = stored_shapes(store, [order.model])
    if shape.embeds:
        raise Fatal(f"{shape.name} makes embeddings", hint="tune a model that generates")
    facts = await asyncio.to_thread(this_node)
    device, engines = facts.devices[0], order.engines
    if engines > 1 and not device.mps:
        raise Fatal(f"--engines {engines}: several engines are measured under MPS, and there is none here")
    share = thread_percentage(engines)
    space = msgspec.structs.replace(
        node_space(facts.cores, gpu=not device.cpu, engines=engines, planned_share=share), ttft_s=order.ttft_s
    )
    context = min(order.context, shape.trained_context)
    bench = Bench(
        config,
        store,
        shape.name,
        context=context,
        tokens=order.tokens,
        gpus=None if device.cpu else lambda: open_gpus()[0],
        device=None if device.cpu else device.uuid,
    )
    best, trials = await tune(bench, space, limit_s=order.limit_s, told=told)
    record = TuningRecord(
        model=shape.name,
        device=CPU if device.cpu else device.uuid,
        engine=f"bridge-engine {version('deepseek-ollama-bridge')}",
        at_unix=time.time(),
        context=context,
        best=best,
        why=explain(trials, best, space),
        trials=trials,
    )
    return record, await asyncio.to_thread(save_record, state.root, digest, record)


def _engine(state: StateDir, models: Path | None) -> tuple[EngineConfig, Path]:
    """The node's first engine, or a plain one where no node is enrolled; and the model store."""
    settings = load_config(state) if state.joined else None
    config = settings.engines[0] if settings is not None and settings.engines else EngineConfig(index=0)
    if models is not None:
        return config, models.absolute()
    return config, Path(config.models_dir).absolute() if config.models_dir else state.models.absolute()


def _unseal(state: StateDir) -> Unseal | None:
    """What opens the node's sealed models, where a node is enrolled."""
    if not state.joined:
        return None
    from bridge_agent.models.blob_keys import BlobKeys  # cryptography is large, and few need it

    return BlobKeys(lambda: state.seal_folder(load_config(state).seal)).unseal


def _print_json(document: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
