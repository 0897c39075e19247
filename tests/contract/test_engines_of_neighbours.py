"""An agent takes up and ends its own engines, and nobody else's that only look like them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_agent.engines.proc import marked
from bridge_core.proc import alive, read_stat
from tests.engine_support import fake_config, supervised
from tests.support import copy_of_running

# The state folder of each is a file system of its own, at the same path.
IN_A_CONTAINER = """
import asyncio, os, subprocess, sys
from pathlib import Path
from bridge_agent.engines.logfile import LogFile
from bridge_agent.engines.process import LaunchSpec, PlainLauncher, sweep_marked
state, what = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "none", str(state)], check=True)
folder = state / "engines" / "0"
folder.mkdir(parents=True)

async def work():
    spec = LaunchSpec(("/bin/sleep", "60"), {}, folder, LogFile(folder / "engine.log"))
    own = await PlainLauncher().launch(spec)
    print(own.pid, flush=True)
    sys.stdin.readline()
    print(await sweep_marked(folder), flush=True)

asyncio.run(work())
"""


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two agents' worth of processes, in one PID namespace, each in a mount namespace of its own."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:  # such as where / is no mount point
        pytest.skip(f"SKIPPED LOUDLY: no mount namespace to be had: {tried.stderr.strip()}")
    argv = [*unshare, sys.executable, "-c", IN_A_CONTAINER]
    started = [
        subprocess.Popen(
            [*argv, str(tmp_path), "x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    yield started
    for one in started:
        one.kill()
        one.communicate()


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"),
    reason="SKIPPED LOUDLY: only root makes mount namespaces",
)
def test_a_sweep_spares_the_engine_of_a_container_with_the_same_path(
    containers: list[subprocess.Popen[str]],
) -> None:
    mine, theirs = (int(one.stdout.readline()) for one in containers)  # type: ignore[union-attr]  # a pipe
    neighbour = read_stat(theirs)
    assert neighbour is not None
    swept, _ = containers[0].communicate("sweep\n", timeout=30)
    assert swept == "1\n"  # its own
    ended = read_stat(mine)
    assert ended is None or ended.zombie
    assert alive(neighbour.pid, neighbour.start_time)
    assert containers[1].communicate("sweep\n", timeout=30)[0] == "1\n"


async def test_an_agent_on_a_copied_folder_leaves_the_originals_engine_alone(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    async with supervised(config, tmp_path / "state") as original:
        await original.state("ready")
        process = original.supervisor.process("n1/0")
        assert process is not None
        await copy_of_running(tmp_path / "state", tmp_path / "copy")
        async with supervised(config, tmp_path / "copy") as copy:
            await copy.state("ready")
            assert copy.supervisor.process("n1/0") != process
        assert alive(*process)
        assert original.view.state == "ready"


async def test_its_own_are_found_by_whatever_path(tmp_path: Path) -> None:
    async with supervised(fake_config(tmp_path), tmp_path / "state") as it:
        await it.state("ready")
        (tmp_path / "way").symlink_to(tmp_path / "state")
        found = {stat.pid for stat in marked(tmp_path / "way" / "engines" / "0")}
        process = it.supervisor.process("n1/0")
        assert process is not None
        assert process[0] in found
    assert marked(tmp_path / "nowhere") == []
