"""Fetches blobs: pieces from other nodes, and from outside the mesh what no node has. One transfer a blob.

Tasks of a transfer, all children of the one that `fetch` starts: a scout, who learns who has what; one for
each node that has only part of it; some that fetch pieces from nodes; one that fetches from the origin
while the coordinator says that it is this node's to do. Whichever fails tells `Live.fault`, and all end.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from typing import Final

import structlog

from bridge_agent.models.blob_files import BlobBusy, BlobFault, PartialBlob
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.finding import Finding
from bridge_agent.models.live import Live
from bridge_agent.models.origin import OriginFault, OriginPort, Stream
from bridge_agent.models.pace_rules import Pace
from bridge_agent.models.peer_client import PeerBusy, PeerClient
from bridge_agent.models.transfer_rules import OUTSIDE, TOGETHER, Transfer
from bridge_core.errors import BridgeError
from bridge_core.model_store.layout import Layer, hex_digest

log = structlog.get_logger()

_ROUNDS: Final = 4  # of fetching again what was wrong
_LOOK_S: Final = 0.25
_BUSY_S: Final = 1.0
_ORIGIN_TRIES: Final = 5
_PROVERS: Final = 4  # nodes that are asked for their hashes where a whole is wrong
_FAULTY: Final = "fetched from other nodes and outside, it had another digest each time"


class BlobFetcher:
    """Fetches blobs into one store.

    Args:
        blobs: Those of the models folder.
        peers: Asks other nodes.
        finding: Finds out who has a blob, and whose it is to fetch from outside.
        group: Where transfers run.
        pace: How fast they may come.
        busy: Whether requests run at this node.
        reserve: Bytes of the disk that stay free.
        draw: A random number, below 2^30.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        blobs: Blobs,
        peers: PeerClient,
        finding: Finding,
        group: asyncio.TaskGroup,
        *,
        pace: Pace,
        busy: Callable[[], bool],
        reserve: int,
        draw: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        self._blobs = blobs
        self._peers = peers
        self._finding = finding
        self._group = group
        self._pace = pace
        self._busy = busy
        self._reserve = reserve
        self._draw = draw
        self._now = now
        self._live: dict[str, Live] = {}
        self.outside = self.inside = 0

    @property
    def under_way(self) -> dict[str, Live]:
        """The transfers that run, by the digits of their digests."""
        return self._live

    async def fetch(
        self,
        layer: Layer,
        origin: OriginPort | None,
        likely: tuple[str, ...],
        report: Callable[[int], None],
    ) -> None:
        """Gets a blob into the store, in the transfer that runs already where one does.

        When nobody waits any more the transfer ends; what came stays for the next one.

        Args:
            layer: Which blob.
            origin: Where it comes from outside the mesh; None: nowhere.
            likely: Nodes that may have it.
            report: Called with the bytes that are here, now and then.

        Raises:
            BridgeError: it cannot come: nobody has it, or the disk refuses.
        """
        hex_ = hex_digest(layer.digest)
        live = self._live.get(hex_)
        if live is None:
            live = self._live[hex_] = Live(hex_, layer.size, origin, likely)
            live.task = self._group.create_task(self._run(live), name=f"blob-{hex_[:12]}")
        elif live.origin is None:
            live.origin = origin
        live.waiters += 1
        try:
            while not live.done:
                report(live.completed)
                await live.change(_LOOK_S)
        finally:
            live.waiters -= 1
            if not live.waiters and not live.done and live.task is not None:
                self._live.pop(hex_, None)  # who comes now begins anew, once the file is let go
                live.task.cancel()
        if live.fault is not None:
            raise live.fault
        report(layer.size)

    async def _run(self, live: Live) -> None:
        """One transfer, from the first question to the last rename."""
        try:
            await self._transfer(live)
        except BridgeError as fault:
            live.fault = fault
            log.warning("blob_not_fetched", blob=live.hex[:12], reason=str(fault))
        except BaseException:
            live.fault = BridgeError(f"the transfer of blob {live.hex[:12]} was ended")
            raise
        finally:
            live.done = True
            if self._live.get(live.hex) is live:
                del self._live[live.hex]
            live.pulse()
            self.outside += live.outside
            self.inside += live.inside
            await asyncio.shield(asyncio.to_thread(live.close))

    async def _transfer(self, live: Live) -> None:
        while True:
            try:
                partial = await live.on_disk(self._open, live)
                break
            except BlobBusy:  # another node's agent on the same store
                await asyncio.sleep(_BUSY_S)
            if await live.on_disk(self._blobs.size, live.hex) == live.size:
                return
        live.rules = Transfer(live.count, sum(1 << piece for piece in partial.hashes))
        for _ in range(_ROUNDS):
            await self._gather(live)
            if await live.on_disk(partial.digest, lambda: live.done) == live.hex:
                await live.on_disk(partial.commit)
                if live.origin is not None:
                    live.origin.kept(f"sha256:{live.hex}")
                log.info("blob_fetched", blob=live.hex[:12], inside=live.inside, outside=live.outside)
                return
            await self._again(live, partial)
        raise BlobFault(f"blob {live.hex[:12]} cannot be had: {_FAULTY}; it is wrong at its origin, too")

    def _open(self, live: Live) -> PartialBlob:
        # Told here, not by who waits: cancelled meanwhile, it would never be closed.
        live.partial = PartialBlob(
            self._blobs.root,
            live.hex,
            live.size,
            reserve=self._reserve,
            stopped=lambda: live.done,
            keys=self._blobs.sealing,
        )
        return live.partial

    async def _again(self, live: Live, partial: PartialBlob) -> None:
        """The whole is wrong: finds out whose pieces, and forgets them."""
        if live.origin is not None and live.outside:
            arguments = (f"sha256:{live.hex}", live.size, lambda: live.done)
            await asyncio.get_running_loop().run_in_executor(live.network, live.origin.doubted, *arguments)
        whole = (1 << live.count) - 1
        provers = [name for name, one in live.rules.sources.items() if one.have == whole and not one.dropped]
        said: dict[str, dict[int, str]] = {}
        for node in provers[:_PROVERS]:
            try:
                answer = await self._peers.hashes(node, live.hex)
            except BridgeError as fault:
                log.info("blob_not_proved", blob=live.hex[:12], node=node, reason=str(fault))
                continue
            if answer.digest == live.hex and len(answer.pieces) == live.count:
                said[node] = dict(enumerate(answer.pieces))
            else:
                live.rules.drop(node, "what it has on disk does not have the blob's digest")
        bad = live.rules.wrong(partial.hashes, said)
        await live.on_disk(partial.lose, bad)
        log.warning("blob_wrong", blob=live.hex[:12], pieces=len(bad), dropped=live.rules.dropped)

    async def _gather(self, live: Live) -> None:
        """Fetches until every piece is here."""
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._finding.scout(live, tasks)),
                tasks.create_task(self._from_outside(live)),
                *(tasks.create_task(self._from_nodes(live)) for _ in range(TOGETHER)),
            ]
            while not live.rules.whole and live.fault is None:
                await live.change(_LOOK_S)
            for task in running:
                task.cancel()
        if live.fault is not None:
            raise live.fault

    async def _from_nodes(self, live: Live) -> None:
        rules = live.rules
        while live.fault is None:
            ask = rules.next(self._now(), self._draw())
            if ask is None:
                await live.change(_LOOK_S)
                continue
            try:
                data, said = await self._peers.piece(ask.source, live.hex, live.size, ask.piece, live.links)
            except PeerBusy:
                rules.busy(ask.piece, ask.source, self._now())
                continue
            except BridgeError as fault:
                rules.failed(ask.piece, ask.source, fault.message)
                self._name_dropped(live, ask.source)
                continue
            if await self._keep(live, ask.piece, data, ask.source, said):
                live.inside += len(data)
            await asyncio.sleep(self._pace.pause(len(data), self._now(), busy=self._busy()))

    async def _keep(self, live: Live, piece: int, data: bytes, source: str, said: str) -> bool:
        """Writes a piece that is what it was said to be."""
        partial = live.partial
        if partial is None:
            return False

        def write() -> bool:
            found = hashlib.sha256(data).hexdigest()
            if said and found != said:
                return False
            partial.write(piece, data, found)
            return True

        try:
            good = await live.on_disk(write)
        except BlobFault as fault:
            live.rules.failed(piece, source, fault.message)
            live.fault = fault
            live.pulse()
            return False
        if good:
            live.rules.came(piece, source)
        else:
            live.rules.drop(source, f"sent as piece {piece} what does not have the hash that it named")
            live.rules.failed(piece, source, "corrupted")
            self._name_dropped(live, source)
        live.pulse()
        return good

    @staticmethod
    def _name_dropped(live: Live, source: str) -> None:
        if why := live.rules.dropped.get(source):
            log.warning("blob_source_dropped", blob=live.hex[:12], node=source, reason=why)

    async def _from_outside(self, live: Live) -> None:
        """Fetches from the origin, in the blob's order, while that is this node's to do."""
        loop = asyncio.get_running_loop()
        stream: Stream | None = None
        at = failures = 0
        digest = f"sha256:{live.hex}"
        try:
            while live.fault is None:
                origin = live.origin
                piece = live.rules.next_outside(at) if live.fetches and origin is not None else None
                if piece is None or origin is None:
                    await live.change(_LOOK_S)
                    continue
                try:
                    if stream is None or piece != at:
                        stream = await self._opened(live, stream, origin, digest, piece)
                    data = await loop.run_in_executor(live.network, stream.read, piece)
                except OriginFault as fault:
                    live.rules.failed(piece, OUTSIDE, fault.message)
                    await self._closed(live, stream)
                    stream = None
                    failures += 1
                    if fault.hopeless or failures >= _ORIGIN_TRIES:
                        live.origin, live.fetches = None, False
                        self._finding.origin_failed(live, fault)
                        continue
                    await asyncio.sleep(min(0.05 * 2**failures, 5.0))
                    continue
                if await self._keep(live, piece, data, OUTSIDE, ""):
                    live.outside += len(data)
                    failures = 0
                at = piece + 1
                await asyncio.sleep(self._pace.pause(len(data), self._now(), busy=self._busy()))
        finally:
            await self._closed(live, stream)

    async def _opened(
        self, live: Live, old: Stream | None, origin: OriginPort, digest: str, piece: int
    ) -> Stream:
        await self._closed(live, old)
        loop = asyncio.get_running_loop()
        given_up = threading.Event()

        def open_() -> Stream:
            stream = origin.open(digest, live.size, piece)
            if given_up.is_set():
                stream.close()
            return stream

        opening = loop.run_in_executor(live.network, open_)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:  # it opens nevertheless, and nobody else would close it
            given_up.set()
            opening.add_done_callback(_close_late)
            raise

    @staticmethod
    async def _closed(live: Live, stream: Stream | None) -> None:
        if stream is not None:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(live.network, stream.close))


def _close_late(opening: asyncio.Future[Stream]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
