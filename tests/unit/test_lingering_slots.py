"""Who watches the slots that requests gave up: always somebody."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Self

from bridge_agent.gateway.lingering import Lingering
from bridge_core.http1 import PoolClosed
from tests.support import eventually


class Suspects:
    """An admission whose slot becomes suspect again right after its watcher looked for the last time."""

    def __init__(self) -> None:
        self.left = [1, 0]
        self.freed_by_time = 0
        self.again: Any = None

    def suspects(self, _instance: str) -> int:
        found = self.left.pop(0) if self.left else 0
        if not self.left and self.again is not None:
            again, self.again = self.again, None
            self.left = [1, 0]
            asyncio.get_running_loop().call_soon(again)
        return found

    def running(self, _instance: str) -> int:
        return 0

    def linger(self, _instance: str, _most: int) -> None:
        """The engine said so."""

    def clear_in_time(self, _instance: str) -> None:
        self.freed_by_time += 1


class Answers:
    """Every engine, asked for its slots: counts the questions."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked = 0
        self.status = 200

    def pool(self, _target: object) -> Answers:
        return self

    def request(self, *_request: object) -> Answers:
        self.asked += 1
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_fault: object) -> None:
        return None

    async def read(self, _most: int) -> bytes:
        if not self.body:
            raise PoolClosed("gone")
        return self.body


def lingering(admission: Suspects, answers: Answers, group: asyncio.TaskGroup) -> Lingering:
    target = SimpleNamespace(id="a/0", address="127.0.0.1:1")
    view = SimpleNamespace(index=SimpleNamespace(targets={"a/0": target}))
    return Lingering(admission, view, answers, group)  # type: ignore[arg-type]  # enough of them


async def test_a_slot_that_turns_suspect_as_its_watcher_ends_is_watched_too() -> None:
    admission, answers = Suspects(), Answers(b'{"models":[{"busy":0,"running":0}]}')
    async with asyncio.TaskGroup() as group:
        watcher = lingering(admission, answers, group)
        admission.again = lambda: watcher.watch("a/0")
        assert watcher.watch("a/0")
        await eventually(lambda: answers.asked == 2)


async def test_an_answer_that_cannot_be_read_leaves_it_to_time() -> None:
    for body in (b"", b"[" * 5000, b'{"models":[{"busy":"\xff","running":0}]}', b"7", b"{"):
        admission = Suspects()
        async with asyncio.TaskGroup() as group:
            assert lingering(admission, Answers(body), group).watch("a/0")
        assert admission.freed_by_time == 1
