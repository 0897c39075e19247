"""The registry's lease for a model that is being written into shared storage, as its writer sees it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import msgspec
import structlog

from bridge_core.errors import BridgeError, Unavailable

log = structlog.get_logger()

_BEATS: Final = 3.0  # in the time that a hold is good for
_ANSWER_S: Final = 10.0
_SOONEST_S: Final = 0.2


class PublishHold(msgspec.Struct, frozen=True):
    """What a registry answers.

    Attributes:
        token: The lease's.
        valid_s: For how long it holds, counted from the question.
        alone: Nobody else holds one in that storage.
    """

    token: int
    valid_s: float
    alone: bool = False


class PublishCall(Protocol):
    """One stream at a registry."""

    async def send(self, tier: str, model: str, *, alone: bool = False) -> None:
        """Says that the writer is still at it. Raises BridgeError."""

    async def done(self) -> None:
        """Gives the lease back. Raises BridgeError."""

    async def receive(self) -> PublishHold:
        """What is answered to a beat. Raises Unavailable; another BridgeError: it is refused."""


class PublishRegistry(Protocol):
    """A registry that gives leases."""

    @property
    def address(self) -> str:
        """Its host:port."""

    def publish(self) -> AbstractAsyncContextManager[PublishCall]:
        """Opens a stream; leaving the context ends it."""


class Hold:
    """A lease that is held.

    Attributes:
        token: No two leases have the same.
        lost: Why it is not renewed any more; empty: it is.
    """

    def __init__(self, token: int, until: float, now: Callable[[], float]) -> None:
        self.token: Final = token
        self.lost = ""
        self._until = until
        self._now = now

    def valid(self) -> bool:
        """Whether it is sure that nobody else has the lease at this moment; may be asked in any thread."""
        return self._now() < self._until

    async def keep(self, beat: Callable[[], Awaitable[PublishHold]], valid_s: float) -> None:
        """Renews it until cancelled, or until that fails: then it holds for as long as it was told.

        Args:
            beat: Asks the registry once. Raises BridgeError.
            valid_s: What it answered first.
        """
        while True:
            await asyncio.sleep(max(_SOONEST_S, valid_s / _BEATS))
            sent = self._now()
            try:
                answer = await beat()
            except BridgeError as fault:
                self.lost = str(fault)
                log.warning("publication_lease_lost", token=self.token, reason=self.lost)
                return
            if answer.valid_s > 0.0:
                self._until = sent + answer.valid_s
                valid_s = answer.valid_s

    def end(self) -> None:
        """It holds no more, before the registry is told: a thread that still writes must not list a model."""
        self._until = -math.inf


@contextlib.asynccontextmanager
async def held(
    registries: Sequence[PublishRegistry],
    tier: str,
    model: str,
    now: Callable[[], float] = time.monotonic,
    *,
    alone: bool = False,
) -> AsyncIterator[Hold]:
    """Holds the lease of a model in canonical form while the context lasts; `alone`: the only one there.

    Raises:
        BridgeError: another writer has it (the message names the node), or no registry gives it.
    """
    faults = []
    async with contextlib.AsyncExitStack() as stack:
        for registry in registries:
            try:
                call = await stack.enter_async_context(registry.publish())
                sent, answer = now(), await _beat(call, tier, model, alone=alone)
                break
            except Unavailable as fault:  # it does not lead, or is down: another may
                faults.append(str(fault))
                await stack.aclose()
        else:
            raise Unavailable(
                f"no registry gives the lease to publish {model}: {'; '.join(faults) or 'none is known'}",
                hint="nothing was written; try again when a registry answers",
            )
        if alone and not answer.alone:
            raise BridgeError(
                "the registry does not know how to keep other writers out",
                hint="upgrade the registries before models are removed from shared storage",
            )
        hold = Hold(answer.token, sent + answer.valid_s, now)
        keeping = asyncio.create_task(
            hold.keep(lambda: _beat(call, tier, model, alone=alone), answer.valid_s), name="publication-lease"
        )
        try:
            yield hold
        finally:
            keeping.cancel()
            hold.end()
            await asyncio.gather(keeping, return_exceptions=True)
            with contextlib.suppress(BridgeError, TimeoutError):  # it runs out by itself
                async with asyncio.timeout(_ANSWER_S):
                    await call.done()


async def _beat(call: PublishCall, tier: str, model: str, *, alone: bool) -> PublishHold:
    try:
        async with asyncio.timeout(_ANSWER_S):
            await call.send(tier, model, alone=alone)
            return await call.receive()
    except TimeoutError:
        raise Unavailable(f"the registry did not answer within {_ANSWER_S:g} s") from None
