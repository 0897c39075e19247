"""Forecasts what nodes report: disks, GPUs' memory, queues, and how fast streams are.

A reading a minute of each series is all that is taken. What was learnt is in memory alone: who begins to
lead learns anew, which takes a quarter of an hour for a trend and days for a season; until then what an
earlier leader had raised stays raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from bridge_core import gauges
from bridge_core.counts import Counts
from bridge_core.snapshot import Snapshot
from bridge_registry.alerts.alert_rules import Seen
from bridge_registry.alerts.threshold_rules import RulePlan
from bridge_registry.forecasts.outlook_rules import FIGURES, STEP_S
from bridge_registry.forecasts.reading_rules import Place, Reading, filling, queues, streams
from bridge_registry.forecasts.series import Forecast, Series
from bridge_registry.health.keeper import Heard, counts_of


class Forecaster:
    """See the module; one task feeds it.

    Args:
        lasting: What an earlier leader had raised, of which this one knows nothing yet.
        clock: Monotonic seconds.
    """

    def __init__(self, lasting: Iterable[Seen], clock: float) -> None:
        seen = [one for one in lasting if not one.rule]
        self.series: Final = {
            figure: Series(
                figure,
                {Place(one.node, one.instance, one.of): one for one in seen if one.name == how.alert},
            )
            for figure, how in FIGURES.items()
        }
        # One figure in each quarter of a minute, so that the loop is never held for all of them.
        gap = STEP_S / len(FIGURES)
        self._due = {figure: clock + at * gap for at, figure in enumerate(FIGURES)}
        self._counts: dict[str, Counts] = {}

    def due(self, clock: float) -> str:
        """The figure whose readings are to be taken at monotonic time `clock`; empty: none."""
        return next((figure for figure, due in self._due.items() if clock >= due), "")

    def look(
        self,
        figure: str,
        snapshot: Snapshot,
        reporting: Mapping[str, Heard],
        plans: Sequence[RulePlan],
        *,
        now: float,
        clock: float,
    ) -> None:
        """Takes a reading of each of a figure's series.

        Args:
            figure: The one that is due.
            snapshot: The published one.
            reporting: Last reports of the nodes that report.
            plans: The AlertRules, which give limits to queues and streams.
            now: Unix seconds.
            clock: Monotonic seconds.
        """
        # Who was held up for longer than a step does not make up for it: the readings would all be the same.
        due = self._due[figure] + STEP_S
        self._due[figure] = due if due > clock else clock + STEP_S
        readings = list(self._readings(figure, snapshot, reporting, plans))
        self.series[figure].look(readings, snapshot, now)

    def seen(self) -> Iterator[Seen]:
        """What will be full."""
        for one in self.series.values():
            yield from one.seen()

    def forecasts(self, node: str = "", *, hit: bool = False) -> list[Forecast]:
        """What there is to say of all figures, what is hit first before the others; with `hit` of those
        series alone that hit their limit.
        """
        found = [each for one in self.series.values() for each in one.forecasts(node, hit=hit)]
        return sorted(found, key=lambda one: (not one.raised, one.likely_s, one.earliest_s))

    def fullest(self) -> dict[str, dict[str, tuple[float, float, float]]]:
        """By figure and node, as `Series.fullest` says."""
        return {figure: one.fullest() for figure, one in self.series.items()}

    def _readings(
        self,
        figure: str,
        snapshot: Snapshot,
        reporting: Mapping[str, Heard],
        plans: Sequence[RulePlan],
    ) -> Iterator[Reading]:
        if figure == gauges.QUEUE:
            return queues(snapshot, reporting, plans)
        if figure != gauges.TOKENS:
            return filling(figure, reporting)
        before, self._counts = self._counts, counts_of(reporting)
        return streams(snapshot, reporting, plans, before)
