"""The MPS control daemon is kept alive, told what to do, and its logs are heard."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_agent.limits import mps
from bridge_agent.limits.mps_rules import MpsFault
from bridge_core.backoff import Backoff
from bridge_core.errors import Unavailable
from tests.support import eventually

FAKE = Path(__file__).parent.parent / "fakes" / "fake_mps_control.py"


@pytest.fixture
def control(tmp_path: Path) -> str:
    """An executable that stands in for the driver's own."""
    script = tmp_path / "nvidia-cuda-mps-control"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} "$@"\n')
    script.chmod(0o755)
    return str(script)


@contextlib.asynccontextmanager
async def running(control: str, folder: Path, heard: list[MpsFault]) -> AsyncIterator[mps.MpsDaemon]:
    daemon = mps.MpsDaemon("GPU-0", folder, on_fault=heard.append, binary=control)
    task = asyncio.create_task(daemon.run(Backoff(random.Random(1), first_s=0.01, most_s=0.05)))
    try:
        await daemon.ready()
        yield daemon
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_command_reaches_the_daemon(control: str, tmp_path: Path) -> None:
    async with running(control, tmp_path, []) as daemon:
        await daemon.set_default_percentage(40)
        assert await daemon.command("get_default_active_thread_percentage") == "40.0"


async def test_a_daemon_that_dies_is_told_and_started_again(control: str, tmp_path: Path) -> None:
    heard: list[MpsFault] = []
    async with running(control, tmp_path, heard) as daemon:
        with contextlib.suppress(Unavailable):
            await daemon.command("crash")
        await eventually(lambda: daemon.restarts == 1)
        await daemon.ready()
        assert [fault.kind for fault in heard] == ["server_exit"]


async def test_a_fault_in_the_log_names_the_client(control: str, tmp_path: Path) -> None:
    heard: list[MpsFault] = []
    async with running(control, tmp_path, heard) as daemon:
        await daemon.command("fault 4711")
        await eventually(lambda: [(fault.kind, fault.pid) for fault in heard][:1] == [("client_fault", 4711)])


async def test_it_is_gone_when_its_task_is(control: str, tmp_path: Path) -> None:
    async with running(control, tmp_path, []) as daemon:
        pass
    with pytest.raises(Unavailable):
        await daemon.command("get_server_list")


def test_a_machine_without_mps_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(mps.MpsMissing, match="not on PATH"):
        mps.MpsDaemon("GPU-0", tmp_path, on_fault=lambda _: None)
