"""What every decision reads: one snapshot with its indexes, replaced as a whole.

Rules:
1. An `Index` is derived from one snapshot and one list of this node's own instances; nothing in
   it changes afterwards.
2. About this node its own supervisor is right, about every other node the snapshot is. While the
   node drains its own instances take no new work: clients are served by the others.
3. A new index replaces the old one in one assignment, so a decision never sees half of each.
4. An instance that the mesh took out, because its answers contradict those of the others, takes no new work,
   here or elsewhere.
5. Where the copies of a model differ, only those of the digest that its name means here serve it
   (`model_digests`); that is worked out once an index.
5. Of a model that is scaled the active holders serve it, and the others are its reserve: for when none
   of those can. While no active holder is available, nobody is in reserve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from bridge_agent.engines.view import LocalInstance
from bridge_core.addresses import join_address
from bridge_core.model_digests import Copy, difference, is_meant, meant
from bridge_core.names import InvalidName, canonical, canonical_or_same
from bridge_core.ring import Ring
from bridge_core.snapshot import (
    EMPTY,
    Instance,
    LoadingModel,
    MemberModel,
    Node,
    Route,
    Snapshot,
    WithheldModel,
)

_GOING: Final = frozenset({"draining", "stopped"})
_NOBODY: Final = frozenset[str]()


class Target(msgspec.Struct, frozen=True):
    """An instance as routing sees it.

    Attributes:
        address: Where requests for it go: host:port of its engine when local, else of its node's
            peer listener; empty when it has none.
        available: Whether it takes new work: ready, on an active node, reachable by address.
        reason: Why it is not available.
        failure_domain: What it falls together with, beyond its node; empty: nothing.
        warm: Models whose files lie in its node's page cache, by their canonical names.
        withheld: Models on its disk that it does not serve.
        loading: Models that are on their way into its memory, by their canonical names.
        starting: It is expected to be ready soon.
        leaving: It was told to take no new work, or is gone until started again.
    """

    id: str
    node: str
    local: bool
    address: str
    available: bool
    reason: str = ""
    slots: int = 1
    weight: int = 100
    models: tuple[MemberModel, ...] = ()
    loaded: frozenset[str] = frozenset()
    failure_domain: str = ""
    starting: bool = False
    leaving: bool = False
    loading: tuple[LoadingModel, ...] = ()
    warm: frozenset[str] = frozenset()
    withheld: tuple[WithheldModel, ...] = ()

    def load_of(self, model: str) -> LoadingModel | None:
        """Its load of the model of this canonical name, while that is going on."""
        return next((one for one in self.loading if one.name == model), None)

    @property
    def capacity(self) -> int:
        """Its share of the work: what the configuration gives it times what it can do at once."""
        return self.weight * self.slots


class Skipped(msgspec.Struct, frozen=True):
    """A candidate that was passed over, and why."""

    instance: str
    reason: str


class ModelPool(msgspec.Struct, frozen=True):
    """The instances that serve one model, and the ring over them.

    Attributes:
        name: The model's canonical name.
        targets: By instance id.
        capacity: Of those that are available and not in reserve, together.
        others: Those that have a model of this name and are none of the pool's.
        warm: One of those that are available and not in reserve has the model in memory.
        reserve: Those that come last, by every strategy, and have no place on the ring: their weight is 0,
            or the model is scaled and they are no active holders of it.
    """

    name: str
    targets: dict[str, Target]
    ring: Ring
    capacity: int
    others: tuple[Skipped, ...] = ()
    reserve: frozenset[str] = frozenset()
    warm: bool = False


class Index:
    """One immutable view of the mesh, indexed for decisions.

    Attributes:
        snapshot: What it was made from.
        node: The name of this node.
        targets: Every instance by id.
        local: This node's instances, in order.
        ring: The ring over all instances.
        routes: Routes by canonical name.
        defaults: How requests that no route names are treated.
        slow_start_s: The longest slow start that anybody asks for.
        scaled: The active holders of each model that is scaled, by its canonical name.
    """

    def __init__(
        self, node: str, snapshot: Snapshot, local: tuple[LocalInstance, ...], *, draining: bool = False
    ) -> None:
        self.node = node
        self.snapshot = snapshot
        found = _targets(node, snapshot, local, "this node is draining" if draining else "")
        self.targets = {target.id: target for target in found}
        self.local = tuple(target for target in self.targets.values() if target.local)
        self.routes = dict(_routes(snapshot.routes.values()))
        self.defaults = snapshot.mesh.defaults
        self.slow_start_s = max(
            self.defaults.slow_start_s, *(route.policy.slow_start_s for route in self.routes.values()), 0.0
        )
        weights = ((target.id, target.weight) for target in self.targets.values())
        self.ring = Ring(weights, snapshot.mesh.ring_points)
        self._copies = _copies(node, self.targets.values())
        self._withheld = _withheld(self.targets.values())
        self.scaled = {canonical_or_same(one.model): frozenset(one.active) for one in snapshot.holders}
        self._pools: dict[str, ModelPool] = {}
        self._rings: dict[frozenset[str], Ring] = {}
        # For whoever decides: decisions that depend on nothing but this index, by model.
        self.settled: dict[str, Any] = {}

    @property
    def models(self) -> Iterable[str]:
        """Canonical names of every model on any disk of the mesh."""
        return self._copies

    def copies(self, name: str) -> Mapping[str, Copy]:
        """Who has a model of this canonical name, by instance id; whatever its digest."""
        return self._copies.get(name, {})

    def withheld(self, name: str) -> Mapping[str, str]:
        """Why nodes that have a model of this canonical name do not serve it, by the nodes."""
        return self._withheld.get(name, {})

    def pool(self, name: str) -> ModelPool | None:
        """The instances that serve the model of this canonical name; None when nobody has it."""
        pool = self._pools.get(name)
        if pool is None and name in self._copies:
            pool = self._pool_of(name, name, ())
        return pool

    def part(self, key: str, name: str, outside: Callable[[Target], str]) -> ModelPool | None:
        """The same of those that are not `outside` of a part of the mesh, which says why they are.

        What the name means is worked out among them. `key` tells the parts apart.
        """
        pool = self._pools.get(key)
        if pool is None and name in self._copies:
            found = ((id_, outside(self.targets[id_])) for id_ in self._copies[name])
            pool = self._pool_of(key, name, tuple(Skipped(id_, why) for id_, why in found if why))
        return pool

    def _pool_of(self, key: str, name: str, outside: tuple[Skipped, ...]) -> ModelPool:
        out = {one.instance for one in outside}
        copies = [copy for id_, copy in self._copies[name].items() if id_ not in out]
        digest = meant(copies)
        ids = frozenset(copy.instance for copy in copies if is_meant(copy, digest))
        different = (copy for copy in copies if copy.instance not in ids)
        others = (*outside, *(Skipped(copy.instance, difference(copy, digest)) for copy in different))
        targets = {id_: self.targets[id_] for id_ in sorted(ids)}
        reserve = self._reserve(name, targets)
        in_use = ids - reserve
        ring = self._rings.get(in_use)
        if ring is None:
            ring = self._rings[in_use] = self.ring.restrict(in_use)
        serving = [one for one in targets.values() if one.available and one.id not in reserve]
        capacity = sum(one.capacity for one in serving)
        warm = any(name in one.loaded for one in serving)
        pool = self._pools[key] = ModelPool(name, targets, ring, capacity, others, reserve, warm)
        return pool

    def _reserve(self, name: str, targets: Mapping[str, Target]) -> frozenset[str]:
        light = {id_ for id_, target in targets.items() if target.weight <= 0}
        active = self.scaled.get(name, _NOBODY) - light
        if not any(id_ in active and target.available for id_, target in targets.items()):
            return frozenset(light)
        return frozenset(targets.keys() - active)

    def node_record(self, name: str) -> Node | None:
        """An enrolled node, by name."""
        return self.snapshot.nodes.get(name)


class MeshView:
    """The current index; whoever follows snapshots or supervises engines publishes into it."""

    def __init__(self, node: str, snapshot: Snapshot = EMPTY) -> None:
        self._node = node
        self._local: tuple[LocalInstance, ...] = ()
        self._draining = False
        self._listeners: list[Callable[[Index], None]] = []
        self.index = Index(node, snapshot, ())

    @property
    def current(self) -> Snapshot:
        """The snapshot in force."""
        return self.index.snapshot

    def publish(self, snapshot: Snapshot) -> None:
        """Puts a snapshot in force."""
        self._replace(Index(self._node, snapshot, self._local, draining=self._draining))

    def publish_local(self, instances: tuple[LocalInstance, ...]) -> None:
        """Says what this node's engines are doing now."""
        self._local = instances
        self._replace(Index(self._node, self.current, instances, draining=self._draining))

    def drain(self, *, draining: bool) -> None:
        """Whether this node's own instances take no new work."""
        self._draining = draining
        self.publish_local(self._local)

    def subscribe(self, listener: Callable[[Index], None]) -> None:
        """Calls `listener` with each index that is put in force."""
        self._listeners.append(listener)

    def _replace(self, index: Index) -> None:
        self.index = index
        for listener in self._listeners:
            listener(index)


