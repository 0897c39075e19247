"""Which models may be removed from a node, and which go first. Pure.

Rules:
1. The mesh's last copy of a digest stays, unless somebody says in so many words that it may go. Copies at
   nodes that are leaving do not count: they go with their node.
2. A model that an engine here has in memory, or that requests run for, stays.
3. Of those that may go the ones used least recently go first, no more than are needed; of equally old ones
   the largest.
4. Nodes that need room at the same moment see each other's copies, and not all the same ones. Nodes have an
   order for each model, the same in all their eyes; a copy goes for the word of a node before its own in it,
   so the first that has the model keeps it but on an admin's word (`models/removing.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Held(msgspec.Struct, frozen=True):
    """A model on this node's disk.

    Attributes:
        name: In canonical form.
        size: Bytes that its removal frees.
        others: How many other nodes that stay have the same digest by this name.
        loaded: An engine here has it in memory.
        running: Requests for it that run here.
        used: When it was used last, in any clock's seconds.
    """

    name: str
    size: int
    others: int
    loaded: bool = False
    running: int = 0
    used: float = 0.0


def refusal(model: Held, *, last_copy: bool = False) -> str:
    """Why a model stays; empty: it may go."""
    if model.running:
        return f"{model.running} requests for it run on this node"
    if model.loaded:
        return "an engine of this node has it in memory: unload it first (`ollama stop`)"
    if not model.others and not last_copy:
        return "no other node of the mesh has these weights by this name: it is the last copy"
    return ""


def excess(taken: int, incoming: int, budget: int) -> int:
    """Bytes that have to go for `incoming` more to fit into the budget beside those taken."""
    return max(0, taken + incoming - budget)


def evicted(models: Iterable[Held], needed: int) -> list[Held]:
    """The models that go so that `needed` bytes are free; empty where all that may go are not enough."""
    able = sorted(
        (one for one in models if not refusal(one) and one.size > 0), key=lambda one: (one.used, -one.size)
    )
    chosen: list[Held] = []
    free = 0
    for one in able:
        if free >= needed:
            break
        chosen.append(one)
        free += one.size
    return chosen if free >= needed else []
