"""The tuner: measures candidates until all that is worth trying was, or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from bridge_agent.tuning.records import Choice, Measured, Trial
from bridge_agent.tuning.tune_rules import Space, candidates, choose
from bridge_core.errors import Unavailable


class Measures(Protocol):
    """What measures a choice."""

    async def measure(self, choice: Choice, limit_s: float) -> Measured:
        """What it gives, or why that cannot be said, within `limit_s`."""
        ...


async def tune(
    bench: Measures,
    space: Space,
    *,
    limit_s: float,
    told: Callable[[Trial], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Trial, tuple[Trial, ...]]:
    """The best trial and all of them.

    Args:
        bench: Measures choices.
        space: What may be varied.
        limit_s: How long it may all take.
        told: Hears of every trial as it ends.
        clock: Monotonic time in seconds.

    Raises:
        Unavailable: nothing could be measured, with why.
    """
    end = clock() + limit_s
    trials: list[Trial] = []
    longest = 0.0
    while (choice := candidates(space, trials)) is not None:
        began = clock()
        if trials and end - began < longest:
            break  # another would not be done in time
        trials.append(Trial(choice, await bench.measure(choice, max(1.0, end - began))))
        longest = max(longest, clock() - began)
        told(trials[-1])
    best = choose(trials, space.ttft_s)
    if best.measured.fault:
        raise Unavailable(
            f"nothing could be measured: {best.measured.fault}",
            hint="see that the engine starts (bridge-agent status), or give it more time with --limit",
        )
    return best, tuple(trials)
