"""Blobs that are on their way to this node now: what is known of each, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bridge_agent.models.blob_files import PartialBlob
from bridge_agent.models.origin import OriginPort
from bridge_agent.models.piece_links import PieceLinks
from bridge_agent.models.piece_rules import piece_count, span
from bridge_agent.models.transfer_rules import TOGETHER, Transfer
from bridge_core.errors import BridgeError

T = TypeVar("T")


class Live:
    """One blob on its way; belongs to the event loop.

    Attributes:
        hex: Its digest's digits.
        size: Its bytes.
        origin: Where it comes from, outside the mesh; None: it can only come from other nodes.
        likely: Nodes that may have it, asked first.
        rules: What is asked of whom; made anew when the file is open.
        partial: The file; None until it is open.
        fetches: This node is the one that fetches it from outside.
        fault: Why it cannot come.
        done: It is in the store, or has failed.
        waiters: How many pulls wait for it.
        outside: Bytes that came from its origin.
        inside: Bytes that came from other nodes.
        network: The threads that its origin is asked in.
        links: To the nodes that give it.
    """

    def __init__(self, hex_: str, size: int, origin: OriginPort | None, likely: tuple[str, ...]) -> None:
        self.hex = hex_
        self.size = size
        self.count = piece_count(size)
        self.origin = origin
        self.likely = likely
        self.rules = Transfer(self.count)
        self.partial: PartialBlob | None = None
        self.fetches = False
        self.fault: BridgeError | None = None
        self.done = False
        self.waiters = 0
        self.outside = self.inside = 0
        self.task: asyncio.Task[Any] | None = None
        self._changed = asyncio.Event()
        # Of its own: at its end all that its threads do with the file is over before that is closed.
        # Of its own: a registry that sends next to nothing holds no other blob's. Two, so that what is being
        # read can be closed.
        self.network = ThreadPoolExecutor(2, f"origin-{hex_[:8]}")
        self.links = PieceLinks(TOGETHER)
        self._disk = ThreadPoolExecutor(4, f"blob-{hex_[:8]}")

    @property
    def have(self) -> int:
        """How many pieces are here."""
        return self.rules.have.bit_count()

    @property
    def completed(self) -> int:
        """How many bytes are here."""
        if not self.count:
            return 0
        last = self.rules.have >> (self.count - 1) & 1
        whole_piece = span(self.size, 0)[1]
        short = whole_piece - span(self.size, self.count - 1)[1]
        return self.have * whole_piece - (short if last else 0)

    def pulse(self) -> None:
        """Something changed."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def change(self, within_s: float) -> None:
        """Waits until something changes, for so long at most."""
        try:
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def on_disk(self, work: Callable[..., T], *arguments: Any) -> T:
        """Does something with the file, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)

    def close(self) -> None:
        """Lets go of the file, once nobody is at it any more. Blocks."""
        self.network.shutdown(wait=False)
        self.links.close()
        self._disk.shutdown()
        if self.partial is not None:
            self.partial.close()
