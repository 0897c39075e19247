"""The gRPC listener of a node that no gRPC client has called yet: a bound socket, and nothing behind it.

h2corn's library, its runtime and its thread take a tenth of an idle agent's memory, and many nodes are never
called by gRPC. So they are loaded when the first client connects, who waits in the queue meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

import structlog

from bridge_core.errors import BridgeError

log = structlog.get_logger()


class Awake(Protocol):
    """The listener that serves; see `GrpcListener`."""

    async def start(self) -> None:
        """Serves with the certificate as it is in the files now. Raises BridgeError."""

    async def renew(self) -> None:
        """Takes up a renewed certificate. Raises BridgeError."""

    def retire(self) -> None:
        """Stops accepting, for good; what runs goes on."""

    async def close(self, grace_s: float) -> None:
        """Stops accepting and finishes what runs; what is left after `grace_s` is cut."""


class WokenListener:
    """Makes the listener when the first client connects.

    Args:
        sock: A listening socket; this one's until the listener is made, and then the listener's.
        make: Makes the listener; called in a thread, since it loads a library.
        group: Where its task lives.
        ended: Called when the listener could not be started: `renew` tries again.
    """

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], Awake],
        *,
        group: asyncio.TaskGroup,
        ended: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._make = make
        self._group = group
        self._ended = ended
        self._listener: Awake | None = None
        self._waits = False
        self._waking: asyncio.Task[None] | None = None
        self._retired = False

    async def start(self) -> None:
        """Waits for the first client."""
        if not self._retired and not self._waits:
            self._waits = True
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._called)

    async def renew(self) -> None:
        """Takes up a renewed certificate, where one is served; waits for a client where none is.

        Raises:
            BridgeError: see `GrpcListener.renew`.
        """
        if self._waking is not None:
            await asyncio.wait({self._waking})
        if self._listener is None:
            await self.start()
        else:
            await self._listener.renew()

    def retire(self) -> None:
        """Stops accepting, for good; what runs goes on, and whoever connects waits in the socket's queue."""
        self._retired = True
        self._sleep()
        if self._listener is not None:
            self._listener.retire()

    async def close(self, grace_s: float) -> None:
        """Stops accepting and finishes what runs; what is left after `grace_s` is cut."""
        self.retire()
        waking = self._waking
        if waking is not None:
            await asyncio.wait({waking}, timeout=grace_s)
            waking.cancel()
        if self._listener is None:
            self._socket.close()
        else:
            await self._listener.close(grace_s)

    def _sleep(self) -> None:
        if self._waits:
            self._waits = False
            asyncio.get_running_loop().remove_reader(self._socket.fileno())

    def _called(self) -> None:
        """Somebody is in the queue."""
        self._sleep()
        self._waking = self._group.create_task(self._wake(), name="grpc-listener-wakes")

    async def _wake(self) -> None:
        served = False
        try:
            made = await asyncio.to_thread(self._make)
            if not self._retired:
                self._listener = made  # from here on it is told of an end that comes meanwhile
                await made.start()
            served = True
        except BridgeError as fault:
            log.error("grpc_listener_failed", reason=str(fault))
        except Exception:  # the task's root
            log.exception("grpc_listener_failed")
        finally:
            self._waking = None
            if not served:
                self._listener = None
        if not served and not self._retired:
            self._ended()
