"""Asks the loaded models of one engine for a token when the rules say so, and reports hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from bridge_agent.health.probe_rules import ModelHealth, ProbePolicy, ProbeVerdict, judge, probe_due
from bridge_core.errors import BridgeError

log = structlog.get_logger()

# Effort of one probe, in processor seconds, that shows that an engine's work can be seen in these
# processes: more than whoever merely hands bytes on to it needs.
_ITS_WORK: Final = 0.05
# Effort a second from which an engine is said to compute. Idle loops and answers to version and ps
# stay below; one that loads a model from a slow disk is above.
_COMPUTING: Final = 0.02


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in an engine's memory.

    Attributes:
        key: Its canonical name.
        expires_in_s: How long it stays loaded without being used; infinite: for ever.
        probe: Makes it do the least work there is; returns when it has answered anything.
            Raises BridgeError where there was no answer to be had.
    """

    key: str
    expires_in_s: float
    probe: Callable[[], Awaitable[None]]


class Prober:
    """Watches the loaded models of one engine.

    Args:
        hung: Called with a reason when a model is found hung.
        recovered: Called when no model is known to hang any more.
        effort: What the engine's processes have done so far, in processor seconds; None: not known.
        ours: The processes are known to be the engine's; else they have to show it.
        clock: Monotonic time in seconds.
        policy: How patient to be.
    """

    def __init__(
        self,
        *,
        hung: Callable[[str], None],
        recovered: Callable[[], None],
        effort: Callable[[], Awaitable[float | None]],
        clock: Callable[[], float],
        policy: ProbePolicy,
        ours: bool = True,
    ) -> None:
        self._seen = ours
        self._report_hung = hung
        self._report_recovered = recovered
        self._effort = effort
        self._clock = clock
        self._policy = policy
        self._models: dict[str, LoadedModel] = {}
        self._health: dict[str, ModelHealth] = {}
        self._heard: dict[str, float] = {}
        self._sent: dict[str, float] = {}
        self._asked: set[str] = set()  # probed since they were last listed: that moved their unloading
        self._changed = asyncio.Event()

    def heard(self, now: float, model: str | None = None) -> None:
        """A byte came from a model. Cheap: called for every chunk of a stream.

        A name that is not loaded (None, or a route's) stands for whichever model is.
        """
        for key in (model,) if model in self._models else self._models:
            self._heard[key] = now
            self._sent.pop(key, None)

    def sent(self, now: float, model: str | None = None) -> None:
        """A request was sent to a model; see `heard`."""
        for key in (model,) if model in self._models else self._models:
            if key not in self._sent:
                self._sent[key] = now
                self._changed.set()

    def update(self, models: Iterable[LoadedModel]) -> None:
        """Takes over what is loaded now."""
        self._models = {model.key: model for model in models}
        had_hung = self._any_hung()
        for key in self._health.keys() - self._models.keys():
            del self._health[key]
        for key, model in self._models.items():
            now = self._clock()
            health = self._health.get(key) or ModelHealth(now, expires_in_s=model.expires_in_s)
            others = not self._seen and key not in self._asked and health.used_by_others(model.expires_in_s)
            if others:
                self._heard[key] = now
            self._asked.discard(key)
            self._health[key] = health.listed(model.expires_in_s)
        if had_hung and not self._any_hung():
            self._report_recovered()
        self._changed.set()

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            self._changed.clear()
            due = self._next()
            wait_s = None if due is None else max(0.0, due[0] - self._clock())
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
                continue
            except TimeoutError:
                pass
            if due is not None:
                await self._probe(self._models[due[1]])

    def _next(self) -> tuple[float, str] | None:
        due = [
            (at, key) for key in self._health if (at := probe_due(self._now(key), self._policy)) is not None
        ]
        return min(due, default=None)

    def _now(self, key: str) -> ModelHealth:
        """A model's health with what was heard and sent since; the streams only leave notes."""
        health = self._health[key]
        heard, sent = self._heard.pop(key, None), self._sent.get(key)
        if heard is not None and heard > health.last_progress:
            health = health.progressed(heard)
        if sent is not None:
            health = health.dispatched(sent)
        self._health[key] = health
        return health

    async def _probe(self, model: LoadedModel) -> None:
        started = self._clock()
        answer = asyncio.ensure_future(model.probe())
        try:
            verdict = await self._judged(answer, model.key, started)
        finally:
            answer.cancel()
            await asyncio.wait({answer})
            self._asked.add(model.key)
        self._settle(model.key, verdict, self._fault_of(answer, model.key), started)

    async def _judged(self, answer: asyncio.Future[None], key: str, started: float) -> ProbeVerdict | None:
        """Waits for the answer for as long as the rules are patient; None: it came."""
        computed: float | None = None
        first = done = await self._effort()
        at = started
        while True:
            await asyncio.wait({answer}, timeout=self._policy.timeout_s / 8)
            now = self._clock()
            before, done = done, None if answer.done() and self._seen else await self._effort()
            if first is not None and done is not None and done - first > _ITS_WORK:
                self._seen = True
            if answer.done():
                return None
            if before is not None and done is not None and done - before > _COMPUTING * (now - at):
                computed = now
            at = now
            verdict = judge(
                started=started,
                computed=computed,
                progressed=self._heard.get(key, started),
                now=now,
                policy=self._policy,
                seen=self._seen and done is not None,
                false_alarms=self._health[key].false_alarms if key in self._health else 0,
            )
            if verdict is not ProbeVerdict.WAIT:
                return verdict

    def _fault_of(self, answer: asyncio.Future[None], key: str) -> BridgeError | None:
        """Why a finished probe had no answer: the liveness probe's business, not a hang."""
        fault = None if answer.cancelled() else answer.exception()
        if fault is None:
            return None
        if isinstance(fault, BridgeError):
            log.info("model_probe_failed", model=key, reason=str(fault))
            return fault
        raise fault

    def _settle(
        self, key: str, verdict: ProbeVerdict | None, fault: BridgeError | None, started: float
    ) -> None:
        if key not in self._health:
            return  # unloaded meanwhile
        now, had_hung, health = self._clock(), self._any_hung(), self._now(key)
        if verdict is ProbeVerdict.HUNG:
            self._health[key] = health.unanswered(now, hung=True)
            log.warning("model_hung", model=key, silent_s=round(now - started, 1))
            self._report_hung(f"model {key} did not generate a token within {now - started:.0f} s")
            return
        if verdict is None and fault is None:
            self._sent.pop(key, None)
            self._health[key] = health.answered(now)
        else:
            # No answer to be had does not disprove a hang found before.
            self._health[key] = health.unanswered(now, hung=health.hung)
        if had_hung and not self._any_hung():
            self._report_recovered()

    def _any_hung(self) -> bool:
        return any(health.hung for health in self._health.values())
