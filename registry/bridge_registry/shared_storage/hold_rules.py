"""Who may hold the lease of a model in shared storage. Pure; times are seconds of the clock that is named.

Rules:
1. A model of a tier has one holder at a time, whichever node it is: also the same node's second one waits.
2. A node holds `MOST_HELD` at a time: one that holds names it does not write keeps few from others.
3. What a holder is told is how much of the store's lease is left at that moment, `MARGIN_S` less; it counts
   from when it asked, which was before: so it never believes longer than the store does.
4. A holder that says it is done gives the lease back at once. One that is not heard of for the lease's whole
   life, or whose stream breaks off, is not: its lease runs out by itself, for it may still be writing in
   good faith.
5. Who removes holds a tier alone: it is refused while anybody holds a model of it, and everybody else while
   it does. It writes its record by the tier's own key before it looks who else is there, and whoever takes a
   model does so on condition that this key is not there: of two at one time at least one sees the other.
6. A holder is answered `BEATS` times at once, and `BEATS_A_S` times a second from then on; other beats wait.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from bridge_core import keyspace
from bridge_core.names import InvalidName, canonical

TTL_S: Final = 15.0
MARGIN_S: Final = 1.0
MOST_HELD: Final = 4
BEATS: Final = 8.0
BEATS_A_S: Final = 4.0
_TIER: Final = re.compile(r"[0-9a-f]{32}")


class PublicationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who writes a model; under its own lease in the store.

    Attributes:
        node: The node.
        model: The model, in canonical form.
        since: Since when, Unix seconds.
        alone: It removes the model.
    """

    node: str
    model: str
    since: float = 0.0
    alone: bool = False


def key_of(tier: str, model: str) -> str | None:
    """Where the lease of a model in canonical form lies in the store; None: these are no tier or no model."""
    try:
        if _TIER.fullmatch(tier) is None or canonical(model) != model:
            return None
    except InvalidName:
        return None
    return f"{keyspace.PUBLISHING}{tier}/{hashlib.sha256(model.encode()).hexdigest()}"


def prefix_of(key: str) -> str:
    """Below which all leases of the tier are that this one is of."""
    return key.rpartition("/")[0] + "/"


def alone_key_of(key: str) -> str:
    """Where the lease lies of who holds the tier alone that this one is of."""
    return f"{prefix_of(key)}alone"


def refusal(held: PublicationRecord, now: float) -> str:
    """What a second writer is told, at a Unix time."""
    for_s = max(0, round(now - held.since))
    doing = "removing" if held.alone else "publishing"
    return f"node {held.node} is {doing} {held.model} there, for {for_s} s now"


def valid_ms(expires_at: float, now: float) -> int:
    """How long a holder may believe in its lease, milliseconds; both are monotonic times."""
    return max(0, int((expires_at - MARGIN_S - now) * 1000))