def _targets(
    node: str, snapshot: Snapshot, local: tuple[LocalInstance, ...], closed: str
) -> Iterable[Target]:
    own = {instance.id for instance in local}
    for instance in local:
        yield _local_target(node, instance, snapshot, closed)
    for record in snapshot.instances.values():
        # Ours that the supervisor no longer has are gone, whatever the lease still says.
        if record.id not in own and record.node != node:
            yield _remote_target(record, snapshot.nodes.get(record.node), snapshot)


def _local_target(node: str, instance: LocalInstance, snapshot: Snapshot, closed: str) -> Target:
    record = snapshot.instances.get(instance.id)
    own = snapshot.nodes.get(node)
    reason = closed
    if instance.state != "ready":
        reason = f"instance is {instance.state}"
    elif not instance.port:
        reason = "engine does not listen"
    elif instance.fault:
        reason = instance.fault
    elif own is not None and own.state != "active":
        reason = f"node is {own.state}"
    elif not closed:
        reason = _taken_out(snapshot, instance.id)
    return Target(
        instance.id,
        node,
        True,
        join_address(instance.host, instance.port),
        not reason,
        reason,
        instance.slots,
        100 if record is None else record.weight,
        instance.models,
        _canonicals(instance.loaded),
        instance.failure_domain,
        instance.state == "starting",
        bool(closed) or instance.state in _GOING or (own is not None and own.state != "active"),
        _loading(instance.loading),
        _canonicals(instance.warm),
        instance.withheld,
    )


