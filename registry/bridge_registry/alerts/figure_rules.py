"""Figures that AlertRules are about, out of what nodes report. Pure.

Gauges are what a node measured last. Counted figures (times to the first byte, failures, tokens) are of the
requests that ended in a window, which moves on in sixths of itself: so an instance costs seven sets of
counters for each length of window, however long it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from bridge_core import gauges
from bridge_core.config.alert_checks import COUNTED
from bridge_core.counts import Counts
from bridge_core.gauges import Gauge

_STEPS: Final = 6


class Sample(msgspec.Struct, frozen=True):
    """One figure of now: of a node, and where it says so of an instance or of one of several things."""

    node: str
    instance: str
    of: str
    value: float
    limit: float = 0.0

    @property
    def key(self) -> str:
        """Tells the series of one figure apart."""
        return f"{self.instance or self.node}:{self.of}"


class Mark(msgspec.Struct, frozen=True):
    """Counters as they were at monotonic time `at`."""

    at: float
    counts: Counts


def marked(trail: tuple[Mark, ...], counts: Counts, window_s: float, now: float) -> tuple[Mark, ...]:
    """A trail of counters after a look at `now`: it begins a window ago, or where they began anew."""
    if trail and counts.requests < trail[-1].counts.requests:
        trail = ()
    if not trail or now - trail[-1].at >= window_s / _STEPS:
        trail = (*trail, Mark(now, counts))
    first = max((at for at, one in enumerate(trail) if now - one.at >= window_s), default=0)
    return trail[first:]


def measured(figure: str, node: str, told: Iterable[Gauge]) -> Iterator[Sample]:
    """The samples of a figure that a node measures itself."""
    for one in told:
        if one.name == figure:
            instance = one.of if figure in gauges.OF_INSTANCE else ""
            yield Sample(node, instance, "" if instance else one.of, one.value, one.limit)


def counted(
    figure: str,
    node: str,
    instance: str,
    trail: tuple[Mark, ...],
    counts: Counts,
    *,
    quantile: float,
    min_requests: int,
) -> Sample | None:
    """The sample of a figure that is made of counters; None: too few requests to say."""
    if not trail:
        return None
    lately = counts.since(trail[0].counts)
    if lately.requests < min_requests:
        return None
    if figure == gauges.ERRORS:
        return Sample(node, instance, "", lately.failed / lately.requests)
    if lately.answered < min_requests:
        return None
    if figure == gauges.TTFT:
        return Sample(node, instance, "", lately.ttft_quantile(quantile))
    return Sample(node, instance, "", lately.tokens_per_s) if lately.tokens_per_s > 0.0 else None


class Trails:
    """Trails of all instances for the windows that rules have; one task feeds it."""

    def __init__(self) -> None:
        self._trails: dict[float, dict[str, tuple[Mark, ...]]] = {}

    def mark(self, windows: Iterable[float], counts: Mapping[str, Counts], now: float) -> None:
        """Takes in counters by instance at monotonic time `now`; of windows and instances not named nothing
        is kept.
        """
        before = self._trails
        self._trails = {
            window: {
                id_: marked(before.get(window, {}).get(id_, ()), one, window, now)
                for id_, one in counts.items()
            }
            for window in windows
        }

    def of(self, window: float, instance: str) -> tuple[Mark, ...]:
        """An instance's trail."""
        return self._trails.get(window, {}).get(instance, ())


def is_counted(figure: str) -> bool:
    """Whether a figure is made of counters, and has a window."""
    return figure in COUNTED
