"""`python -m bench scaling`: a day by shape, ratio and fleet, and how much a fleet grows by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.results import record, table
from bench.scaling.fleets import Autoscaler, Cpu, Fleet, Hpa
from bench.scaling.simulator import Day, Result
from bench.scaling.traffic import SHAPES, day
from bridge_registry.scaling.plan import ScalingPlan

SLOTS, LEAD_S, SIZE, PEAK_SLOTS = 4, 30.0, 12, 22.4
POLICY = "AutoscalePolicy"
SPINS, LIKE_SLOTS = "HPA, CPU of a thread that spins", "HPA, CPU like slots"
DAYS = (
    ("conversation", 4.0, POLICY),
    ("conversation", 4.0, LIKE_SLOTS),
    ("conversation", 4.0, SPINS),
    ("mooncake", 4.0, POLICY),
    ("conversation", 10.0, POLICY),
    ("conversation", 2.0, POLICY),
)
_LOW, _HIGH = 0.65, 0.75


def scaling(_folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """Runs every day and writes the table."""
    peak = math.ceil(PEAK_SLOTS / (0.7 * SLOTS))
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(_row, DAYS))
    head = [
        "day",
        "fleet",
        "busy hours at 65-75 %",
        "their utilization",
        "instance-hours",
        "of the peak's fleet",
        "TTFT p50 / p95 / p99 s",
        "refused",
        "cut",
        "changes",
    ]
    text = (
        f"Virtual instances of {SLOTS} slots, {SIZE} at most, ready {LEAD_S:.0f} s after they are asked for "
        f"(also the HPA's pods); a peak that needs {PEAK_SLOTS:.0f} slots on a mean, for which a fleet of "
        f"{peak} instances is sized. A busy hour has at least half the busiest hour's load. Kept warm "
        "counts as running. The day's shape, and 1,000 prompt and 15 output tokens a second of one slot, are "
        "assumptions. One day, without a forecast from a day before.\n\n"
    )
    title = "A day of traffic: slots in use, instance-hours, first tokens"
    record("scaling", title, command, versions, text + table(head, rows))


def _row(which: tuple[str, float, str]) -> list[object]:
    shape, ratio, name = which
    peak = math.ceil(PEAK_SLOTS / (0.7 * SLOTS))
    found = Day(_fleet(name), size=SIZE, slots=SLOTS, lead_s=LEAD_S).run(
        day(SHAPES[shape], peak_slots=PEAK_SLOTS, ratio=ratio, seed=1)
    )
    row = [f"{shape}, {ratio:.0f}:1", name, *_figures(found, peak)]
    print(row, flush=True)
    return row


def _fleet(name: str) -> Fleet:
    if name == POLICY:
        return Autoscaler(ScalingPlan("p", "m", min=1, max=SIZE, forecast=False), SLOTS)
    return Hpa(Cpu(spins=name == SPINS), SLOTS, least=1, most=SIZE, start=4)


def _figures(found: Result, peak: int) -> list[object]:
    busiest = max(found.busy_s)
    used = found.utilization(SLOTS)
    busy = [used[at] for at in range(24) if found.busy_s[at] >= busiest / 2]
    held = sum(_LOW <= one <= _HIGH for one in busy)
    hours = found.held_s / 3600.0
    return [
        f"{held} of {len(busy)}",
        f"{min(busy):.0%}-{max(busy):.0%}",
        f"{hours:.0f}",
        f"{hours / (24 * peak) - 1:+.0%}",
        " / ".join(f"{found.quantile(share):.2f}" for share in (0.5, 0.95, 0.99)),
        f"{found.refused} of {found.served + found.refused}",
        found.cut,
        found.moves,
    ]
