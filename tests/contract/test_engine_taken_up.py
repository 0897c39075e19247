"""An agent that starts beside engines of an earlier one uses them before it answers anybody."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

from bridge_agent.ancillaries import Ancillaries
from bridge_agent.engines.process import EngineProcess, LaunchSpec, PlainLauncher
from tests.engine_support import fake_config, supervised
from tests.support import eventually


async def test_an_engine_left_running_is_ready_once_taken_up(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    async with supervised(config, tmp_path / "state", leave=True) as first:
        await first.state("ready")
        process = first.supervisor.process("n1/0")
    async with supervised(config, tmp_path / "state") as second:
        await second.supervisor.taken_up(30)
        assert second.view.state == "ready"
        assert second.supervisor.process("n1/0") == process


async def test_an_engine_that_has_to_be_started_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "never").touch()
    async with supervised(fake_config(tmp_path), tmp_path / "state") as it, asyncio.timeout(30):
        await it.supervisor.taken_up(3600)
        assert it.view.state != "ready"


class Unforeseen(PlainLauncher):
    """Fails in ways that no rule knows, as often as a test wants."""

    def __init__(self) -> None:
        self.faults = 0

    async def launch(self, spec: LaunchSpec) -> EngineProcess:
        process = await super().launch(spec)
        if self.faults:
            self.faults -= 1
            process.close()  # as if no descriptor were left to hold it by
            raise OSError(24, "Too many open files")
        return process

    async def ended(self, instance: str) -> None:
        if self.faults:
            self.faults -= 1
            raise OSError(24, "Too many open files")


async def test_an_instance_whose_own_task_fails_is_begun_anew(tmp_path: Path) -> None:
    launcher, ancillaries = Unforeseen(), Ancillaries(random.Random(1), sleep=lambda _: asyncio.sleep(0.01))
    config, state = fake_config(tmp_path), tmp_path / "state"
    async with supervised(config, state, launcher=launcher, ancillaries=ancillaries) as it:
        await it.state("ready")
        first = it.supervisor.process("n1/0")
        assert first is not None
        launcher.faults = 2  # at the end of the first engine, and at the start of the second
        os.kill(first[0], signal.SIGKILL)
        await eventually(lambda: ancillaries.faults == {"engine n1/0": 2})
        await eventually(lambda: it.view.state == "ready" and it.supervisor.process("n1/0") != first)


async def test_an_engine_runs_on_while_its_instance_is_begun_anew(tmp_path: Path) -> None:
    ancillaries = Ancillaries(random.Random(1), sleep=lambda _: asyncio.sleep(0.01))
    config, state = fake_config(tmp_path), tmp_path / "state"
    async with supervised(config, state, ancillaries=ancillaries) as it:
        await it.state("ready")
        process = it.supervisor.process("n1/0")
        instance = it.supervisor._instances["n1/0"]
        instance._mailbox.put_nowait(None)  # type: ignore[arg-type]  # what nobody should post
        await eventually(lambda: ancillaries.faults == {"engine n1/0": 1})
        await eventually(lambda: it.supervisor._instances["n1/0"] is not instance)
        await eventually(lambda: it.supervisor.process("n1/0") == process)
        await it.state("ready")
