"""What an agent was asked for on earlier days is likely at the same time, also after it began anew."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
import structlog

from bridge_agent.engines.view import LocalInstance
from bridge_agent.models.habit_rules import DAY_S
from bridge_agent.models.warming import Warming
from bridge_agent.routing.view import MeshView
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import canonical
from bridge_core.snapshot import MemberModel
from tests.support import eventually

NIGHTLY, RARE = canonical("nightly"), canonical("rare")


class Agent:
    """What of an agent keeps models warm, at a moment that the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wall = 20_000.0 * DAY_S + 7200
        self.now = 1000.0
        models = (MemberModel("nightly", "a"), MemberModel("rare", "b"))
        engine = LocalInstance("n/0", "127.0.0.1", 1, "ready", models)
        self.store = ModelStore(folder / "models")
        self.file = folder / "habits.json"
        self.engines = (engine,)
        self.looks = 0
        self.warming = self.begun()

    def looked(self) -> int:
        """How much memory is free, which is asked at each look."""
        self.looks += 1
        return 0

    def begun(self) -> Warming:
        return Warming(
            self.folder / "models",
            lambda: self.store,
            MeshView("n"),
            configured=None,
            instances=lambda: self.engines,
            loading=lambda: False,
            changed=lambda: None,
            room=self.looked,
            habits=self.file,
            now=lambda: self.now,
            wall=lambda: self.wall,
        )


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_nightly_job_is_expected_the_next_night_by_an_agent_that_began_anew(agent: Agent) -> None:
    running = asyncio.create_task(agent.warming.run())
    await eventually(lambda: agent.looks, 30)
    for _ in range(8):
        agent.warming.asked(NIGHTLY)
    await ended(running)
    assert agent.file.exists()
    agent.warming = agent.begun()
    agent.warming.asked(RARE)  # before the file was read: it counts, too
    await agent.warming.remember()
    agent.wall += DAY_S - 1800  # half an hour before it, on the next day
    agent.now += 10 * 3600  # what was asked lately is past
    assert agent.warming.scores().keys() == {NIGHTLY, RARE}
    assert agent.warming.scores()[NIGHTLY] > agent.warming.scores()[RARE]
    agent.wall += 7200  # and after it
    assert agent.warming.scores() == {}


async def test_it_is_written_now_and_then_while_the_agent_runs(agent: Agent) -> None:
    agent.warming.asked(NIGHTLY)
    agent.now += 600.0
    running = asyncio.create_task(agent.warming.run())
    await eventually(agent.file.exists, 30)
    await ended(running)


async def test_a_disk_that_refuses_it_ends_nothing(agent: Agent) -> None:
    agent.file.mkdir()
    with structlog.testing.capture_logs() as said:
        await agent.warming.remember()
        assert said[0]["event"] == "habits_not_read"
        agent.warming.asked(NIGHTLY)
        agent.now += 600.0
        running = asyncio.create_task(agent.warming.run())
        await eventually(lambda: any(one["event"] == "models_not_warmed" for one in said), 30)
        assert not running.done()
        agent.warming.asked(NIGHTLY)
        await ended(running)
