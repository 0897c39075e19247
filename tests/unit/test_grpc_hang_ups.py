"""Clients that leave before their answer are noticed, and short calls are never watched."""

from __future__ import annotations

import asyncio
from typing import Any

from bridge_agent.gateway.grpc_adapter.call_exchange import CallExchange
from bridge_agent.gateway.grpc_adapter.faults import ClientGone
from bridge_agent.gateway.grpc_adapter.hang_ups import HangUps
from bridge_agent.gateway.grpc_adapter.unary import WholeAnswer
from bridge_core.http1 import Headers, Request
from tests.support import eventually


class Client:
    """Its side of ASGI's `receive`."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.heard = 0

    async def receive(self) -> dict[str, Any]:
        self.heard += 1
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def exchange() -> CallExchange:
    return WholeAnswer(Request("POST", b"/api/generate", Headers([])))


async def test_a_client_that_leaves_a_lasting_call_is_noticed() -> None:
    hang_ups, client, lasting = HangUps(), Client(), exchange()
    told: list[str] = []
    lasting.on_disconnect = lambda: told.append("left")
    watched = hang_ups.begun(lasting, client.receive)
    await eventually(lambda: client.heard == 1)
    assert not lasting.ended
    client.leaves.set()
    await eventually(lambda: lasting.ended)
    assert isinstance(lasting.fault, ClientGone)
    assert told == ["left"]
    hang_ups.over(watched)


async def test_a_call_that_is_over_is_not_watched_any_more() -> None:
    hang_ups, client = HangUps(), Client()
    short, lasting = exchange(), exchange()
    hang_ups.over(hang_ups.begun(short, client.receive))
    assert client.heard == 0
    tasks = asyncio.all_tasks()
    watched = hang_ups.begun(lasting, client.receive)
    await eventually(lambda: client.heard == 1)  # of the other one
    hang_ups.over(watched)
    await eventually(lambda: asyncio.all_tasks() <= tasks)
    client.leaves.set()
    assert not lasting.ended


async def test_no_timer_runs_while_there_are_no_calls() -> None:
    hang_ups, client = HangUps(), Client()
    hang_ups.over(hang_ups.begun(exchange(), client.receive))
    await eventually(lambda: hang_ups._timer is None)
    watched = hang_ups.begun(exchange(), client.receive)
    await eventually(lambda: client.heard == 1)
    hang_ups.over(watched)
