"""When clients last called at this node, for the registry to show."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bridge_agent.gateway.config import Caller, ListenerKind

_MOST: Final = 10_000  # as many clients as a mesh has


class LastUse:
    """Notes who calls. Seconds are fine enough: nobody is billed by it.

    Attributes:
        clients: Unix seconds by the client's name.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """`now` gives Unix seconds."""
        self._now = now
        self.clients: dict[str, int] = {}

    def take(self, caller: Caller) -> None:
        """A request of somebody's is over. Forwarded ones count where they came in."""
        who = caller.who
        if who.kind != "client" or caller.listener is ListenerKind.PEER:
            return
        if len(self.clients) >= _MOST and who.name not in self.clients:
            self.clients.clear()  # of clients long gone, most of it
        self.clients[who.name] = int(self._now())
