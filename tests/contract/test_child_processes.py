"""Children that are gone before they were told anything, on uvloop, which the agent runs on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import uvloop

import bridge_core
from bridge_agent.membership import new_key as module
from bridge_core.child import converse

PIPE = asyncio.subprocess.PIPE


async def gone(code: str) -> asyncio.subprocess.Process:
    """A child that has ended, as seen by its loop, before anybody spoke with it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert process.stdin is not None
    await process.wait()
    process.stdin.close()  # what the loop does by itself when it sees the other end gone
    return process


def test_a_child_that_is_gone_is_no_fault() -> None:
    async def work() -> tuple[bytes, bytes, int | None]:
        process = await gone("import sys; print('out'); print('why', file=sys.stderr); sys.exit(3)")
        output, errors = await converse(process, b"x" * 1_000_000)
        return output, errors, process.returncode

    assert uvloop.run(work()) == (b"out\n", b"why\n", 3)


def test_why_it_is_needed() -> None:
    async def work() -> None:
        process = await gone("pass")
        with pytest.raises(RuntimeError, match="closed"):
            await process.communicate(b"x")

    uvloop.run(work())


def test_a_child_is_told_and_heard_whole() -> None:
    async def work() -> tuple[bytes, bytes]:
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        return await converse(process, b"x" * 1_000_000)

    assert uvloop.run(work()) == (b"x" * 1_000_000, b"")


def test_a_child_that_is_killed_while_it_is_told_is_no_fault() -> None:
    async def work() -> int | None:
        process = await asyncio.create_subprocess_exec("sleep", "60", stdin=PIPE, stdout=PIPE)
        telling = asyncio.create_task(converse(process, b"x" * 10_000_000))
        await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGKILL)
        assert await telling == (b"", b"")
        return process.returncode

    assert uvloop.run(work()) == -signal.SIGKILL


def test_nobody_communicates_in_another_way() -> None:
    root = Path(bridge_core.__file__).parents[2]
    folders = [root / name for name in ("agent", "cli", "core", "engine", "registry")]
    told = [
        str(path.relative_to(root))
        for folder in folders
        for path in folder.rglob("*.py")
        if re.search(r"\.communicate\([^)]", path.read_text())
    ]
    assert told == []
    assert "converse" in Path(module.__file__).read_text()
