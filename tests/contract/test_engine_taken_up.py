"""An agent that starts beside engines of an earlier one uses them before it answers anybody."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.engine_support import fake_config, supervised


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
