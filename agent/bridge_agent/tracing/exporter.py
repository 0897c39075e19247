"""Sends spans to the collector: one task, one batch at a time.

A collector that is away or slow costs spans, which are counted, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import Any, Final, Protocol

import msgspec
import structlog

from bridge_agent.tracing.delivery_rules import (
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    Answer,
    Drop,
    Verdict,
    judged,
    unheard,
)
from bridge_agent.tracing.span_queue import SpanQueue
from bridge_agent.tracing.span_rules import message_of
from bridge_core.backoff import Backoff, Rng
from bridge_core.command.plain_text import one_line
from bridge_core.errors import BridgeError

log = structlog.get_logger()

COLLECT_S: Final = 1.0
"""For how long the first span waits for others to go with."""
BATCH: Final = 512
"""Spans that go together, at most."""
_LAST_S: Final = 2.0  # for what is left at the end
_GZIP: Final = 16 + zlib.MAX_WBITS
_LEVEL: Final = 1
_PATIENT: Final = 3  # failures in a row that are nobody's business yet


class Receiver(Protocol):
    """Who takes batches; see `posting.Collector`."""

    async def post(self, body: bytes) -> Answer:
        """Posts a batch; raises BridgeError."""

    async def close(self) -> None:
        """Closes the connection."""


class Exporter:
    """See the module; `run` is the one task.

    Args:
        queue: What waits.
        receiver: Who takes it.
        resource: Whose spans they are.
        version: The program's.
        rng: Spreads retries.
        now: Monotonic seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        queue: SpanQueue,
        receiver: Receiver,
        resource: dict[str, Any],
        version: str,
        *,
        rng: Rng,
        now: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._receiver = receiver
        self._resource = resource
        self._version = version
        self._backoff = Backoff(rng, first_s=FIRST_PAUSE_S, most_s=LAST_PAUSE_S)
        self._now = now
        self._sleep = sleep
        self._failing = 0
        self._reason = ""

    def concerns(self) -> Iterator[str]:
        """What an operator should know of, a sentence each."""
        if self._failing >= _PATIENT:
            yield f"the collector takes no traces ({self._failing} tries failed): {self._reason}"

    async def run(self) -> None:
        """Sends until cancelled; then what is left, where that is quickly done."""
        loop = asyncio.get_running_loop()
        filled = asyncio.Event()

        def told() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its agent with it
                loop.call_soon_threadsafe(filled.set)

        self._queue.on_filled(told)
        if self._queue.waiting:
            filled.set()
        batch: list[bytes] = []
        try:
            while True:
                await filled.wait()
                filled.clear()
                await self._sleep(COLLECT_S)
                while batch := self._queue.take(BATCH):
                    await self._deliver(batch)
        except asyncio.CancelledError:
            await self._send_last(batch)
            raise
        finally:
            await self._receiver.close()

    async def _deliver(self, batch: list[bytes]) -> None:
        """Sends one batch until it was taken, refused, or is too old."""
        body = await asyncio.to_thread(self._packed, batch)
        began = self._now()
        while True:
            verdict = await self._try(body, len(batch), began)
            self._note(verdict, len(batch))
            if verdict.pause_s:
                await self._sleep(verdict.pause_s)
            if not verdict.again:
                return

    async def _try(self, body: bytes, spans: int, began: float) -> Verdict:
        try:
            answer = await self._receiver.post(body)
        except BridgeError as fault:
            waited_s = self._now() - began
            return unheard(fault.message, spans, pause_s=self._backoff.next_s(), waited_s=waited_s)
        pause_s = 0.0 if answer.status < 300 else self._backoff.next_s()
        return judged(answer, spans, pause_s=pause_s, waited_s=self._now() - began)

    def _note(self, verdict: Verdict, spans: int) -> None:
        """Counts what became of a batch, and tells of the first failure and of the end of failures."""
        if not verdict.again:
            self._queue.note_dropped(verdict.why, verdict.dropped)
            self._queue.note_sent(spans - verdict.dropped)
        if verdict.again or verdict.dropped == spans:
            reason = one_line(" ".join(verdict.says.split()), 300)
            if not self._failing or reason != self._reason:
                log.warning("traces_not_sent", reason=reason, dropped=verdict.dropped)
            self._failing, self._reason = self._failing + 1, reason
            return
        if verdict.dropped:
            log.warning("traces_rejected", reason=one_line(verdict.says, 300), dropped=verdict.dropped)
        if self._failing:
            log.info("traces_sent_again", after_tries=self._failing)
        self._failing, self._reason = 0, ""
        self._backoff.reset()

    async def _send_last(self, batch: list[bytes]) -> None:
        """What waits, once: the collector may have a batch of these already, which then it has twice."""
        rest = [*batch, *self._queue.take(BATCH - len(batch))]
        if not rest:
            return
        try:
            async with asyncio.timeout(_LAST_S):
                answer = await self._receiver.post(self._packed(rest))
            verdict = judged(answer, len(rest), pause_s=0.0, waited_s=float("inf"))
        except (BridgeError, TimeoutError) as fault:
            says = str(fault) or "it did not answer in time"
            verdict = Verdict(dropped=len(rest), why=Drop.GIVEN_UP, says=says)
        self._note(verdict, len(rest))

    def _packed(self, batch: list[bytes]) -> bytes:
        message = message_of(self._resource, self._version, [msgspec.Raw(span) for span in batch])
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        return packer.compress(message) + packer.flush()
