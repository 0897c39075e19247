"""Clients that leave before their answer: noticed without a task for each call.

Somebody has to wait in ASGI's `receive` to hear of it. A task that does costs more than a short call does
otherwise; so only calls that have lasted for a while get one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from bridge_agent.gateway.grpc_adapter.call_exchange import CallExchange
from bridge_agent.gateway.grpc_adapter.faults import ClientGone

Receive = Callable[[], Awaitable[dict[str, Any]]]
LOOK_S: Final = 0.05
"""A call is watched once it has lasted this long, and no later than after twice that."""


class Watched:
    """One call whose client may leave.

    Attributes:
        exchange: The pipeline's side of it.
        deadline: What ends it when it has taken too long; None: nothing does.
    """

    __slots__ = ("_receive", "_task", "deadline", "exchange")

    def __init__(self, exchange: CallExchange, receive: Receive) -> None:
        self.exchange = exchange
        self.deadline: asyncio.TimerHandle | None = None
        self._receive = receive
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Waits for the client to leave, from now on."""
        self._task = asyncio.get_running_loop().create_task(self._wait(), name="grpc-disconnect")

    def end(self) -> None:
        """It is of no interest any more."""
        if self._task is not None:
            self._task.cancel()
        if self.deadline is not None:
            self.deadline.cancel()

    async def _wait(self) -> None:
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                break
        self.exchange.give_up(ClientGone("the client went away"))


class HangUps:
    """The calls under way, of one listener."""

    def __init__(self) -> None:
        self._young: dict[Watched, None] = {}
        self._old: dict[Watched, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begun(self, exchange: CallExchange, receive: Receive) -> Watched:
        """A call waits for its answer; tell `over` what this returns."""
        call = Watched(exchange, receive)
        self._young[call] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        return call

    def over(self, call: Watched) -> None:
        """It does not wait any more."""
        self._young.pop(call, None)
        self._old.pop(call, None)
        call.end()

    def _look(self) -> None:
        for call in self._old:
            call.begin()
        self._old = self._young
        self._young = {}
        more = len(self._old) > 0
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look) if more else None
