"""Which nodes stand apart from the others: their clock, or the way to them. Pure.

Rules:
1. A node's clock is as far ahead as its report says when it was sent, beside when it came. That it was on
   its way makes it no more than that: of its last `LEADS` reports the greatest lead counts.
2. Where `QUORUM` nodes report, a clock is off when it is more than `CLOCK_SKEW_S` from the middle of them
   all, this registry's own among them: who is alone with his time is wrong, the registry too. With fewer, the
   registry's clock is what they are compared with.
3. A node is cut off when more than half of the other nodes that report get no answer from it, and two of them
   at least where there are two: a single node can say of nobody that he is away.
4. Where the way between two halves of a mesh is cut, each half names the other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import median
from typing import Final

from bridge_core.identity.rotation_rules import CLOCK_SKEW_S

LEADS: Final = 2
QUORUM: Final = 3
OWN: Final = ""
"""The registry itself, among those whose clocks are off."""


def lead(sent: float, came: float) -> float | None:
    """By how much a node's clock is ahead, of a report that says when it was sent; None: it does not say.

    Args:
        sent: Unix seconds by the node's clock; 0 of an agent that does not tell.
        came: Unix seconds by the registry's.
    """
    return sent - came if math.isfinite(sent) and sent > 0.0 else None


def clocks_off(leads: Mapping[str, Collection[float]]) -> dict[str, float]:
    """Whose clock is off, and by how many seconds it is ahead; the registry's own by the name `OWN`.

    Args:
        leads: The last ones of every node that reports.
    """
    ahead = {node: max(told) for node, told in leads.items() if told}
    right = median((*ahead.values(), 0.0)) if len(ahead) >= QUORUM else 0.0
    clocks = {**ahead, OWN: 0.0}
    return {node: own - right for node, own in clocks.items() if abs(own - right) > CLOCK_SKEW_S}


def cut_off(silent: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Who gets no answer from whom, by the node that is cut off.

    Args:
        silent: By every node that reports, those that leave it without an answer.
    """
    found = {}
    for node in sorted({one for told in silent.values() for one in told}):
        others = [name for name in silent if name != node]
        witnesses = tuple(sorted(name for name in others if node in silent[name]))
        if 2 * len(witnesses) > len(others) and len(witnesses) >= min(2, len(others)):
            found[node] = witnesses
    return found
