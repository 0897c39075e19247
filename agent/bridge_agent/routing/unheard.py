"""Whether it can be known yet that nobody has a model.

Rules:
1. An instance that is starting and has named no model yet may have any.
2. A node in service without an instance is about to come (back), with what it has.
3. The snapshot that an agent starts with is the one it ended with: until a registry has sent another,
   models may have come meanwhile.
4. Each of these counts for `PATIENCE_S` from when it was first seen. What has not come by then is away,
   and what it has cannot be found: or one broken engine would keep "not found" from clients for ever.
5. Without any snapshot nothing is known of others, however long that lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bridge_agent.routing.view import Index
from bridge_core.snapshot import EMPTY, Snapshot

PATIENCE_S: Final = 30.0


def unheard_of(index: Index, first: Snapshot) -> Mapping[str, str]:
    """What has yet to say which models it has, and how to tell a client; `first` is as in rule 3."""
    found = {
        target.id: f"{target.id} is starting"
        for target in index.targets.values()
        if target.starting and not target.models
    }
    heard = {target.node for target in index.targets.values()}
    for node in index.snapshot.nodes.values():
        if node.state == "active" and node.name not in heard and node.name != index.node:
            found[node.name] = f"node {node.name} is not there yet"
    if index.snapshot is first:
        found["snapshot"] = "this node has started and heard nothing of the mesh yet"
    return found


class Unheard:
    """Follows one agent's view. Times are monotonic seconds."""

    def __init__(self, index: Index, now: float) -> None:
        self._first = index.snapshot
        self._since: dict[str, tuple[float, str]] = {}
        self.follow(index, now)

    def follow(self, index: Index, now: float) -> None:
        """Takes an index that was put in force."""
        self._empty = index.snapshot is EMPTY
        self._since = {
            subject: (self._since.get(subject, (now, ""))[0], words)
            for subject, words in unheard_of(index, self._first).items()
        }

    def reason(self, now: float) -> str:
        """Why a model that nobody is known to have may be there all the same; empty: it is not."""
        if self._empty:
            return "this node has no snapshot of the mesh yet"
        return next((words for since, words in self._since.values() if now - since < PATIENCE_S), "")
