"""Asks this node's own instances what a rollout's probe asks, once a round, and keeps old ones warm.

The instances are asked directly, not by a route: whatever balances requests, every instance of the
canary has to answer rightly itself. A round is asked one question at a time, so that it costs an
instance one slot at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from bridge_agent.engines.view import LocalInstance
from bridge_core.errors import BridgeError
from bridge_core.names import canonical_or_same
from bridge_core.probe import Probe, ProbeResult
from bridge_core.snapshot import Snapshot

log = structlog.get_logger()

_ANSWER_S: Final = 120.0  # a model that has to be loaded first may take long
_LOOK_S: Final = 1.0  # how soon an instance that came back is asked
_WARM_EVERY_S: Final = 60.0


class Asked(Protocol):
    """An engine that answers questions."""

    async def answer(self, model: str, prompt: str, *, system: str, max_tokens: int) -> str:
        """The answer at temperature 0. Raises BridgeError."""

    async def load(self, model: str, *, keep_alive: str | int | None = None) -> None:
        """Loads a model and keeps it. Raises BridgeError."""

    async def close(self) -> None:
        """Lets go of its connections."""


class RolloutProber:
    """See the module.

    Args:
        node: This node.
        snapshot: The current one.
        instances: This node's, as they are now.
        connect: Opens an engine's API.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        node: str,
        snapshot: Callable[[], Snapshot],
        instances: Callable[[], tuple[LocalInstance, ...]],
        connect: Callable[[LocalInstance], Asked],
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._snapshot = snapshot
        self._instances = instances
        self._connect = connect
        self._clock = clock
        self._results: dict[tuple[str, str], ProbeResult] = {}  # by rollout and instance
        self._warmed: dict[tuple[str, str], float] = {}

    @property
    def results(self) -> tuple[ProbeResult, ...]:
        """Of the rounds that are asked at present."""
        rounds = {probe.rollout: probe.round for probe in self._snapshot().probes if probe.questions}
        return tuple(one for one in self._results.values() if rounds.get(one.rollout) == one.round)

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Asks what has not been asked yet in the rounds of now."""
        snapshot = self._snapshot()
        for probe in snapshot.probes:
            for instance in self._own(probe, snapshot):
                if probe.questions:
                    await self._ask(probe, instance)
                elif probe.keep_alive_s:
                    await self._warm(probe, instance)
        running = {probe.rollout for probe in snapshot.probes}
        self._results = {key: one for key, one in self._results.items() if one.rollout in running}
        self._warmed = {key: at for key, at in self._warmed.items() if key[0] in running}

    def _own(self, probe: Probe, snapshot: Snapshot) -> list[LocalInstance]:
        node = snapshot.nodes.get(self._node)
        if node is None or not probe.labels.items() <= node.labels.items():
            return []
        wanted = canonical_or_same(probe.model)
        return [
            one
            for one in self._instances()
            if one.state == "ready"
            and (not probe.instances or one.id in probe.instances)
            and any(canonical_or_same(model.name) == wanted for model in one.models)
        ]

    async def _ask(self, probe: Probe, instance: LocalInstance) -> None:
        key = (probe.rollout, instance.id)
        known = self._results.get(key)
        if known is not None and known.round == probe.round:
            return
        faults: list[str] = []
        async with contextlib.AsyncExitStack() as stack:
            engine = self._connect(instance)
            stack.push_async_callback(engine.close)
            for question in probe.questions:
                try:
                    async with asyncio.timeout(_ANSWER_S):
                        answer = await engine.answer(
                            probe.model,
                            question.prompt,
                            system=question.system,
                            max_tokens=probe.max_tokens,
                        )
                    fault = question.fault(answer)
                except (BridgeError, TimeoutError) as error:
                    fault = str(error) or f"no answer within {_ANSWER_S:.0f} s"
                if fault:
                    faults.append(fault)
        right = len(probe.questions) - len(faults)
        passed = right >= probe.pass_share * len(probe.questions)
        self._results[key] = ProbeResult(
            probe.rollout, probe.round, instance.id, passed, "" if passed else "; ".join(faults)
        )
        log.info("rollout_probed", rollout=probe.rollout, instance=instance.id, passed=passed, faults=faults)

    async def _warm(self, probe: Probe, instance: LocalInstance) -> None:
        key, now = (probe.rollout, instance.id), self._clock()
        if now - self._warmed.get(key, float("-inf")) < _WARM_EVERY_S:
            return
        self._warmed[key] = now
        engine = self._connect(instance)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await engine.load(probe.model, keep_alive=f"{probe.keep_alive_s:.0f}s")
        except (BridgeError, TimeoutError) as fault:
            log.warning("not_kept_warm", model=probe.model, instance=instance.id, reason=str(fault))
        finally:
            await engine.close()