def _taken_out(snapshot: Snapshot, instance: str) -> str:
    verdict = snapshot.verdicts.get(instance)
    return f"taken out: {verdict.why}" if verdict is not None and verdict.out else ""


def _remote_target(record: Instance, node: Node | None, snapshot: Snapshot) -> Target:
    reason = ""
    if node is None:
        reason = "node is not enrolled"
    elif node.state != "active":
        reason = f"node is {node.state}"
    elif record.state != "ready":
        reason = f"instance is {record.state}"
    elif not node.peer:
        reason = "node has no peer address"
    else:
        reason = _taken_out(snapshot, record.id)
    return Target(
        record.id,
        record.node,
        False,
        "" if node is None else node.peer,
        not reason,
        reason,
        record.slots,
        record.weight,
        record.models,
        _canonicals(record.loaded),
        record.failure_domain,
        record.state == "starting",
        node is None or node.state != "active" or record.state in _GOING,
        _loading(record.loading),
        _canonicals(record.warm),
        record.withheld,
    )


def _copies(node: str, targets: Iterable[Target]) -> dict[str, dict[str, Copy]]:
    """By canonical name and instance id, in the order of the ids."""
    found: dict[str, dict[str, Copy]] = {}
    for target in sorted(targets, key=lambda one: one.id):
        for model in target.models:
            try:
                name = canonical(model.name)
            except InvalidName:
                continue  # an engine may list what no request can name
            copy = Copy(target.id, target.node, model, target.node == node, target.leaving)
            found.setdefault(name, {}).setdefault(target.id, copy)
    return found


def _withheld(targets: Iterable[Target]) -> dict[str, dict[str, str]]:
    """By canonical name and node."""
    found: dict[str, dict[str, str]] = {}
    for target in targets:
        for model in target.withheld:
            found.setdefault(canonical_or_same(model.name), {})[target.node] = model.why
    return found


def _canonicals(names: Iterable[str]) -> frozenset[str]:
    found = set()
    for name in names:
        try:
            found.add(canonical(name))
        except InvalidName:
            continue  # an engine may list what no request can name
    return frozenset(found)


def _loading(loads: Iterable[LoadingModel]) -> tuple[LoadingModel, ...]:
    return tuple(LoadingModel(canonical_or_same(one.name), one.since_unix, one.expected_s) for one in loads)


def _routes(routes: Iterable[Route]) -> Iterable[tuple[str, Route]]:
    for route in routes:
        try:
            yield canonical(route.name), route
        except InvalidName:
            continue  # refused by apply; an old document must not take the agent down
