"""Which candidates a tuner tries, in which order, and which it keeps. Pure.

Rules:
1. One thing is varied at a time, from the best so far: threads, then slots, then batch, precision and
   share of the GPU; and again from the start where a new best was found, for they depend on each other.
2. The best is the one with the most tokens a second of all slots together whose first token comes in
   time; where none does, the one whose first token comes soonest.
3. Another choice must gain `WORTH` to be preferred to an earlier one: less is noise. So precision is
   not given up for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from bridge_agent.limits.placement_rules import KvType
from bridge_agent.tuning.records import Choice, Measured, Trial

WORTH: Final = 1.03


class Space(msgspec.Struct, frozen=True):
    """What may be varied; the first of each is where the search begins.

    Attributes:
        ttft_s: The longest acceptable median time to a first token with all slots busy.
    """

    slots: tuple[int, ...] = (1, 2, 4, 8)
    threads: tuple[int, ...] = (0,)
    batches: tuple[int, ...] = (512,)
    kv_types: tuple[KvType, ...] = ("f16",)
    percentages: tuple[int, ...] = (100,)
    engines: int = 1
    ttft_s: float = 2.0


def node_space(cores: int, *, gpu: bool, engines: int = 1, planned_share: int = 100) -> Space:
    """What is worth trying on a node.

    Args:
        cores: Its CPUs.
        gpu: Whether models run on a GPU.
        engines: Copies that share it under MPS.
        planned_share: Their percentage of active threads by the planner's table.
    """
    if not gpu:
        threads = tuple(dict.fromkeys((cores, max(1, cores // 2))))
        return Space(threads=threads, batches=(512, 128), kv_types=("f16", "q8_0"))
    shares = (
        tuple(dict.fromkeys((planned_share, 100, max(20, planned_share // 2)))) if engines > 1 else (100,)
    )
    return Space(
        slots=(1,) if engines > 1 else (1, 2, 4, 8, 16),
        threads=tuple(dict.fromkeys((max(1, cores // 8), 1))),
        batches=(512, 2048),
        kv_types=("f16", "q8_0"),
        percentages=shares,
        engines=engines,
    )


def candidates(space: Space, trials: Sequence[Trial]) -> Choice | None:
    """The next choice to measure; None: all that is worth it was."""
    if not trials:
        return _first(space)
    tried = {trial.choice for trial in trials}
    best = choose(trials, space.ttft_s).choice
    return next((choice for choice in _around(space, best) if choice not in tried), None)


def choose(trials: Sequence[Trial], ttft_s: float) -> Trial:
    """The trial to keep (rules 2 and 3); the first where all failed."""
    worked = [trial for trial in trials if not trial.measured.fault]
    if not worked:
        return trials[0]
    in_time = [trial for trial in worked if trial.measured.ttft_s <= ttft_s]
    if not in_time:
        return min(worked, key=lambda trial: trial.measured.ttft_s)
    best = in_time[0]
    for trial in in_time[1:]:
        if trial.measured.tokens_per_s > best.measured.tokens_per_s * WORTH:
            best = trial
    return best


def explain(trials: Sequence[Trial], best: Trial, space: Space) -> tuple[str, ...]:
    """Why `best` was kept, a sentence for each other trial."""
    found = [f"{describe(best.choice)}: {_figures(best.measured)}: kept"]
    for trial in trials:
        if trial is best:
            continue
        measured = trial.measured
        if measured.fault:
            why = f"could not be measured: {measured.fault}"
        elif measured.ttft_s > space.ttft_s >= best.measured.ttft_s:
            why = f"{_figures(measured)}: its first token comes later than the {space.ttft_s:g} s allowed"
        else:
            share = measured.tokens_per_s / max(best.measured.tokens_per_s, 1e-9)
            why = f"{_figures(measured)}: {share:.0%} of the best"
        found.append(f"{describe(trial.choice)}: {why}")
    return tuple(found)


def describe(choice: Choice) -> str:
    """A choice in words."""
    parts = [
        f"{choice.slots} slot{'s' if choice.slots > 1 else ''}",
        f"{choice.threads or 'all'} threads",
        f"batches of {choice.batch}",
        f"{choice.kv_type} cache",
    ]
    if choice.engines > 1:
        parts.append(f"{choice.engines} engines at {choice.thread_percentage} % of the GPU's threads each")
    return ", ".join(parts)


def _figures(measured: Measured) -> str:
    return f"{measured.tokens_per_s:,.1f} tokens/s, first token after {measured.ttft_s * 1000:,.0f} ms"


def _first(space: Space) -> Choice:
    return Choice(
        space.slots[0],
        space.threads[0],
        space.batches[0],
        space.kv_types[0],
        space.engines,
        space.percentages[0],
    )


def _around(space: Space, best: Choice) -> Iterator[Choice]:
    """Every choice that differs from `best` in one thing, in the order of rule 1."""
    for name, values in (
        ("threads", space.threads),
        ("slots", space.slots),
        ("batch", space.batches),
        ("kv_type", space.kv_types),
        ("thread_percentage", space.percentages),
    ):
        for value in values:
            yield msgspec.structs.replace(best, **{name: value})
