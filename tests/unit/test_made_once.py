"""What is loaded with the first who asks is made once, and again only where that failed."""

from __future__ import annotations

import asyncio

import pytest

from bridge_agent.made_once import MadeOnce


async def test_it_is_made_once_however_many_ask() -> None:
    made: list[int] = []

    def make() -> list[int]:
        made.append(1)
        return made

    once = MadeOnce(make)
    assert await asyncio.gather(*(once.get() for _ in range(4))) == [[1]] * 4
    assert await once.get() is made
    assert made == [1]


async def test_who_asks_after_a_failure_tries_again() -> None:
    faults = [MemoryError("no room")]

    def make() -> str:
        if faults:
            raise faults.pop()
        return "made"

    once = MadeOnce(make)
    with pytest.raises(MemoryError):
        await once.get()
    assert await once.get() == "made"
