"""How much each model and node is used, from what agents count: pure.

Rules:
1. An agent's counters only grow; what they grew by since its last report is what happened. The first report
   of an agent that this book has not heard of is where counting begins, unless the agent began after the
   book did: all that it counted is new.
2. Counters that began anew (`began` differs) count from zero: the agent was restarted.
3. Only models that the mesh has are kept by name, the others together as `OTHER`: an agent can make up
   names, but no series. Nodes are those that the mesh has enrolled. What is told of one node's models is
   remembered of `NAMES` of them, more than an agent keeps; others are not counted. Totals of a model that
   the mesh has no more are forgotten.
4. Of a day is kept, by the hour, which model was called how often at which node: `CELLS` pairs an hour; calls
   of more are counted as (`OTHER`, `OTHER`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Final, TypeVar

from bridge_core.counts import Counts

SLOT_S: Final = 5.0
WINDOW_S: Final = 60.0
MINUTES: Final = 60
HOURS: Final = 24
CELLS: Final = 1000
NAMES: Final = 512
OTHER: Final = "(other)"  # no name of a model

K = TypeVar("K")
Cell = tuple[int, int]  # requests, of them failed


class TrafficBook:
    """See the module; one task feeds it.

    Args:
        began: Unix seconds of now.

    Attributes:
        totals: Since this book began, by model that the mesh has.
        minutes: The last hour: (Unix minute, by model, by node), oldest first.
        hours: The last day: (hours since 1970, by model and node), oldest first.
    """

    def __init__(self, began: float) -> None:
        self._began_ms = int(began * 1000)
        self._seen: dict[str, tuple[int, dict[str, Counts]]] = {}
        self._known: Collection[str] = frozenset()
        self._slots: deque[tuple[float, dict[str, Counts], dict[str, Counts]]] = deque()
        self.totals: dict[str, Counts] = {}
        self.minutes: deque[tuple[int, dict[str, Cell], dict[str, Cell]]] = deque(maxlen=MINUTES)
        self.hours: deque[tuple[int, dict[tuple[str, str], Cell]]] = deque(maxlen=HOURS)

    def take(
        self,
        node: str,
        began: int,
        models: Mapping[str, Counts],
        known: Collection[str],
        *,
        now: float,
        wall: float,
    ) -> None:
        """Takes in one report of a node, at monotonic `now` and Unix `wall` seconds.

        Args:
            node: Its name.
            began: When its counters began, Unix milliseconds.
            models: Those of its counters that changed.
            known: Models that the mesh has.
            now: Monotonic seconds.
            wall: Unix seconds.
        """
        if known is not self._known:  # the same one as long as the mesh's models are the same
            self._known = known
            self.totals = {name: one for name, one in self.totals.items() if name in known or name == OTHER}
        before = self._seen.get(node)
        first = before is None and began < self._began_ms
        if before is None or before[0] != began:
            before = self._seen[node] = (began, {})
        seen = before[1]
        for model, counts in models.items():
            earlier = seen.get(model)
            if earlier is None and len(seen) >= NAMES:
                continue
            name = model if model in known else OTHER
            grown = counts if earlier is None else counts.since(earlier)
            seen[model] = counts
            if not first and grown != Counts():
                self._add(node, name, grown, now, wall)

    def forget(self, nodes: Collection[str]) -> None:
        """Only these nodes are left."""
        for gone in self._seen.keys() - set(nodes):
            del self._seen[gone]

    def by_model(self, now: float) -> dict[str, Counts]:
        """What happened in the last minute."""
        return self._sum(now, of_nodes=False)

    def by_node(self, now: float) -> dict[str, Counts]:
        """The same, by the node at which it came in."""
        return self._sum(now, of_nodes=True)

    def _sum(self, now: float, *, of_nodes: bool) -> dict[str, Counts]:
        self._let_go(now)
        found: dict[str, Counts] = {}
        for slot in self._slots:
            by = slot[2] if of_nodes else slot[1]
            for name, counts in by.items():
                found[name] = found[name].plus(counts) if name in found else counts
        return found

    def _let_go(self, now: float) -> None:
        while self._slots and self._slots[0][0] <= now - WINDOW_S:
            self._slots.popleft()

    def _add(self, node: str, model: str, grown: Counts, now: float, wall: float) -> None:
        if not self._slots or now - self._slots[-1][0] >= SLOT_S:
            self._slots.append((now, {}, {}))
            self._let_go(now)
        _, models, nodes = self._slots[-1]
        models[model] = models.get(model, Counts()).plus(grown)
        nodes[node] = nodes.get(node, Counts()).plus(grown)
        self.totals[model] = self.totals.get(model, Counts()).plus(grown)
        minute = int(wall // 60)
        if not self.minutes or self.minutes[-1][0] < minute:
            self.minutes.append((minute, {}, {}))
        _, cells_of_models, cells_of_nodes = self.minutes[-1]
        _count(cells_of_models, model, grown)
        _count(cells_of_nodes, node, grown)
        hour = int(wall // 3600)
        if not self.hours or self.hours[-1][0] < hour:
            self.hours.append((hour, {}))
        pairs = self.hours[-1][1]
        pair = (model, node)
        _count(pairs, pair if pair in pairs or len(pairs) < CELLS else (OTHER, OTHER), grown)


def _count(cells: dict[K, Cell], key: K, grown: Counts) -> None:
    requests, failed = cells.get(key, (0, 0))
    cells[key] = requests + grown.requests, failed + grown.failed
