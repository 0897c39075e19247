"""`python -m bench scaling`: a day by shape, ratio and fleet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.results import record, table
from bench.scaling.fleets import Autoscaler, Cpu, Fixed, Fleet, Hpa
from bench.scaling.simulator import Day, Result
from bench.scaling.traffic import SHAPES, day
from bridge_registry.scaling.plan import ScalingPlan

SLOTS, LEAD_S, SIZE, PEAK_SLOTS = 4, 30.0, 12, 22.4
PEAK = math.ceil(PEAK_SLOTS / (0.7 * SLOTS))
POLICY, LEARNT = "AutoscalePolicy", "AutoscalePolicy, with the day before"
SPINS, LIKE_SLOTS = "HPA, CPU of a thread that spins", "HPA, CPU like slots"
FIXED = "sized for the peak"
# (shape, peak to valley, fleet, seeds)
DAYS: tuple[tuple[str, float, str, tuple[int, ...]], ...] = (
    ("conversation", 4.0, POLICY, (1, 2, 3)),
    ("conversation", 4.0, LEARNT, (1,)),
    ("conversation", 4.0, FIXED, (1,)),
    ("conversation", 4.0, LIKE_SLOTS, (1,)),
    ("mooncake", 4.0, POLICY, (1,)),
    ("mooncake", 4.0, FIXED, (1,)),
    ("mooncake", 4.0, LIKE_SLOTS, (1,)),
    ("code", 4.0, POLICY, (1,)),
    ("code", 4.0, FIXED, (1,)),
    *((shape, ratio, POLICY, (1,)) for shape in ("conversation", "mooncake") for ratio in (2.0, 10.0)),
    ("conversation", 4.0, SPINS, (1,)),
)
_LOW, _HIGH = 0.65, 0.75


def scaling(_folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """Runs every day and writes the table."""
    runs = [(shape, ratio, name, seed) for shape, ratio, name, seeds in DAYS for seed in seeds]
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(_row, runs))
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
        f"{PEAK} instances is sized. A busy hour has at least half the busiest hour's load. Kept warm "
        "counts as running. The policy has no value but min 1 and max 12 that is not the default. The day's "
        "shape, conversations of five turns on a mean, and 1,000 prompt and 15 output tokens a second of one "
        "slot, are assumptions. #: another draw of the same day.\n\n"
    )
    title = "A day of traffic: slots in use, instance-hours, first tokens"
    record("scaling", title, command, versions, text + table(head, rows))


def _row(which: tuple[str, float, str, int]) -> list[object]:
    shape, ratio, name, seed = which
    profile: tuple[float, ...] = ()
    if name == LEARNT:
        before = _policy(())
        _run(before, shape, ratio, seed + 100)
        profile = before.profile
    fleet = _policy(profile) if name in {POLICY, LEARNT} else _fleet(name)
    row = [f"{shape}, {ratio:.0f}:1, #{seed}", name, *_figures(_run(fleet, shape, ratio, seed), PEAK)]
    print(row, flush=True)
    return row


def _run(fleet: Fleet, shape: str, ratio: float, seed: int) -> Result:
    return Day(fleet, size=SIZE, slots=SLOTS, lead_s=LEAD_S).run(
        day(SHAPES[shape], peak_slots=PEAK_SLOTS, ratio=ratio, seed=seed)
    )


def _policy(profile: tuple[float, ...]) -> Autoscaler:
    return Autoscaler(ScalingPlan("p", "m", min=1, max=SIZE), SLOTS, profile)


def _fleet(name: str) -> Fleet:
    if name == FIXED:
        return Fixed(PEAK)
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
