"""`python -m bench scaling`, `scaling-uneven`: days by shape, ratio, fleet, and what else is varied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec

from bench.results import record, table
from bench.scaling.fleets import Autoscaler, Cpu, Fixed, Fleet, Hpa
from bench.scaling.simulator import Day, Result
from bench.scaling.traffic import SHAPES, day
from bridge_registry.scaling.plan import ScalingPlan

SLOTS, LEAD_S, SIZE, PEAK_SLOTS = 4, 30.0, 12, 22.4
POLICY, LEARNT = "AutoscalePolicy", "AutoscalePolicy, with the day before"
GOAL_S = 5.0
GOAL = f"AutoscalePolicy, ttftP95 {GOAL_S:.0f}s"
SPINS, LIKE_SLOTS = "HPA, CPU of a thread that spins", "HPA, CPU like slots"
FIXED = "sized for the peak"
_LOW, _HIGH = 0.65, 0.75
_HEAD = [
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


class Case(msgspec.Struct, frozen=True):
    """One day with one fleet.

    Attributes:
        ratio: Peak to valley.
        times: Load and instances, of the usual ones.
        services: Independent ones, each as uneven as the trace, whose requests together are the load.
        lead_s: Until an instance that was asked for is ready.
        drift: A minute is like the last one, as in the trace; else as uneven, and by itself.
    """

    shape: str
    fleet: str = POLICY
    ratio: float = 4.0
    seed: int = 1
    times: int = 1
    services: int = 1
    lead_s: float = LEAD_S
    drift: bool = True

    @property
    def peak(self) -> int:
        """Instances of the fleet sized for the peak."""
        return math.ceil(PEAK_SLOTS * self.times / (0.7 * SLOTS))

    @property
    def words(self) -> str:
        """What it is."""
        more = [f"{self.times} times the load"] if self.times > 1 else []
        more += [f"of {self.services} services"] if self.services > 1 else []
        more += [f"ready after {self.lead_s:.0f} s"] if self.lead_s != LEAD_S else []
        more += [] if self.drift else ["without drift"]
        return ", ".join([self.shape, f"{self.ratio:.0f}:1", *more, f"#{self.seed}"])


DAYS: tuple[Case, ...] = (
    *(Case("conversation", fleet, seed=seed) for fleet in (POLICY, FIXED) for seed in (1, 2, 3)),
    *(Case("conversation", fleet, drift=False) for fleet in (POLICY, FIXED)),
    Case("conversation", LEARNT),
    *(Case("conversation", GOAL, seed=seed) for seed in (1, 2, 3)),
    Case("mooncake", GOAL),
    Case("conversation", LIKE_SLOTS),
    Case("conversation", SPINS),
    *(Case("mooncake", fleet) for fleet in (POLICY, FIXED, LIKE_SLOTS)),
    *(Case(shape, ratio=ratio) for shape in ("conversation", "mooncake") for ratio in (2.0, 6.0, 10.0)),
)
UNEVEN: tuple[Case, ...] = (
    *(Case("code", fleet) for fleet in (POLICY, FIXED)),
    Case("code", lead_s=0.0),
    *(Case("code", fleet, services=16) for fleet in (POLICY, FIXED)),
)


def scaling(_folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """Runs every day and writes the table."""
    text = (
        f"{_ASSUMED} The policy has no value but min 1 and max {SIZE} that is not the default. #: another "
        "draw of the same day.\n\n"
    )
    title = "A day of traffic: slots in use, instance-hours, first tokens"
    record("scaling", title, command, versions, text + table(_HEAD, _rows(DAYS)))


def uneven(_folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """The same for the code trace, with what could be the reason varied."""
    text = (
        f"{_ASSUMED} Of several services: as many requests in all, of services that are each as uneven as "
        "the trace and do not know of one another.\n\n"
    )
    title = "Days as uneven as the code trace"
    record("scaling-uneven", title, command, versions, text + table(_HEAD, _rows(UNEVEN)))


_ASSUMED = (
    f"Virtual instances of {SLOTS} slots, {SIZE} at most, ready {LEAD_S:.0f} s after they are asked for "
    f"(also the HPA's pods); a peak that needs {PEAK_SLOTS:.0f} slots on a mean, for which a fleet of "
    f"{Case('').peak} instances is sized. A busy hour has at least half the busiest hour's load. Kept "
    "warm counts as running. Minutes are as uneven as the trace's, and as much like one another. The day's "
    "shape, conversations of five turns on a mean, and 1,000 prompt and 15 output tokens a second of one "
    "slot, are assumptions."
)


def _rows(cases: Sequence[Case]) -> list[list[object]]:
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(_row, cases))


def _row(case: Case) -> list[object]:
    profile: tuple[float, ...] = ()
    if case.fleet == LEARNT:
        before = _policy(case, ())
        _run(before, msgspec.structs.replace(case, seed=case.seed + 100))
        profile = before.profile
    row = [case.words, case.fleet, *_figures(_run(_FLEETS[case.fleet](case, profile), case), case.peak)]
    print(row, flush=True)
    return row


def _run(fleet: Fleet, case: Case) -> Result:
    shape = SHAPES[case.shape]
    uneven, alike = shape.minute_cv / math.sqrt(case.services), shape.minute_ac if case.drift else 0.0
    shape = msgspec.structs.replace(shape, minute_cv=uneven, minute_ac=alike)
    arrivals = day(shape, peak_slots=PEAK_SLOTS * case.times, ratio=case.ratio, seed=case.seed)
    return Day(fleet, size=SIZE * case.times, slots=SLOTS, lead_s=case.lead_s).run(arrivals)


def _policy(case: Case, profile: tuple[float, ...]) -> Autoscaler:
    plan = ScalingPlan("p", "m", min=1, max=SIZE * case.times)
    if case.fleet == GOAL:
        plan = msgspec.structs.replace(plan, ttft_p95_s=GOAL_S)
    return Autoscaler(plan, SLOTS, profile)


def _fixed(case: Case, _profile: tuple[float, ...]) -> Fixed:
    return Fixed(case.peak)


def _hpa(case: Case, _profile: tuple[float, ...]) -> Hpa:
    return Hpa(Cpu(spins=case.fleet == SPINS), SLOTS, least=1, most=SIZE * case.times, start=4)


_FLEETS: dict[str, Callable[[Case, tuple[float, ...]], Fleet]] = {
    **dict.fromkeys((POLICY, LEARNT, GOAL), _policy),
    FIXED: _fixed,
    **dict.fromkeys((SPINS, LIKE_SLOTS), _hpa),
}


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
