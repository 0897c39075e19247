"""Windows of the figures whose thresholds are learnt, out of what agents count. Pure.

Every series is one figure of one instance: the median time to a first byte without the wait for a slot, and
the tokens a second of one stream. A window with fewer than `FEWEST` answers grows into the next one,
`LONGEST` windows at most: a series of few requests is judged by as many of them as any other, only later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from bridge_core import gauges
from bridge_core.counts import Counts
from bridge_core.gauges import Gauge

LearntFigure: TypeAlias = Literal["slow-first-byte", "slow-tokens"]

LEARNT: Final[tuple[LearntFigure, ...]] = ("slow-first-byte", "slow-tokens")
FEWEST: Final = 4
LONGEST: Final = 6


class Growing(msgspec.Struct, frozen=True):
    """The window of an instance that is not over: counters at its beginning, and how long it has grown."""

    began: Counts
    windows: int = 0


class Window(msgspec.Struct, frozen=True):
    """A window that is over: the logarithms of its figures (NaN: it has none), and the answers in it."""

    first_byte: float
    tokens: float
    answers: int

    def of(self, figure: LearntFigure) -> float:
        """One of the figures."""
        return self.first_byte if figure == "slow-first-byte" else self.tokens


def windows(
    before: Mapping[str, Growing], counts: Mapping[str, Counts]
) -> tuple[dict[str, Growing], dict[str, Window]]:
    """What grows on, and the windows that are over, by instance."""
    after, over = dict[str, Growing](), dict[str, Window]()
    for instance, now in counts.items():
        growing = before.get(instance)
        if growing is None or now.requests < growing.began.requests:  # first seen, or begun anew
            after[instance] = Growing(now)
            continue
        grown = now.since(growing.began)
        if grown.answered < FEWEST and growing.windows + 1 < LONGEST:
            after[instance] = Growing(growing.began, growing.windows + 1)
            continue
        after[instance] = Growing(now)
        if grown.answered >= FEWEST:
            over[instance] = Window(_log(grown.ttft_quantile(0.5)), _log(grown.tokens_per_s), grown.answered)
    return after, over


def loads(told: Iterable[Gauge]) -> dict[str, float]:
    """Slots in use at each instance of a node, as a share; above 1 some requests wait."""
    busy, slots, waiting = dict[str, float](), dict[str, float](), dict[str, float]()
    for one in told:
        if one.name == gauges.IN_FLIGHT:
            busy[one.of], slots[one.of] = one.value, one.limit
        elif one.name == gauges.QUEUE:
            waiting[one.of] = one.value
    return {id_: (value + waiting.get(id_, 0.0)) / max(1.0, slots[id_]) for id_, value in busy.items()}


def _log(value: float) -> float:
    return math.log(value) if value > 0.0 else math.nan
