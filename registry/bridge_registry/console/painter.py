"""Gathers what a picture is painted from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from bridge_core.gauges import Gauge
from bridge_core.mesh_picture import MeshPicture, RegistryPicture
from bridge_registry.alerts.alert_rules import Alert
from bridge_registry.alerts.silence_rules import Silence
from bridge_registry.console.picture_rules import Seen, paint
from bridge_registry.console.traffic_rules import TrafficBook
from bridge_registry.membership.load_book import LoadReports
from bridge_registry.membership.node_status import standings
from bridge_registry.publication.publisher import Publisher
from bridge_registry.rollouts.controller import RolloutController
from bridge_registry.standing import Standing


class Painter:
    """Reads the registry's parts when it is asked.

    Args:
        publisher: Has the table and the published snapshot.
        load: What agents report.
        rollouts: Where each stands.
        alerts: What is wrong, and was.
        traffic: How much models and nodes are used.
        silences: What people silenced.
        gauges: What nodes measured last.
        trust_domain: The mesh.
        standing: How the registry stands.
    """

    def __init__(
        self,
        publisher: Publisher,
        load: LoadReports,
        rollouts: RolloutController,
        alerts: Callable[[], tuple[Alert, ...]],
        traffic: TrafficBook,
        *,
        silences: Callable[[], tuple[Silence, ...]],
        gauges: Callable[[], Mapping[str, tuple[Gauge, ...]]],
        trust_domain: str,
        standing: Callable[[], Standing],
    ) -> None:
        self._publisher = publisher
        self._load = load
        self._rollouts = rollouts
        self._alerts = alerts
        self._traffic = traffic
        self._silences = silences
        self._gauges = gauges
        self._trust_domain = trust_domain
        self._standing = standing
        self._version = version("deepseek-ollama-bridge")

    def paint(self) -> MeshPicture:
        """The mesh at this moment."""
        now, wall = time.monotonic(), time.time()
        table, hub, standing = self._publisher.table, self._publisher.hub, self._standing()
        said = hub.acknowledged
        members = tuple(table.membership.members.values())
        self._traffic.forget(table.nodes)
        at = hub.current.version
        registry = RegistryPicture(
            mesh=self._trust_domain,
            name=standing.name,
            version=self._version,
            leads=standing.leader,
            leader=standing.leader_name,
            leader_address=standing.leader_address,
            store_fault=standing.store_fault,
            epoch=at.epoch,
            revision=at.revision,
            concerns=standing.concerns,
        )
        seen = Seen(
            at_unix=wall,
            ahead=wall - now,
            registry=registry,
            standings=tuple(
                standings(
                    table.nodes.values(),
                    members,
                    hub.known,
                    (one.have for one in said.values()),
                    self._load.nodes,
                    now=now,
                )
            ),
            rejected={name: one.rejected for name, one in said.items() if one.rejected},
            members=members,
            snapshot=hub.current,
            rollouts=tuple(self._rollouts.positions()),
            alerts=self._alerts(),
            silences=self._silences(),
            gauges=self._gauges(),
            by_model=self._traffic.by_model(now),
            by_node=self._traffic.by_node(now),
        )
        return paint(seen)
