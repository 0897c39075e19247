"""What a choice knows of the moment it is made in: see `choose`.

Apart from the choice, which is compiled: there a Struct's field has no default that is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from bridge_agent.routing.outlook import Outlook
from bridge_agent.routing.strategies import Turns

# How long a subject is still skipped, in seconds; 0: it is not.
Skips = Callable[[str], float]


class Load(msgspec.Struct, frozen=True):
    """What a choice knows of the moment.

    Attributes:
        work: Requests at each instance, as far as this agent knows; idle ones may be missing.
        ejected: How much longer an instance or node is passed over for what it did to requests.
        down: How much longer it is taken for dead.
        ages: Seconds since an instance came (back), of those that came lately: they start slowly.
        turns: Where the round robins stand; a choice moves them on.
        draw: Any number, another for each request.
        outlook: What is known of the request itself and of the ways; None: nothing that would matter.
        cold: Where a model's requests were sent of late for it to be loaded, empty for nowhere; None: loads
            are nobody's, and each request goes as if its model were in memory.
    """

    work: Mapping[str, int]
    ejected: Skips | None = None
    down: Skips | None = None
    ages: Mapping[str, float] = {}
    turns: Turns = msgspec.field(default_factory=Turns)
    draw: int = 0
    outlook: Outlook | None = None
    cold: Callable[[str], str] | None = None
