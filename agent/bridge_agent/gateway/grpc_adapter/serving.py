"""Whether the gRPC listener takes requests: told by the agent, watched by health clients."""

from __future__ import annotations

import asyncio


class Serving:
    """Whether requests are taken, for those who watch it.

    Attributes:
        changed: Set, and another one put in its place, with every change.
    """

    def __init__(self) -> None:
        self._value = True
        self.changed = asyncio.Event()

    @property
    def value(self) -> bool:
        """Whether they are."""
        return self._value

    @value.setter
    def value(self, value: bool) -> None:
        if value != self._value:
            self._value = value
            self.changed.set()
            self.changed = asyncio.Event()
