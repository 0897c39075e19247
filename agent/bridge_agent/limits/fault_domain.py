"""The engines under one MPS server: they fall together and are started again in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from bridge_agent.limits.mps import MpsDaemon
from bridge_agent.limits.mps_rules import Quarantine

ORDER_S: Final = 2.0  # how long engines already there wait for those that go before them


class _Door:
    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.go = asyncio.Event()


class FaultDomain:
    """One MPS server's engines as the keeper sees them. Owned by the keeper.

    Attributes:
        daemon: The control daemon above the server.
        faults: How often it fell.
        last: Why it last did.
        recovered_at: When it last came back, by the keeper's clock.
        quarantine: Who brings it down.
    """

    def __init__(self, daemon: MpsDaemon) -> None:
        self.daemon = daemon
        self.faults = 0
        self.last = ""
        self.recovered_at = float("-inf")
        self.quarantine = Quarantine()
        self._open = asyncio.Event()
        self._open.set()
        self._doors: dict[str, _Door] = {}

    @property
    def recovering(self) -> bool:
        """Whether its engines are being ended and started again."""
        return not self._open.is_set()

    async def enter(self, instance: str) -> None:
        """Waits until `instance` may be started."""
        await self.daemon.ready()
        door = self._doors.get(instance)
        if door is None:
            await self._open.wait()
        else:
            door.came.set()
            await door.go.wait()

    def close(self, order: Sequence[str]) -> None:
        """Lets nobody in until `reopen`, which lets in those named, in their order, before others."""
        self._doors = {instance: _Door() for instance in order}
        self._open.clear()

    async def reopen(self) -> None:
        """Lets engines in again. One that does not come is not waited for longer than `ORDER_S`."""
        deadline = asyncio.get_running_loop().time() + ORDER_S
        for door in self._doors.values():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await door.came.wait()
            door.go.set()
        self._doors = {}
        self._open.set()
