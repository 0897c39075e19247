"""Paints the mesh once a second, tells what happened, and wakes whoever watches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from bridge_core.mesh_picture import Happening, MeshPicture, parts
from bridge_registry.console.event_rules import Told, happened

PAINT_S: Final = 1.0
EVENTS_KEPT: Final = 1000
CHANGES_KEPT: Final = 64


class Feed:
    """The newest picture, its changes and what happened. Its own task alone writes; everybody may read.

    Args:
        paint: Makes the picture of the moment.
        wall: Unix seconds.

    Attributes:
        picture: The newest; None before the first.
        parts: Its pieces as JSON.
        number: Of the newest picture that differed from the one before.
        events: What happened, oldest first, `EVENTS_KEPT` at most.
        looked: Called after every look.
    """

    def __init__(self, paint: Callable[[], MeshPicture], *, wall: Callable[[], float] = time.time) -> None:
        self._paint = paint
        self._wall = wall
        self._woken = asyncio.Event()
        self._changes: deque[tuple[int, frozenset[str]]] = deque(maxlen=CHANGES_KEPT)
        self._told = 0
        self.picture: MeshPicture | None = None
        self.parts: Mapping[str, bytes] = {}
        self.number = 0
        self.events: deque[Happening] = deque(maxlen=EVENTS_KEPT)
        self.looked: Callable[[], None] | None = None

    async def run(self) -> None:
        """Paints until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(PAINT_S)

    def look(self) -> MeshPicture:
        """Paints the mesh as it is now, tells what happened, and returns the picture."""
        picture = self._paint()
        made = parts(picture)
        changed = frozenset(
            key for key in made.keys() | self.parts.keys() if made.get(key) != self.parts.get(key)
        )
        told = happened(self.picture, picture) if self.picture is not None else []
        for one in told:
            self._note(one)
        self.picture = picture
        if changed:
            self.parts = made
            self.number += 1
            self._changes.append((self.number, changed))
        if changed or told:
            self._wake()
        if self.looked is not None:
            self.looked()
        return picture

    def since(self, number: int) -> frozenset[str] | None:
        """Keys of the pieces that changed after picture `number`; None: that is too long ago to say."""
        if number == self.number:
            return frozenset()
        if not self._changes or not self._changes[0][0] - 1 <= number < self.number:
            return None
        return frozenset().union(*(changed for at, changed in self._changes if at > number))

    def events_after(self, id_: int) -> list[Happening]:
        """Those with a larger id; all that are kept where no event of this life had it."""
        return [one for one in self.events if id_ > self._told or one.id > id_]

    async def news(self, within_s: float) -> None:
        """Returns when there is something new, at the latest after `within_s` seconds."""
        woken = self._woken
        try:
            async with asyncio.timeout(within_s):
                await woken.wait()
        except TimeoutError:
            return

    def _note(self, told: Told) -> None:
        self._told += 1
        self.events.append(Happening(self._told, round(self._wall(), 3), *told))

    def _wake(self) -> None:
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()
