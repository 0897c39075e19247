"""When a drained node may be stopped: pure.

Rules:
1. Every agent that is connected has acknowledged a snapshot in which the node is drained, so that
   none sends it anything more.
2. The node's last report is from after that, and nothing was in flight.
3. A node that does not report and has no instance left is stopped already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bridge_core.snapshot import Snapshot, Version
from bridge_registry.membership.load_book import NodeLoad

FRESH_S: Final = 5.0


def reports(load: NodeLoad | None, now: float) -> bool:
    """Whether the node's word is of now."""
    return load is not None and now - load.at < FRESH_S


def safe_to_stop(
    name: str,
    published: Mapping[Version, Snapshot],
    acknowledged: Iterable[Version | None],
    load: NodeLoad | None,
    now: float,
) -> bool:
    """Whether stopping the node `name` cuts no request."""
    newest = published[max(published)]
    if not _drained(name, newest):
        return False
    if any(have is None or not _drained(name, published.get(have)) for have in acknowledged):
        return False
    if load is not None and reports(load, now):
        return _drained(name, published.get(load.snapshot)) and load.in_flight == 0
    return not any(instance.node == name for instance in newest.instances.values())


def _drained(name: str, snapshot: Snapshot | None) -> bool:
    node = snapshot.nodes.get(name) if snapshot is not None else None
    return node is not None and node.state == "drained"
