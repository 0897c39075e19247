"""Listeners that somebody else opened: an agent takes them, and leaves their queues to the next one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge_agent.listeners import NAMES
from bridge_core.addresses import split_address
from bridge_core.http1 import Pool
from tests.cluster.agent_bed import AgentBed, AgentProcess, open_agent_bed, report_of
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
HELD = json.dumps({"model": "held", "prompt": "x"}).encode()

# What systemd does between its fork and its exec.
HAND_OVER = """
import fcntl, os, sys
# Out of the way of their places first.
handles = [fcntl.fcntl(int(handle), fcntl.F_DUPFD_CLOEXEC, 100) for handle in sys.argv[1].split(",")]
for place, handle in enumerate(handles, 3):
    os.dup2(handle, place, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(handles)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[AgentBed]:
    async with open_agent_bed(tmp_path) as bed:
        yield bed


@contextlib.contextmanager
def opened(bed: AgentBed) -> Iterator[dict[str, socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = {}
        for name in NAMES:
            address = split_address(getattr(bed.settings.listeners, name), flag=name)
            found[name] = stack.enter_context(socket.create_server(address, backlog=64))
        yield found


def start(bed: AgentBed, sockets: dict[str, socket.socket]) -> AgentProcess:
    handles = tuple(sock.fileno() for sock in sockets.values())
    launcher = (sys.executable, "-c", HAND_OVER, ",".join(map(str, handles)), ":".join(sockets))
    return bed.start(launcher=launcher, pass_fds=handles)


async def ask(bed: AgentBed) -> int:
    pool = Pool(split_address(bed.settings.listeners.http, flag="http"))
    try:
        async with pool.request("GET", b"/api/tags", (), b"") as response:
            await response.read(1 << 20)
            return response.status
    finally:
        await pool.close()


async def test_it_serves_on_the_sockets_it_was_given_and_opens_those_it_was_not(bed: AgentBed) -> None:
    with opened(bed) as sockets:
        own = sockets.pop("admin")
        own.close()
        agent = start(bed, sockets)
        await agent.ready()
        assert await ask(bed) == 200
        report = report_of((await agent.get("/status"))[1])
        assert report["listeners"]["http"] == bed.settings.listeners.http


async def test_a_restart_refuses_nobody(bed: AgentBed) -> None:
    stop = asyncio.Event()
    statuses: list[int] = []

    async def keep_asking() -> None:
        while not stop.is_set():
            statuses.append(await ask(bed))

    async def answered() -> None:
        seen = len(statuses)
        await eventually(lambda: len(statuses) > seen + 8, 60)

    with opened(bed) as sockets:
        agent = start(bed, sockets)
        await agent.ready()
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(keep_asking())
            for _ in range(2):
                await answered()
                agent.process.send_signal(signal.SIGTERM)
                assert await agent.ended(60) == 0
                agent = start(bed, sockets)
                await agent.ready()
            await answered()
            stop.set()
    assert set(statuses) == {200}


async def test_a_crash_leaves_the_queue_to_the_next_agent(bed: AgentBed) -> None:
    with opened(bed) as sockets:
        agent = start(bed, sockets)
        await agent.ready()
        agent.kill()
        waiting = asyncio.create_task(ask(bed))
        await start(bed, sockets).ready()
        assert await asyncio.wait_for(waiting, 60) == 200


async def test_who_connects_while_an_answer_is_finished_waits_for_the_next_agent(bed: AgentBed) -> None:
    with opened(bed) as sockets:
        agent = start(bed, sockets)
        await agent.ready()
        pool = Pool(split_address(bed.settings.listeners.http, flag="http"))
        async with pool.request("POST", b"/api/generate", (), HELD) as response:
            await eventually(lambda: bed.engine.running == 1, 30)
            agent.process.send_signal(signal.SIGTERM)

            async def retired() -> bool:
                # The queue has one more than the agent takes off it.
                probe = asyncio.create_task(ask(bed))
                done, _ = await asyncio.wait({probe}, timeout=0.5)
                if not done:
                    waiting.append(probe)
                return not done

            waiting: list[asyncio.Task[int]] = []
            await eventually(retired, 60)
            bed.engine.release.set()
            lines = (await response.read(1 << 20)).splitlines()
            assert json.loads(lines[-1])["done"] is True
        await pool.close()
        await agent.ended(60)
        await start(bed, sockets).ready()
        assert await asyncio.wait_for(waiting[0], 60) == 200
