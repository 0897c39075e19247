"""How `bridge-agent plan` prints a plan."""

from __future__ import annotations

from typing import Final

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bridge_agent.limits.gpus import UUID_PART
from bridge_agent.tuning.plan_rules import EnginePlan, NodePlan

_COLUMNS: Final = (*("engine", "on", "models", "slots", "context", "cache", "batch", "CPUs", "MPS", "MiB"),)


def print_plan(plan: NodePlan, console: Console) -> None:
    """For people: a row an engine, then every reason."""
    console.print(plan.about, markup=False, soft_wrap=True)
    table = Table(*_COLUMNS, box=SIMPLE, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    alike: dict[EnginePlan, list[int]] = {}
    for engine in plan.engines:
        alike.setdefault(msgspec.structs.replace(engine, index=0), []).append(engine.index)
    for engine, numbers in alike.items():
        table.add_row(
            str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}",
            (engine.gpus or "CPU")[:UUID_PART],
            "\n".join(engine.models),
            str(engine.num_parallel),
            f"{engine.context_length:,}",
            engine.kv_cache_type,
            str(engine.num_batch),
            str(engine.num_thread),
            f"{engine.thread_percentage} %" if engine.thread_percentage < 100 else "",
            f"{engine.bytes / (1 << 20):,.0f}",
        )
    if plan.engines:
        console.print(table, crop=False)
    for reason in dict.fromkeys(reason for engine in plan.engines for reason in engine.why):
        console.print(f"- {reason}", markup=False, soft_wrap=True)
    for sentence in plan.unplaced:
        console.print(f"NOT PLACED: {sentence}", markup=False, soft_wrap=True)
    for sentence in plan.warnings:
        console.print(f"warning: {sentence}", markup=False, soft_wrap=True)
    if plan.mps:
        console.print("A NodeClass with `gpu: {mps: true}` makes engines share their GPU so.", soft_wrap=True)
