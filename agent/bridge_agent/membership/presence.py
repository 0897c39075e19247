"""Whether this agent is its node, or another one runs with a copy of its state folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from bridge_agent.engines.proc import place_of
from bridge_agent.membership.link_status import LinkStatus
from bridge_agent.membership.standing_rules import Standing, standing
from bridge_core.proc import boot_id
from bridge_core.snapshot import Snapshot

log = structlog.get_logger()

FIRST_WORD_S: Final = 5.0  # for a registry to say whether another agent is this node
_ADDRESS_EVERY_S: Final = 30.0  # a mesh that keeps another address is told no more often


def holder_id(folder: Path) -> str:
    """Which agent this is: the same after its restart, another on a copy of its folder or of its machine.

    Raises:
        OSError: there is no such folder.
    """
    return hashlib.sha256(f"{boot_id()} {place_of(folder)}".encode()).hexdigest()[:16]


class Presence:
    """Compares what the mesh has of this node with what it is; owns what is to be said of that.

    Args:
        node: Its name.
        holder: This agent; see `holder_id`.
        peer: Where other agents are to look for it.
        now: The wall clock in seconds, for `status`.
        clock: Monotonic seconds.
    """

    def __init__(
        self, node: str, holder: str, peer: str, *, now: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._node = node
        self._holder = holder
        self._peer = peer
        self._clock = clock
        self._began = clock()
        self._told_address = float("-inf")
        self.standing: Standing | None = None
        self.status = LinkStatus("identity", now)
        self.status.works()

    @property
    def may_act(self) -> bool:
        """Whether this agent is the node, as far as it can know, and may change what the mesh has of it."""
        if self.standing is None:
            return self._clock() - self._began >= FIRST_WORD_S
        return not self.standing.other

    @property
    def withheld(self) -> str:
        """Why another agent is the node; empty: none is known of."""
        if self.standing is None or not self.standing.other:
            return ""
        return (
            f"another agent is registered as {self._node}: at {self.standing.peer or 'an unknown address'}; "
            "this one serves its own clients and waits until it is gone"
        )

    def take(self, snapshot: Snapshot, registered: Sequence[str]) -> Standing:
        """Looks at a snapshot that a registry has confirmed; `registered` are the instances put."""
        self.standing = found = standing(snapshot, self._node, self._holder, registered)
        if found.other:
            if self.status.failed(self.withheld):
                log.warning(
                    "node_runs_twice", node=self._node, other=found.other, own=self._holder, peer=found.peer
                )
        elif self.status.works():
            log.info("node_is_alone_again", node=self._node)
        return found

    def address_differs(self) -> bool:
        """Whether the registry is to be told this agent's address now."""
        found = self.standing
        if found is None or not found.member or found.other or found.peer == self._peer:
            return False
        if self._clock() - self._told_address < _ADDRESS_EVERY_S:
            return False
        self._told_address = self._clock()
        return True
