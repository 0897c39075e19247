"""Which changes of a NodeClass a running engine can follow. Pure.

Rules:
1. Limits of cgroups follow at once, as long as each that was set stays set: a value can be written
   over another, while the way back to "never limited" differs from tree to tree.
2. Walls and GPUs are a matter of the start.
"""

from __future__ import annotations

import msgspec

from bridge_core.node_class import Limits, NodeClass


def changes_live(old: NodeClass, new: NodeClass) -> bool:
    """Whether an engine started under `old` can go on under `new`."""
    if (old.isolation, old.gpu) != (new.isolation, new.gpu):
        return False
    if old.limits == Limits() != new.limits:
        return False  # nothing is known to hold it in groups
    if {io.path for io in old.limits.io} - {io.path for io in new.limits.io}:
        return False
    return all(
        getattr(new.limits, field.name) is not None or getattr(old.limits, field.name) is None
        for field in msgspec.structs.fields(Limits)
    )
