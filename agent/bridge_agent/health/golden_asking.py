"""Asks other nodes' instances golden prompts, when it is this node's turn, and keeps what they answered for
the registry, which compares (`bridge_registry.health.golden_rules`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import structlog

from bridge_agent.health.golden_page import LOADED_S, GoldenQuestion, GoldenReply
from bridge_agent.health.golden_rules import able
from bridge_core import golden
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.golden import GoldenAnswer
from bridge_core.http1 import Pool
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Instance, Node, Snapshot

log = structlog.get_logger()

_LOOK_S: Final = 1.0
_TOLD_S: Final = 3 * golden.ROUND_S  # a report that is lost is made good by the next
_KEPT: Final = 512
_AT_ONCE: Final = 8
_TIMEOUT_S: Final = LOADED_S + 5.0
_SETTLED_S: Final = 120.0  # in which a model stays in memory before others load it to be compared with
_MOST: Final = 64 * 1024


class GoldenAsker:
    """See the module.

    Args:
        node: This one.
        snapshot: The current one.
        link: The way to a node's peer listener.
        now: Unix seconds: rounds are the same for all.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        node: str,
        snapshot: Callable[[], Snapshot],
        link: Callable[[Node], Pool],
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._snapshot = snapshot
        self._link = link
        self._now = now
        self._clock = clock
        self._done: set[str] = set()
        self._round = -1
        self._loaded: dict[tuple[str, str], float] = {}  # since when
        self._references: dict[str, str] = {}
        self._answers: deque[GoldenAnswer] = deque(maxlen=_KEPT)
        self._room = asyncio.Semaphore(_AT_ONCE)

    @property
    def recent(self) -> tuple[GoldenAnswer, ...]:
        """What was answered lately; the registry takes each once."""
        since = self._now() - _TOLD_S
        return tuple(one for one in self._answers if one.at >= since)

    async def run(self) -> None:
        """Asks until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for instance, node in self._due():
                    self._done.add(instance.id)
                    reference = self._references.get(instance.id, "")
                    group.create_task(self._ask(instance, node, self._round, reference))
                await asyncio.sleep(_LOOK_S)

    def _due(self) -> Iterator[tuple[Instance, Node]]:
        """Whom this node has to ask in this round, and has not yet."""
        snapshot, round_ = self._snapshot(), golden.round_of(self._now())
        if round_ != self._round:
            self._round, self._done = round_, set()
            self._references = golden.references(self._copies(snapshot))
        nodes, active = snapshot.nodes, snapshot.active_nodes
        for instance in snapshot.instances.values():
            owner = nodes.get(instance.node)
            if owner is None or owner.state != "active" or not owner.peer or instance.id in self._done:
                continue
            verdict = snapshot.verdicts.get(instance.id)
            known = instance.loaded or instance.id in self._references
            asked = known or (verdict is not None and verdict.out)
            if asked and golden.asker_of(instance.id, instance.node, active, round_) == self._node:
                yield instance, owner

    def _copies(self, snapshot: Snapshot) -> Iterator[golden.Copy]:
        """Who has which model; one that was loaded a moment ago may soon be gone and counts as on disk."""
        now, loaded = self._clock(), dict[tuple[str, str], float]()
        for instance in snapshot.instances.values():
            resident = {canonical_or_same(name) for name in instance.loaded}
            fit = able(instance.models)
            for model in instance.models:
                name = canonical_or_same(model.name)
                if name not in fit:
                    continue
                if name in resident:
                    loaded[instance.id, name] = self._loaded.get((instance.id, name), now)
                settled = now - loaded.get((instance.id, name), now) >= _SETTLED_S
                yield golden.Copy(
                    instance.id, instance.node, name, model.digest, settled, not instance.loaded
                )
        self._loaded = loaded

    async def _ask(self, instance: Instance, node: Node, round_: int, reference: str) -> None:
        async with self._room:
            began, question = self._clock(), golden.question_of(round_)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    reply = await self._reply(node, GoldenQuestion(instance.id, round_, question, reference))
            except (BridgeError, TimeoutError) as fault:
                # Of which of its models, nobody knows; that a link is cut is noticed by others.
                log.info("golden_not_answered", instance=instance.id, reason=str(fault) or "too late")
                return
            took = self._clock() - began
        for one in reply.answers:
            self._answers.append(
                GoldenAnswer(
                    instance.id, one.model, round_, question, one.tokens, one.fault, took, self._now()
                )
            )

    async def _reply(self, node: Node, asked: GoldenQuestion) -> GoldenReply:
        headers = [(b"content-type", b"application/json")]
        pool = self._link(node)
        async with pool.request("POST", golden.PATH, headers, msgspec.json.encode(asked)) as response:
            status, body = response.status, await response.read(_MOST)
        if status != 200:
            raise BridgeError(f"it answered {status}")
        try:
            return decode_json(body, GoldenReply, most=_MOST)
        except Undecodable as fault:
            raise BridgeError(f"its answer does not decode: {fault.message}") from fault
