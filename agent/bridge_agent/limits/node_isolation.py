"""The isolation of a node: which NodeClass is in force, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec
import structlog

from bridge_agent.engines.view import LocalInstance
from bridge_agent.limits.default_class import UNCLASSED
from bridge_agent.limits.gpu import Gpu
from bridge_agent.limits.gpus import GpuKeeper
from bridge_agent.limits.isolation_report import DomainReport, IsolationReport
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_core.node_class import NodeClass, choose
from bridge_core.snapshot import Snapshot

log = structlog.get_logger()

DRAINED_S: Final = 1.0


class Engines(Protocol):
    """What is asked of the engines' supervisor."""

    def fail(self, instance_id: str, reason: str) -> None:
        """Its process is to be ended and started again."""

    def fail_untried(self, instance_id: str, reason: str) -> None:
        """The same, if it took no request yet."""


def in_force(
    snapshot: Snapshot,
    node: str,
    labels: Mapping[str, str],
    own: NodeClass | None = None,
    *,
    default: NodeClass = UNCLASSED,
) -> NodeClass:
    """The NodeClass of a node.

    Args:
        snapshot: The mesh; what it says of the node's labels counts.
        node: The node's name.
        labels: Its own, for as long as the snapshot does not know it.
        own: What its agent.json says: it stands over the mesh's.
        default: Where neither says anything.
    """
    if own is not None:
        return own
    known = snapshot.nodes.get(node)
    chosen = choose(snapshot.node_classes.values(), labels if known is None else known.labels)
    return default if chosen is None else chosen


class NodeIsolation:
    """Keeps launcher and GPUs to the NodeClass in force. Owned by the agent's loop.

    Args:
        node: The node's name.
        labels: From its settings.
        own: The NodeClass of its settings, if any.
        default: The one where neither they nor the mesh have any.
        launcher: Starts engines.
        keeper: Gives them GPUs.
        engines: Starts engines anew that cannot follow as they run, where that cuts nobody's answer:
            those that took no request yet, and all once the node is drained.
        idle: Whether the node has no request in flight or waiting.
    """

    def __init__(
        self,
        node: str,
        labels: Mapping[str, str],
        own: NodeClass | None,
        *,
        default: NodeClass = UNCLASSED,
        launcher: IsolatedLauncher,
        keeper: GpuKeeper,
        engines: Engines,
        idle: Callable[[], bool],
    ) -> None:
        self._node = node
        self._labels = labels
        self._own = own
        self._default = default
        self._launcher = launcher
        self._keeper = keeper
        self._engines = engines
        self._idle = idle
        self._drained = False
        self._snapshot: Snapshot | None = None
        self._told = asyncio.Event()

    def told(self, snapshot: Snapshot) -> None:
        """There is another snapshot, for `run` to follow: a fault in that must not end what told us."""
        self._snapshot = snapshot
        self._told.set()

    def follow(self, snapshot: Snapshot) -> None:
        """Puts the NodeClass that a snapshot has for this node in force."""
        known = snapshot.nodes.get(self._node)
        self._drained = known is not None and known.state == "drained"
        wanted = in_force(snapshot, self._node, self._labels, self._own, default=self._default)
        before = self._launcher.node_class
        if wanted == before:
            return
        log.info("node_class", name=wanted.name, was=before.name)
        if wanted.gpu != before.gpu:
            self._keeper.update(wanted.gpu)
        for instance in self._launcher.update(wanted):
            self._engines.fail_untried(instance, self._why)

    async def run(self) -> None:
        """Until cancelled: follows snapshots, and has a drained node's engines follow what they can only
        from a start.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAINED_S):
                    await self._told.wait()
            self._told.clear()
            if self._snapshot is not None:
                self.follow(self._snapshot)
                self._snapshot = None
            if self._drained and self._idle():
                for instance in self._launcher.pending:
                    self._engines.fail(instance, self._why)

    def view(self, instances: Iterable[LocalInstance]) -> tuple[LocalInstance, ...]:
        """The instances with what is known of their fault domains and GPUs."""
        return tuple(
            msgspec.structs.replace(
                one,
                failure_domain=self._launcher.standing(one.id).domain,
                fault=self._keeper.fault_of(one.id),
            )
            for one in instances
        )

    @property
    def _why(self) -> str:
        return f"its node has the NodeClass {self.node_class.name} now"

    # -- what it says

    @property
    def node_class(self) -> NodeClass:
        """The one in force."""
        return self._launcher.node_class

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        if self._own is not None:
            return "agent.json"
        return "" if self.node_class == self._default else "the mesh"

    def report(self, instance: str) -> IsolationReport:
        """One engine's limits, walls and usage."""
        fault = self._keeper.fault_of(instance)
        return msgspec.structs.replace(self._launcher.report(instance), fault=fault)

    def gpus(self) -> tuple[Gpu, ...]:
        """The node's GPUs."""
        return self._keeper.gpus

    def domains(self) -> tuple[DomainReport, ...]:
        """Fault domains under MPS."""
        return tuple(self._keeper.domains())
