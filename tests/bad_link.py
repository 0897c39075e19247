"""A bad way to a listener: what others dial in its place, with distance, loss, or no way through at all."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import psutil


class BadLink:
    """Passes connections on to a listener; change its attributes at any time.

    Attributes:
        delay_s: Each way, for every piece.
        loss: The share of pieces that are lost and sent again, which holds up all that come after them.
    """

    def __init__(self, to: tuple[str, int], chance: random.Random) -> None:
        self.delay_s = self.loss = 0.0
        self._cut_for: set[int] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._to = to
        self._chance = chance

    def cut(self, *processes: int) -> None:
        """Nothing of these processes passes any more; every connection there is has to be made anew."""
        self._cut_for = set(processes)
        for writer in self._open:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(writer.transport.abort)
            if self._is_cut(writer.get_extra_info("peername")):
                return
            self._open.add(writer)
            stack.callback(self._open.discard, writer)
            with contextlib.suppress(OSError):
                theirs, ours = await asyncio.open_connection(*self._to)
                stack.callback(ours.transport.abort)
                tasks = [
                    asyncio.ensure_future(self._pass(*way)) for way in ((reader, ours), (theirs, writer))
                ]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.sleep(2 * self.delay_s)  # what is on its way arrives
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)

    def _is_cut(self, dialled_from: tuple[str, int]) -> bool:
        for pid in self._cut_for:
            with contextlib.suppress(psutil.Error):
                links = psutil.Process(pid).net_connections("tcp")
                if any(tuple(link.laddr) == dialled_from for link in links):
                    return True
        return False

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def deliver() -> None:
            while True:
                at, piece = await due.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                if not piece:
                    return
                writer.write(piece)
                await writer.drain()

        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as group:
                delivering = group.create_task(deliver())
                ready = 0.0
                while not delivering.done():
                    piece = await reader.read(16 * 1024)
                    again = 3 * self.delay_s if self._chance.random() < self.loss else 0.0
                    ready = max(ready, loop.time() + self.delay_s + again)
                    due.put_nowait((ready, piece))
                    if not piece:
                        break


@contextlib.asynccontextmanager
async def bad_link(host: str, to: tuple[str, int], chance: random.Random) -> AsyncIterator[BadLink]:
    """One at this address and the listener's own port."""
    link = BadLink(to, chance)
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of ours: asyncio logs the cancellation of its own as a fault.
        task = asyncio.ensure_future(link.accept(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, host, to[1])
    try:
        yield link
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()
