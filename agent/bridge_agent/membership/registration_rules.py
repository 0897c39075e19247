"""Which writes bring this node's instance records in the store up to date.

Rules:
1. A record is current when the store is known to hold this very value under this very lease.
2. A write whose outcome is unknown makes its keys unknown: they are put, or deleted, again. Both
   are idempotent, since nobody else writes under a node's prefix.
3. No lease (id 0): nothing can be written, the old lease's records go by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from bridge_core.keyspace import MEMBERS
from bridge_core.snapshot import Instance, encode_entry
from bridge_core.store.api import Delete, Op, Put

# Key to (lease, value) that the store holds; None when a write's outcome is unknown.
Written: TypeAlias = dict[str, tuple[int, bytes] | None]


def records(instances: Iterable[Instance]) -> dict[str, bytes]:
    """The keys and values that should be in the store."""
    return {f"{MEMBERS}{instance.id}": encode_entry(instance) for instance in instances}


def plan(
    desired: Mapping[str, bytes], written: Mapping[str, tuple[int, bytes] | None], lease: int
) -> list[Op]:
    """What to commit; empty when everything is current or no lease is held."""
    if lease == 0:
        return []
    ops: list[Op] = [
        Put(key, value, lease) for key, value in desired.items() if written.get(key) != (lease, value)
    ]
    ops += [Delete(key) for key in written if key not in desired]
    return ops


def after(written: Written, ops: Iterable[Op], *, known: bool) -> Written:
    """What the store holds after `ops`: committed, or (not `known`) perhaps committed."""
    result = dict(written)
    for op in ops:
        if not known:
            result[op.key] = None
        elif isinstance(op, Put):
            result[op.key] = (op.lease, op.value)
        else:
            result.pop(op.key, None)
    return result
