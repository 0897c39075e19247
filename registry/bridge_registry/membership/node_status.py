"""How each node stands, for the admin's status: pure.

Everything that nodes share is gone through once, however many nodes there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from bridge_core.snapshot import Instance, Snapshot, Version
from bridge_registry.membership.drain_rules import reports, safe_to_stop
from bridge_registry.membership.load_book import NodeLoad
from bridge_registry.records import NodeRecord


class NodeStanding(msgspec.Struct, frozen=True):
    """One node.

    Attributes:
        node: Its record.
        instances: Ids of its members, sorted.
        load: What it last reported; None: nothing.
        reports: Whether that is of now.
        safe_to_stop: See `drain_rules`.
        models: Names of what its members have, sorted.
    """

    node: NodeRecord
    instances: tuple[str, ...]
    load: NodeLoad | None
    reports: bool
    safe_to_stop: bool
    models: tuple[str, ...] = ()


def standings(
    nodes: Iterable[NodeRecord],
    members: Iterable[Instance],
    published: Mapping[Version, Snapshot],
    acknowledged: Iterable[Version | None],
    loads: Mapping[str, NodeLoad],
    *,
    now: float,
) -> Iterator[NodeStanding]:
    """Every node's standing at monotonic time `now`."""
    instances: dict[str, list[str]] = {}
    models: dict[str, set[str]] = {}
    for instance in members:
        instances.setdefault(instance.node, []).append(instance.id)
        models.setdefault(instance.node, set()).update(model.name for model in instance.models)
    heard = frozenset(acknowledged)
    for node in nodes:
        load = loads.get(node.name)
        yield NodeStanding(
            node,
            tuple(sorted(instances.get(node.name, ()))),
            load,
            reports(load, now),
            safe_to_stop(node.name, published, heard, load, now),
            tuple(sorted(models.get(node.name, ()))),
        )
