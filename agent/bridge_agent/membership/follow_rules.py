"""Whether an update from a registry becomes this agent's snapshot.

Rules:
1. It does when it applies (`bridge_core.snapshot.apply`) and the ring built here from the result
   is the one that the registry built. Otherwise the old snapshot stays and the registry is told.
2. A registry answers a rejection with a whole snapshot; one whose whole snapshots are rejected too
   is left for another, or the two would reject and resend as fast as they can.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bridge_agent.membership.registry_api import Update
from bridge_core.ring import ring_of
from bridge_core.snapshot import Snapshot, SnapshotRejected, apply

MAX_REJECTIONS: Final = 3


class Judged(msgspec.Struct, frozen=True):
    """`snapshot` is the one to serve from now on; `rejected` why the update was not taken."""

    snapshot: Snapshot
    rejected: str = ""


def judge(current: Snapshot, update: Update) -> Judged:
    """What to do with `update`."""
    try:
        result = apply(current, update.delta)
    except SnapshotRejected as fault:
        return Judged(current, str(fault))
    if update.ring_digest and ring_of(result).digest != update.ring_digest:
        version = update.delta.version
        return Judged(current, f"the ring of snapshot {version} built here differs from the registry's")
    return Judged(result)
