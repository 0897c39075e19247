"""Watches the series whose thresholds are learnt: which there are, and what there is to say of them.

What was learnt is in memory alone: who begins to lead learns anew, which takes minutes of requests at each
load, and says nothing before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from bridge_core.counts import Counts
from bridge_core.snapshot import Instance
from bridge_registry.alerts import learning_rules as rules
from bridge_registry.alerts.alert_rules import Seen, of_health
from bridge_registry.alerts.places import Places
from bridge_registry.alerts.series_rules import LEARNT, Growing, LearntFigure, Window, windows

MOST_SERIES: Final = 2048
MOST_OF_NODE: Final = 128
_SIGN: Final[dict[LearntFigure, float]] = {"slow-first-byte": 1.0, "slow-tokens": -1.0}
_SAYS: Final[dict[LearntFigure, str]] = {
    "slow-first-byte": "takes {factor:.1f} times as long to a first byte as is usual for it at this load",
    "slow-tokens": "makes one token where {factor:.1f} are usual for it at this load",
}


class Learner:
    """See the module; one task feeds it.

    Args:
        now: Unix seconds.
    """

    def __init__(self, now: float) -> None:
        self._places = Places[tuple[str, LearntFigure]](MOST_SERIES, MOST_OF_NODE)
        self._state = rules.empty(0, now)
        self._growing: dict[str, Growing] = {}
        self._compared = np.zeros(0, dtype=bool)

    @property
    def series(self) -> tuple[int, int]:
        """How many series are watched, and of how many something is known."""
        return len(self._places), int((self._state.told > 0).any(axis=1).sum())

    def look(
        self,
        instances: Mapping[str, Instance],
        counts: Mapping[str, Counts],
        load: Mapping[str, float],
        now: float,
    ) -> None:
        """One window more.

        Args:
            instances: Those that are published.
            counts: What they have done so far, of those whose agents report.
            load: Slots in use, as a share.
            now: Unix seconds.
        """
        self._make_room(instances, now)
        self._growing, over = windows(self._growing, counts)
        if self._places:
            self._step(instances, over, load, now)

    def seen(self) -> Iterator[Seen]:
        """What is wrong."""
        for (instance, figure), at in self._places.items():
            if not self._state.raised[at]:
                continue
            node = instance.partition("/")[0]
            factor = math.exp(min(10.0, max(0.0, float(self._state.residual[at]))))
            others = ", and others of its model do not" if self._compared[at] else ""
            summary = f"{instance} {_SAYS[figure].format(factor=factor)}{others}"
            yield of_health(figure, "warning", node, instance, summary, moved=True)

    def _step(
        self,
        instances: Mapping[str, Instance],
        over: Mapping[str, Window],
        load: Mapping[str, float],
        now: float,
    ) -> None:
        many = len(self._places)
        sample, answers, loads = np.full(many, np.nan), np.zeros(many), np.zeros(many)
        sign, group, node = np.zeros(many), np.zeros(many, dtype=np.int64), np.zeros(many, dtype=np.int64)
        groups, nodes = dict[object, int](), dict[str, int]()
        for (id_, figure), at in self._places.items():
            instance, window = instances[id_], over.get(id_)
            models = tuple(sorted(one.digest for one in instance.models))
            sign[at] = _SIGN[figure]
            group[at] = groups.setdefault((figure, models), len(groups))
            node[at] = nodes.setdefault(instance.node, len(nodes))
            loads[at] = load.get(id_, 0.0)
            if window is not None:
                sample[at], answers[at] = window.of(figure), window.answers
        kinds = rules.Kinds(sign, group, node)
        self._state = rules.step(self._state, kinds, rules.Sample(sample, answers, loads), now)
        self._compared = rules.compared(self._state, kinds)

    def _make_room(self, instances: Mapping[str, Instance], now: float) -> None:
        """A place for what is new; of what is gone nothing is kept."""
        kept = self._places.keep(lambda key, _: key[0] in instances)
        if kept is not None:
            self._state = rules.chosen(self._state, kept)
        every = ((id_, figure) for id_ in instances for figure in LEARNT)
        fresh = self._places.add(every, lambda key: instances[key[0]].node)
        if fresh:
            self._state = rules.grown(self._state, len(fresh), now)
