"""Watches what share of instances' requests fails. What was learnt is in memory alone, see `learner`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from bridge_core.counts import Counts
from bridge_core.snapshot import Instance
from bridge_registry.alerts import error_rules as rules
from bridge_registry.alerts.alert_rules import Seen, of_health
from bridge_registry.alerts.learner import MOST_OF_NODE, MOST_SERIES
from bridge_registry.alerts.places import Places

NAME: Final = "error-rate"


class ErrorWatch:
    """See the module; one task feeds it."""

    def __init__(self) -> None:
        self._places = Places[str](MOST_SERIES, MOST_OF_NODE)
        self._state = rules.empty(0)
        self._before: dict[str, Counts] = {}
        self._others = np.zeros(0)

    def __len__(self) -> int:
        return len(self._places)

    def look(self, instances: Mapping[str, Instance], counts: Mapping[str, Counts], now: float) -> None:
        """One window more.

        Args:
            instances: Those that are published.
            counts: What they have done so far, of those whose agents report.
            now: Unix seconds.
        """
        self._make_room(instances)
        many = len(self._places)
        if not many:
            return
        requests, failed = np.zeros(many), np.zeros(many)
        groups, nodes = dict[object, int](), dict[str, int]()
        group, node = np.zeros(many, dtype=np.int64), np.zeros(many, dtype=np.int64)
        for id_, at in self._places.items():
            models = tuple(sorted(one.digest for one in instances[id_].models))
            group[at] = groups.setdefault(models, len(groups))
            node[at] = nodes.setdefault(instances[id_].node, len(nodes))
            told, before = counts.get(id_), self._before.get(id_)
            # Who began anew counts from then on: of what was before nobody knows.
            if told is not None and before is not None and told.requests >= before.requests:
                grown = told.since(before)
                requests[at], failed[at] = grown.requests, grown.failed
        self._before.update((id_, one) for id_, one in counts.items() if self._places.row(id_) is not None)
        self._state = rules.step(self._state, group, node, requests=requests, failed=failed, now=now)
        self._others = rules.of_others(self._state, group, node)

    def seen(self) -> Iterator[Seen]:
        """Who fails more than is usual."""
        shares, usual = rules.shares(self._state), rules.usual(self._state)
        for id_, at in self._places.items():
            if not self._state.raised[at]:
                continue
            summary = (
                f"{id_} failed {100.0 * shares[at]:.2g} % of its requests of the last minutes, where "
                f"{100.0 * usual[at]:.2g} % are as much as is usual for it; "
                f"other nodes of its model {100.0 * self._others[at]:.2g} %"
            )
            yield of_health(NAME, "warning", id_.partition("/")[0], id_, summary, moved=True)

    def _make_room(self, instances: Mapping[str, Instance]) -> None:
        """A place for what is new; of what is gone nothing is kept."""
        kept = self._places.keep(lambda id_, _: id_ in instances)
        if kept is not None:
            self._state = rules.chosen(self._state, kept)
            self._before = {id_: one for id_, one in self._before.items() if id_ in instances}
        fresh = self._places.add(instances, lambda id_: instances[id_].node)
        if fresh:
            self._state = rules.grown(self._state, len(fresh))
