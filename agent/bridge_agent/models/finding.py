"""Finds out which nodes have a blob, and which one fetches it from outside the mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final

import structlog

from bridge_agent.models import wire
from bridge_agent.models.claim_rules import Claims, in_order
from bridge_agent.models.live import Live
from bridge_agent.models.origin import OriginFault
from bridge_agent.models.peer_client import PeerClient, PeerFault
from bridge_agent.models.piece_rules import ALL, read_have
from bridge_core.errors import BridgeError

log = structlog.get_logger()

EVERY_S: Final = 1.0
GIVE_UP_S: Final = 60.0
"""How long a transfer may gain nothing while nobody fetches the blob from outside."""

NOBODY_S: Final = 3.0
"""The same where no node that answers has what it lacks, and nobody may fetch it."""

_ASKED: Final = 32  # nodes that are asked whether they have a blob
_COORDINATORS: Final = 3
_PAUSE_S: Final = 2.0


class Finding:
    """Looks for a blob's sources; this node coordinates digests, too.

    Args:
        peers: Asks other nodes.
        now: Monotonic seconds.
        give_up_s: See `GIVE_UP_S`.
    """

    def __init__(self, peers: PeerClient, now: Callable[[], float], *, give_up_s: float = GIVE_UP_S) -> None:
        self._peers = peers
        self._now = now
        self._give_up_s = give_up_s
        self._claims = Claims()
        self._why: dict[str, OriginFault] = {}

    def asked(self, node: str, asked: wire.ClaimRequest) -> wire.ClaimSaid:
        """What this node, as coordinator, answers another one, or itself."""
        answer = self._claims.ask(asked.digest, node, asked.have, self._now(), offers=asked.offers)
        return wire.ClaimSaid(answer.fetcher, answer.sources)

    def origin_failed(self, live: Live, fault: OriginFault) -> None:
        """A blob's origin does not give it."""
        self._why[live.hex] = fault
        live.pulse()

    async def scout(self, live: Live, tasks: asyncio.TaskGroup) -> None:
        """Looks for sources until cancelled; tells `Live.fault` when there is no hope."""
        followed: dict[str, asyncio.Task[None]] = {}
        first = self._first(live)
        await asyncio.gather(*(self._look(live, node) for node in first))
        gained, have = self._now(), live.have
        try:
            while True:
                offers = live.origin is not None and bool(live.rules.uncovered or live.fetches)
                said = await self._claim(live, offers=offers)
                here = self._peers.node
                live.fetches = offers and said.fetcher == here
                fetching = sorted({here, *said.sources} - {said.fetcher}) or [here]
                if here in fetching:
                    live.rules.shared(fetching.index(here), len(fetching))
                known = self._peers.nodes()
                for node in dict.fromkeys((*first, said.fetcher, *said.sources)):
                    running = followed.get(node)
                    if node in known and (running is None or running.done()):
                        followed[node] = tasks.create_task(self._follow(live, node))
                now = self._now()
                if live.have > have or live.fetches:
                    gained, have = now, live.have
                elif now - gained > self._patience(live, said):
                    live.fault = self._hopeless(live)
                live.pulse()
                await asyncio.sleep(EVERY_S)
        finally:
            self._why.pop(live.hex, None)
            for task in followed.values():
                task.cancel()

    def _patience(self, live: Live, said: wire.ClaimSaid) -> float:
        """How long it may gain nothing: long where what it lacks may still come, from whomever."""
        may_come = live.origin is not None or said.fetcher or not live.rules.uncovered
        return self._give_up_s if may_come else min(NOBODY_S, self._give_up_s)

    def _first(self, live: Live) -> list[str]:
        """The nodes that are asked first: the likely ones, and others up to a bound."""
        known = self._peers.nodes()
        likely = [node for node in live.likely if node in known]
        return list(islice(dict.fromkeys((*likely, *in_order(live.hex, known))), _ASKED))

    def _hopeless(self, live: Live) -> BridgeError:
        fault = self._why.get(live.hex)
        dropped = "; ".join(f"{node}: {why}" for node, why in sorted(live.rules.dropped.items()))
        lacks = live.rules.uncovered.bit_count() or live.count - live.have
        message = f"no node that answers has {lacks} of the {live.count} pieces of blob {live.hex[:12]}"
        if fault is not None:
            message = f"{fault.message}; {message}"
        return BridgeError(f"{message}; {dropped}" if dropped else message)

    async def _claim(self, live: Live, *, offers: bool) -> wire.ClaimSaid:
        """What the coordinator says; where none answers, this node is on its own."""
        asked = wire.ClaimRequest(live.hex, live.have, offers)
        here = self._peers.node
        for node in islice(in_order(live.hex, (here, *self._peers.nodes())), _COORDINATORS):
            if node == here:
                return self.asked(here, asked)
            try:
                return await self._peers.claim(node, asked)
            except PeerFault as fault:
                log.info("blob_coordinator_passed_over", node=node, reason=fault.message)
        return wire.ClaimSaid(here if offers else "")

    async def _look(self, live: Live, node: str, *, more: int = -1, wait_s: float = 0.0) -> bool:
        """Asks a node what it has; says whether it has all."""
        try:
            said = await self._peers.have(node, live.hex, more=more, wait_s=wait_s)
            if said.size != live.size:
                live.rules.drop(node, f"has {said.size} bytes by this digest, which has {live.size}")
                return False
            live.rules.heard(node, read_have(said.have, live.count))
        except (PeerFault, ValueError) as fault:
            live.rules.gone(node)
            if isinstance(fault, ValueError):
                live.rules.drop(node, str(fault))
            return False
        live.pulse()
        return said.have == ALL

    async def _follow(self, live: Live, node: str) -> None:
        """Keeps up with a node that gets the blob, too, until it has all, or nothing."""
        source = live.rules.sources.get(node)
        if source is not None and (source.dropped or source.have == (1 << live.count) - 1):
            await asyncio.sleep(_PAUSE_S)
            return
        while True:
            source = live.rules.sources.get(node)
            known = source.have.bit_count() if source is not None else 0
            whole = await self._look(live, node, more=known, wait_s=wire.LONGEST_WAIT_S - 1)
            source = live.rules.sources.get(node)
            if whole or source is None or source.dropped or not source.have:
                await asyncio.sleep(_PAUSE_S)
                return
