"""What every fault says of itself, and the fixed threshold that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeAlias

from bench.detection.bed import Bed
from bench.detection.sight import Sight

SCRAPE_S = 15.0
"""How often a Prometheus of the field looks."""


@dataclass(frozen=True)
class Fixed:
    """A fixed alert.

    Attributes:
        says: As it would be written.
        holds: Whether its condition is true now.
        for_s: For how long it has to be.
        heals: The fault is over before that, as the Bridge undoes it: nobody is ever told.
    """

    says: str
    holds: Callable[[Sight], bool]
    for_s: float
    heals: bool = False


Happening: TypeAlias = Callable[[Bed], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong at node3.

    Attributes:
        name: Its name on the command line.
        what: In a few words.
        happens: Does it, and undoes it at the end of the block.
        in_band: Signs that count.
        out_of_band: The same.
        bars: Seconds in band and out of band that the issue allows; None: no bar.
        fixed: What it is compared with.
        limit_s: A round that takes longer is given up.
    """

    name: str
    what: str
    happens: Happening
    in_band: frozenset[str]
    out_of_band: frozenset[str]
    bars: tuple[float | None, float]
    fixed: Fixed | None
    limit_s: float = 60.0
