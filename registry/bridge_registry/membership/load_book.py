"""What agents report of their requests, added up over the mesh: pure.

Rules:
1. An agent's counters only grow; what they grew by since its last report is what happened. The first
   report of an agent that this book has not heard of is where counting begins.
2. Counters that began anew (`began` differs) count from zero: the agent was restarted.
3. `take` hands out what happened once.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bridge_core.counts import Counts
from bridge_core.probe import ProbeResult
from bridge_core.snapshot import Version

Key = tuple[str, str]  # route, backend


class ModelFigures(msgspec.Struct, frozen=True):
    """One model at a node's instances since its agent began: how often asked for, first bytes."""

    asked: int = 0
    ttft: Counts = Counts()


class NodeLoadReport(msgspec.Struct, frozen=True):
    """One report of one agent; `backends` holds those that changed since the one before."""

    began: int
    in_flight: int
    snapshot: Version
    backends: Mapping[Key, Counts]
    results: tuple[ProbeResult, ...] = ()
    silent_peers: Mapping[str, int] = {}
    trusts: frozenset[str] = frozenset()
    clients: Mapping[str, int] = {}
    instances: Mapping[str, tuple[int, int]] = {}
    models: Mapping[str, Counts] = {}
    demand: Mapping[str, ModelFigures] = {}
    version: str = ""
    speaks: Mapping[str, int] = {}


class NodeLoad(msgspec.Struct, frozen=True):
    """How a node stands.

    Attributes:
        at: Monotonic time of its last report; minus infinity once its reports have ended.
        heard: The same, also then.
        silent_peers: Nodes that do not answer it, with the Unix time since when.
        trusts: The CAs that it trusts in other members.
        instances: Requests at each of its instances, and those that wait for it.
        version: What its agent is; empty: it does not say.
        speaks: Which version of each format its agent writes.
    """

    at: float
    began: int
    in_flight: int
    snapshot: Version
    heard: float = 0.0
    silent_peers: Mapping[str, int] = {}
    trusts: frozenset[str] = frozenset()
    instances: Mapping[str, tuple[int, int]] = {}
    version: str = ""
    speaks: Mapping[str, int] = {}


class LoadReports:
    """See the module.

    Attributes:
        nodes: How each stands.
        clients: When each client last called anywhere, Unix seconds.
    """

    def __init__(self) -> None:
        self.clients: dict[str, int] = {}
        self.nodes: dict[str, NodeLoad] = {}
        self._seen: dict[str, dict[Key, Counts]] = {}
        self._pending: dict[Key, Counts] = {}
        self._results: dict[str, dict[str, ProbeResult]] = {}
        self._models_seen: dict[str, dict[str, ModelFigures]] = {}
        self._models: dict[str, ModelFigures] = {}

    def take_report(self, node: str, report: NodeLoadReport, now: float) -> None:
        """Takes a report in, at monotonic time `now`."""
        before = self.nodes.get(node)
        self.nodes[node] = NodeLoad(
            now,
            report.began,
            report.in_flight,
            report.snapshot,
            now,
            report.silent_peers,
            report.trusts,
            report.instances,
            report.version,
            report.speaks,
        )
        anew = before is not None and before.began != report.began
        self._take_demand(node, report.demand, new=before is None, anew=anew)
        seen = self._seen.setdefault(node, {})
        if anew:
            seen.clear()
        for key, counts in report.backends.items():
            earlier = seen.get(key)
            seen[key] = counts
            if before is None:
                continue
            grown = counts if earlier is None else counts.since(earlier)
            self._pending[key] = self._pending.get(key, Counts()).plus(grown)
        for client, used in report.clients.items():
            self.clients[client] = max(used, self.clients.get(client, 0))
        for result in report.results:
            self._results.setdefault(result.rollout, {})[result.instance] = result

    def _take_demand(self, node: str, models: Mapping[str, ModelFigures], *, new: bool, anew: bool) -> None:
        seen = {} if anew else self._models_seen.get(node, {})
        self._models_seen[node] = dict(models)
        if new:
            return
        for model, now in models.items():
            earlier = seen.get(model, ModelFigures())
            so_far = self._models.get(model, ModelFigures())
            self._models[model] = ModelFigures(
                so_far.asked + max(0, now.asked - earlier.asked),
                so_far.ttft.plus(now.ttft.since(earlier.ttft)),
            )

    def take_model(self, model: str) -> ModelFigures:
        """What was asked of a model since the last time this was asked."""
        return self._models.pop(model, ModelFigures())

    def gone(self, node: str) -> None:
        """The node reports no more; its counters are kept for when it comes back."""
        if (load := self.nodes.get(node)) is not None:
            self.nodes[node] = msgspec.structs.replace(load, at=float("-inf"))

    def take(self, route: str, backend: str) -> Counts:
        """What happened there since the last time this was asked."""
        return self._pending.pop((route, backend), Counts())

    def results(self, rollout: str) -> tuple[ProbeResult, ...]:
        """The newest result of each instance."""
        return tuple(self._results.get(rollout, {}).values())

    def forget(self, rollout: str) -> None:
        """The rollout is gone."""
        self._results.pop(rollout, None)
