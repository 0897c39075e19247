"""Which changes of a NodeClass a running engine can follow. Pure.

Rules:
1. Limits of cgroups follow at once, as long as each that was set stays set: a value can be written
   over another, while the way back to "never limited" differs from tree to tree.
2. Walls and GPUs are a matter of the start, and with walls whether there is a limit of the disk.
"""

from __future__ import annotations

import msgspec

from bridge_core.node_class import NodeClass, ResourceLimits


def needs_restart(old: NodeClass, new: NodeClass) -> str:
    """Why an engine started under `old` cannot go on under `new`; empty if it can."""
    if old.isolation != new.isolation:
        return "other walls stand only after its next start"
    if old.gpu != new.gpu:
        return "its GPU is shared otherwise only after its next start"
    if old.limits.disk_max is None and new.limits.disk_max is not None:
        return "its disk can be limited only from its next start on"
    lifted = [
        field.name
        for field in msgspec.structs.fields(ResourceLimits)
        if getattr(new.limits, field.name) is None and getattr(old.limits, field.name) is not None
    ]
    lifted += sorted(f"io of {path}" for path in _paths(old) - _paths(new))
    if lifted:
        return f"{', '.join(lifted)} can be lifted only at its next start"
    return ""


def _paths(node_class: NodeClass) -> set[str]:
    return {io.path for io in node_class.limits.io}
