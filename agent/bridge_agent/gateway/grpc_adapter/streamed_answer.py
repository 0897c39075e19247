"""An answer that is read while it comes, by the one task that serves the call."""

from __future__ import annotations

import asyncio
from typing import Final

from bridge_agent.gateway.grpc_adapter.call_exchange import CallExchange
from bridge_core.http1 import IncompleteResponse, Request, ResponseTooLarge
from bridge_core.native import mypyc_attr

LINE_MOST: Final = 17 << 20
"""Bytes of a line: more than any that the pipeline passes on."""
HIGH_WATER: Final = 256 * 1024
END_S: Final = 5.0
"""How long an answer may take to end behind its last record."""


@mypyc_attr(allow_interpreted_subclasses=True)
class StreamedAnswer(CallExchange):
    """An exchange whose answer is read while it comes; who writes it is held back by who reads, as by a slow
    client's socket.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._parts: list[bytes] = []
        self._buffered = 0

    def begun(self) -> None:
        """See `CallExchange`."""
        self.wake()

    def take(self, data: bytes) -> None:
        """See `CallExchange`."""
        self._parts.append(data)
        self._buffered += len(data)
        self.wake()
        if not self.write_paused and self._buffered > HIGH_WATER:
            self.pause(paused=True)

    async def head(self) -> int:
        """The answer's status, once it is there.

        Raises:
            BridgeError: the call ended before.
        """
        while not self.started:
            if self.ended:
                raise self.fault or IncompleteResponse("no answer came")
            await self.news()
        return self.status

    async def part(self) -> bytes:
        """All that has come since the last part, once there is something; nothing more: empty.

        Raises:
            BridgeError: the rest will not come.
        """
        while not self._parts:
            if self.ended:
                if self.fault is not None:
                    raise self.fault
                return b""
            await self.news()
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._buffered = 0
        if self.write_paused:
            self.pause(paused=False)
        return data

    async def whole(self, most: int) -> bytes:
        """The rest of it.

        Raises:
            BridgeError: it will not come.
            ResponseTooLarge: it has more than `most` bytes.
        """
        parts: list[bytes] = []
        size = 0
        while part := await self.part():
            size += len(part)
            if size > most:
                raise ResponseTooLarge(f"the answer has more than the {most} bytes that are read of it")
            parts.append(part)
        return b"".join(parts)

    async def over(self) -> None:
        """Waits until the answer has ended behind its last record, for END_S at most.

        The engine's end may come apart from that record. Who leaves before it cuts the request off: it is
        written down as cancelled, and the engine's connection is closed.
        """
        try:
            async with asyncio.timeout(END_S):
                while True:
                    self._parts = []  # blank lines at most
                    self._buffered = 0
                    if self.write_paused:
                        self.pause(paused=False)
                    if self.ended:
                        return
                    await self.news()
        except TimeoutError:
            return
