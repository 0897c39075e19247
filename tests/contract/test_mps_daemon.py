"""The MPS control daemon is kept alive, told what to do, and its logs are heard."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bridge_agent.engines.process import ProcessRecord
from bridge_agent.limits import mps
from bridge_agent.limits.mps_rules import MpsFault
from bridge_agent.limits.nvml import open_inventory
from bridge_core.backoff import Backoff
from bridge_core.errors import Unavailable
from tests.gpu.agent_bed import short_folder
from tests.support import eventually

FAKE = Path(__file__).parent.parent / "fakes" / "fake_mps_control.py"


class Control(NamedTuple):
    """A control program and the device that it is for."""

    binary: str
    device: str


@pytest.fixture
def fake(tmp_path: Path) -> Control:
    """An executable that stands in for the driver's own."""
    script = tmp_path / "nvidia-cuda-mps-control"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} "$@"\n')
    script.chmod(0o755)
    return Control(str(script), "GPU-0")


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def control(request: pytest.FixtureRequest) -> Control:
    """The fake, and the driver's own where there is a GPU."""
    if request.param == "fake":
        return request.getfixturevalue("fake")
    inventory, reason = open_inventory()
    gpus = inventory.read()
    inventory.close()
    binary = shutil.which(mps.CONTROL)
    if not gpus or binary is None:
        pytest.skip(f"SKIPPED LOUDLY: no MPS of a real GPU here: {reason or 'it is not on PATH'}")
    return Control(binary, gpus[0].uuid)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@contextlib.asynccontextmanager
async def running(control: Control, folder: Path, heard: list[MpsFault]) -> AsyncIterator[mps.MpsDaemon]:
    daemon = mps.MpsDaemon(control.device, folder, on_fault=heard.append, binary=control.binary)
    task = asyncio.create_task(daemon.run(Backoff(random.Random(1), first_s=0.01, most_s=0.05)))
    try:
        async with asyncio.timeout(60):
            await daemon.ready()
        yield daemon
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_command_reaches_the_daemon(control: Control, tmp_path: Path) -> None:
    async with running(control, tmp_path, []) as daemon:
        await daemon.set_default_percentage(40)
        assert await daemon.command("get_default_active_thread_percentage") == "40.0"


async def test_a_daemon_that_dies_is_told_and_started_again(control: Control, tmp_path: Path) -> None:
    heard: list[MpsFault] = []
    async with running(control, tmp_path, heard) as daemon:
        os.kill(ProcessRecord.load(tmp_path / "daemon.json").pid, signal.SIGKILL)
        await eventually(lambda: daemon.restarts >= 1, 60.0)
        await daemon.ready()
        assert {fault.kind for fault in heard} == {"server_exit"}


async def test_a_fault_in_the_log_names_the_client(fake: Control, tmp_path: Path) -> None:
    heard: list[MpsFault] = []
    async with running(fake, tmp_path, heard) as daemon:
        await daemon.command("fault 4711")
        await eventually(
            lambda: [(fault.kind, fault.pid) for fault in heard][:1] == [("client_fault", 4711)], 30.0
        )


async def test_it_is_gone_when_its_task_is(control: Control, tmp_path: Path) -> None:
    async with running(control, tmp_path, []) as daemon:
        pass
    with pytest.raises(Unavailable):
        await daemon.command("get_server_list")


async def test_a_daemon_that_never_answers_is_replaced_and_ends_nothing_else(tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text('#!/bin/sh\n[ "$1" = -f ] && exec sleep 600\nexit 1\n')
    silent.chmod(0o755)
    heard: list[MpsFault] = []
    daemon = mps.MpsDaemon("GPU-0", tmp_path, on_fault=heard.append, binary=str(silent), start_timeout_s=0.3)
    task = asyncio.create_task(daemon.run(Backoff(random.Random(1), first_s=0.01, most_s=0.05)))
    await eventually(lambda: daemon.restarts >= 2, 60.0)
    assert not task.done()
    assert {fault.kind for fault in heard} == {"server_exit"}
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_daemon_that_cannot_be_started_is_tried_again_and_ends_nothing_else(tmp_path: Path) -> None:
    heard: list[MpsFault] = []
    daemon = mps.MpsDaemon("GPU-0", tmp_path, on_fault=heard.append, binary=str(tmp_path / "gone"))
    task = asyncio.create_task(daemon.run(Backoff(random.Random(1), first_s=0.01, most_s=0.05)))
    await eventually(lambda: daemon.restarts >= 2, 60.0)
    assert not task.done()
    assert "cannot start" in heard[0].text
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_machine_without_mps_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(mps.MpsMissing, match="not on PATH"):
        mps.MpsDaemon("GPU-0", tmp_path, on_fault=lambda _: None)


async def test_a_control_program_that_is_gone_ends_nothing(fake: Control, tmp_path: Path) -> None:
    heard: list[MpsFault] = []
    async with running(fake, tmp_path / "mps", heard) as daemon:
        aside = Path(fake.binary).with_suffix(".aside")
        Path(fake.binary).rename(aside)
        with pytest.raises(Unavailable, match=r"cannot be asked.*No such file"):
            await daemon.command("get_server_list")
        record = ProcessRecord.load(tmp_path / "mps" / "daemon.json")
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)
        await eventually(lambda: any("could not be started" in fault.text for fault in heard), 30)
        aside.rename(fake.binary)
        async with asyncio.timeout(30):
            await daemon.ready()
